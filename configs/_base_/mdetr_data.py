"""MDETR's grounding data below the data root: annotations of its release in mdetr_annotations/, photos in flickr30k/, coco/, vg/.

Files of the same form come from tools/build_grounding.py. Images are not mirrored: captions speak of left and right. What is less
than a pixel wide or high after scaling is left out, which the release keeps. Import names with `read_base`.
"""
from mmengine.dataset import DefaultSampler

from ovdense.data.collate import collate_detection
from ovdense.data.grounding import GroundingDetection, MixedDataset, PhraseGroundingDetection
from ovdense.data.samplers import ResumableInfiniteSampler
from ovdense.data.size_crops import OneOf, SizeCrop
from ovdense.data.transforms import LoadImage, PackDetection, ResizeShortestEdge

SHORT_SIDES = (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)
augmented = [
    dict(type=LoadImage),
    dict(
        type=OneOf,
        choices=[
            [dict(type=ResizeShortestEdge, short_sides=SHORT_SIDES, max_size=1333)],
            [
                dict(type=ResizeShortestEdge, short_sides=(400, 500, 600), max_size=10_000),
                dict(type=SizeCrop, min_size=384, max_size=1333, keep_boxes=True),
                dict(type=ResizeShortestEdge, short_sides=SHORT_SIDES, max_size=1333),
            ],
        ],
    ),
    dict(type=PackDetection),
]
asked = [dict(type=LoadImage), dict(type=ResizeShortestEdge, short_sides=(800,), max_size=1333), dict(type=PackDetection)]

train_dataloader = dict(
    batch_size=2,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type=ResumableInfiniteSampler, shuffle=True),
    collate_fn=dict(type=collate_detection),
    dataset=dict(
        type=MixedDataset,
        datasets=[
            dict(
                type=GroundingDetection,
                dataset_name="Flickr30k Entities",
                ann_file="mdetr_annotations/final_flickr_separateGT_train.json",
                image_prefix="flickr30k/flickr30k_images",
                filter_empty=False,
                invalid_boxes="drop",
                transforms=augmented,
            ),
            dict(
                type=GroundingDetection,
                dataset_name="GoldG mixed (COCO, Visual Genome, GQA)",
                ann_file="mdetr_annotations/final_mixed_train.json",
                image_prefix=dict(coco="coco/train2014", vg="vg/images"),
                filter_empty=False,
                invalid_boxes="drop",
                transforms=augmented,
            ),
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
        dataset_name="Flickr30k Entities",
        ann_file="mdetr_annotations/final_flickr_separateGT_val.json",
        image_prefix="flickr30k/flickr30k_images",
        transforms=asked,
        invalid_boxes="drop",
    ),
)
