"""COCO's captions below the data root: coco_mini/annotations/{captions,instances}_train2017.json and the photos beside them."""
from mmengine.dataset import DefaultSampler

from ovdense.data.coco_captions import CocoCaptionGrounding, CocoCaptionPhrases
from ovdense.data.collate import collate_detection
from ovdense.data.samplers import ResumableInfiniteSampler
from ovdense.data.transforms import LoadImage, PackDetection, RandomFlip, ResizeShortestEdge
from ovdense.evaluation.grounding import PhraseGroundingMetric

train_dataloader = dict(
    batch_size=4,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type=ResumableInfiniteSampler, shuffle=True),
    collate_fn=dict(type=collate_detection),
    dataset=dict(
        type=CocoCaptionGrounding,
        captions_file="coco_mini/annotations/captions_train2017.json",
        instances_file="coco_mini/annotations/instances_train2017.json",
        image_prefix="coco_mini/train2017",
        transforms=[
            dict(type=LoadImage),
            dict(type=RandomFlip, prob=0.5, swap_sides=True),
            dict(type=ResizeShortestEdge, short_sides=(320,), max_size=512),
            dict(type=PackDetection),
        ],
    ),
)
test_dataloader = dict(
    batch_size=1,  # each image is asked its own caption
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type=DefaultSampler, shuffle=False),
    collate_fn=dict(type=collate_detection),
    dataset=dict(
        type=CocoCaptionPhrases,
        captions_file="coco_mini/annotations/captions_train2017.json",
        instances_file="coco_mini/annotations/instances_train2017.json",
        image_prefix="coco_mini/train2017",
        transforms=[dict(type=LoadImage), dict(type=ResizeShortestEdge, short_sides=(320,), max_size=512), dict(type=PackDetection)],
    ),
)
test_evaluator = [dict(type=PhraseGroundingMetric)]
