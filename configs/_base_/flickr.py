"""Flickr30k Entities below the data root: photos in flickr30k/flickr30k_images/, MDETR's final_flickr_separateGT_*.json in mdetr_annotations/.

The training file is that with DesCo's descriptions (final_flickr_separateGT_train_gpt.0425.json of its release), with desco/noun_descriptions.json,
the nouns' descriptions and counts; Flickr30k Entities' own Sentences/ and Annotations/ are in flickr30k/flickr30k_entities/.
"""
from mmengine.dataset import DefaultSampler

from ovdense.data.collate import collate_detection
from ovdense.data.grounding import GroundingDetection, PhraseGroundingDetection
from ovdense.data.grounding_queries import GroundingQueries
from ovdense.data.samplers import ResumableInfiniteSampler
from ovdense.data.transforms import LoadImage, PackDetection, RandomFlip, ResizeShortestEdge
from ovdense.evaluation.grounding import PhraseGroundingMetric

train_dataloader = dict(
    batch_size=2,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type=ResumableInfiniteSampler, shuffle=True),
    collate_fn=dict(type=collate_detection),
    dataset=dict(
        type=GroundingDetection,
        dataset_name="Flickr30k Entities",
        ann_file="mdetr_annotations/final_flickr_separateGT_train_gpt.0425.json",
        image_prefix="flickr30k/flickr30k_images",
        transforms=[
            dict(type=LoadImage),
            dict(type=GroundingQueries, nouns="desco/noun_descriptions.json"),
            dict(type=RandomFlip, prob=0.5),
            dict(type=ResizeShortestEdge, short_sides=(480, 560, 640, 720, 800), max_size=1333),
            dict(type=PackDetection),
        ],
    ),
)
test_dataloader = dict(
    batch_size=1,  # each image is asked its own caption
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type=DefaultSampler, shuffle=False),
    collate_fn=dict(type=collate_detection),
    dataset=dict(
        type=PhraseGroundingDetection,
        ann_file="mdetr_annotations/final_flickr_separateGT_test.json",
        image_prefix="flickr30k/flickr30k_images",
        transforms=[dict(type=LoadImage), dict(type=ResizeShortestEdge, short_sides=(800,), max_size=1333), dict(type=PackDetection)],
        invalid_boxes="drop",
    ),
)
test_evaluator = [dict(type=PhraseGroundingMetric, entities="flickr30k/flickr30k_entities")]
