"""COCO 2017 as DenseCLIP's detectors are trained on it: (1333, 800), flips, instance masks; 12 epochs of 16 images, the rate cut after 8 and 11.

An epoch is 7,330 iterations (117,266 photos with boxes). The backbone has a tenth of the rate, norms of the context decoder no weight
decay, the text tower is frozen. Paths as in coco.py.
"""
from mmengine.dataset import DefaultSampler
from mmengine.optim import LinearLR, MultiStepLR
from mmengine.runner import IterBasedTrainLoop, TestLoop, ValLoop

from ovdense.data.collate import collate_detection
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
        invalid_boxes="drop",
        with_masks=True,
        transforms=[
            dict(type=LoadImage),
            dict(type=ResizeShortestEdge, short_sides=(800,), max_size=1333),
            dict(type=RandomFlip, prob=0.5),
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
        test_mode=True,
        transforms=[dict(type=LoadImage), dict(type=ResizeShortestEdge, short_sides=(800,), max_size=1333), dict(type=PackDetection)],
    ),
)
test_dataloader = val_dataloader
val_evaluator = [dict(type=CocoMetric)]
test_evaluator = val_evaluator

rates = {"backbone": dict(lr_mult=0.1), "text_encoder": dict(lr_mult=0.0), "norm": dict(decay_mult=0.0)}
param_scheduler = [
    dict(type=LinearLR, start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type=MultiStepLR, by_epoch=False, milestones=[58640, 80630], gamma=0.1),
]
train_cfg = dict(type=IterBasedTrainLoop, max_iters=87960, val_interval=7330)
val_cfg = dict(type=ValLoop)
test_cfg = dict(type=TestLoop)
sync_bn = "torch"
find_unused_parameters = True
auto_scale_lr = dict(enable=False, base_batch_size=16)
