"""The published training mixture below the data root: GoldG's mixed part twice, Flickr30k Entities twice, Objects365 v1 once a pass.

objects365/annotations/objects365_train.json (COCO form) with objects365/train/ and objects365/descriptions.json;
mdetr_annotations/final_mixed_train.json with coco/train2014/ and gqa/images/; mdetr_annotations/final_flickr_separateGT_train.json with
flickr30k/flickr30k_images/; desco/noun_descriptions.json, the nouns' descriptions and counts.
"""
from ovdense.data.collate import collate_detection
from ovdense.data.description_queries import DescriptionQueries
from ovdense.data.detection import CocoDetection
from ovdense.data.grounding import GroundingDetection, MixedDataset
from ovdense.data.grounding_queries import GroundingQueries
from ovdense.data.samplers import ResumableInfiniteSampler
from ovdense.data.transforms import LoadImage, PackDetection, RandomFlip, ResizeShortestEdge

ending = [
    dict(type=RandomFlip, prob=0.5),
    dict(type=ResizeShortestEdge, short_sides=(480, 560, 640, 720, 800), max_size=1333),
    dict(type=PackDetection),
]
grounding = [dict(type=LoadImage), dict(type=GroundingQueries, nouns="desco/noun_descriptions.json"), *ending]
train_dataloader = dict(
    batch_size=2,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type=ResumableInfiniteSampler, shuffle=True),
    collate_fn=dict(type=collate_detection),
    dataset=dict(
        type=MixedDataset,
        repeats=(2, 2, 1),
        datasets=[
            dict(
                type=GroundingDetection,
                dataset_name="GoldG",
                ann_file="mdetr_annotations/final_mixed_train.json",
                image_prefix={"coco": "coco/train2014", "vg": "gqa/images"},
                transforms=grounding,
            ),
            dict(
                type=GroundingDetection,
                dataset_name="Flickr30k Entities",
                ann_file="mdetr_annotations/final_flickr_separateGT_train.json",
                image_prefix="flickr30k/flickr30k_images",
                transforms=grounding,
            ),
            dict(
                type=CocoDetection,
                ann_file="objects365/annotations/objects365_train.json",
                image_prefix="objects365/train",
                description_file="objects365/descriptions.json",
                transforms=[dict(type=LoadImage), dict(type=DescriptionQueries, prob_descriptions=0.7, num_pieces=8, name_prob=0.5), *ending],
            ),
        ],
    ),
)
