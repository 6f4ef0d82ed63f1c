"""COCO 2017 below the data root: annotations/instances_{train,val}2017.json, train2017/, val2017/; asked by names."""
from mmengine.dataset import DefaultSampler

from ovdense.data.collate import collate_detection
from ovdense.data.description_queries import DescriptionQueries
from ovdense.data.detection import CocoDetection
from ovdense.data.samplers import ResumableInfiniteSampler
from ovdense.data.transforms import LoadImage, PackDetection, RandomFlip, ResizeShortestEdge
from ovdense.evaluation.detection import CocoMetric

train_dataloader = dict(
    batch_size=2,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type=ResumableInfiniteSampler, shuffle=True),
    collate_fn=dict(type=collate_detection),
    dataset=dict(
        type=CocoDetection,
        ann_file="annotations/instances_train2017.json",
        image_prefix="train2017",
        transforms=[
            dict(type=LoadImage),
            dict(type=DescriptionQueries, prob_descriptions=0.0),
            dict(type=RandomFlip, prob=0.5),
            dict(type=ResizeShortestEdge, short_sides=(480, 560, 640, 720, 800), max_size=1333),
            dict(type=PackDetection),
        ],
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type=DefaultSampler, shuffle=False),
    collate_fn=dict(type=collate_detection),
    dataset=dict(
        type=CocoDetection,
        ann_file="annotations/instances_val2017.json",
        image_prefix="val2017",
        prompt="names",
        test_mode=True,
        transforms=[dict(type=LoadImage), dict(type=ResizeShortestEdge, short_sides=(800,), max_size=1333), dict(type=PackDetection)],
    ),
)
test_dataloader = val_dataloader
val_evaluator = [dict(type=CocoMetric)]
test_evaluator = val_evaluator
