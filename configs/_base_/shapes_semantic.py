"""The embedded shapes as label maps: 120 classes and background, 1,000 scenes to train on and 200 to test; drawn on first use."""
from mmengine.dataset import DefaultSampler

from ovdense.data.collate import collate_detection
from ovdense.data.label_maps import LoadLabelMap
from ovdense.data.samplers import ResumableInfiniteSampler
from ovdense.data.segmentation import ShapesSegmentation
from ovdense.data.transforms import LoadImage, PackDetection, ResizeShortestEdge
from ovdense.evaluation.segmentation import SemanticMetric

train_dataloader = dict(
    batch_size=8,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type=ResumableInfiniteSampler, shuffle=True),
    collate_fn=dict(type=collate_detection),
    dataset=dict(
        type=ShapesSegmentation,
        split="train",
        transforms=[
            dict(type=LoadImage),
            dict(type=LoadLabelMap),
            dict(type=ResizeShortestEdge, short_sides=(256,), max_size=384),
            dict(type=PackDetection),
        ],
    ),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type=DefaultSampler, shuffle=False),
    collate_fn=dict(type=collate_detection),
    dataset=dict(
        type=ShapesSegmentation,
        split="val",
        test_mode=True,
        transforms=[
            dict(type=LoadImage),
            dict(type=ResizeShortestEdge, short_sides=(256,), max_size=384),
            dict(type=LoadLabelMap),
            dict(type=PackDetection),
        ],
    ),
)
test_dataloader = val_dataloader
val_evaluator = [dict(type=SemanticMetric)]
test_evaluator = val_evaluator
