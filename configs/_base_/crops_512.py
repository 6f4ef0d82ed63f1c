"""Label maps: trained by 512-pixel crops, tested on whole images. The data sets are lacking; `crops` and `whole` are their transforms."""
from mmengine.dataset import DefaultSampler

from ovdense.data.collate import collate_detection
from ovdense.data.label_maps import CropPatch, LoadLabelMap, PhotometricDistortion, RandomScale
from ovdense.data.samplers import ResumableInfiniteSampler
from ovdense.data.transforms import LoadImage, PackDetection, RandomFlip, ResizeShortestEdge
from ovdense.evaluation.segmentation import SemanticMetric

crops = [
    dict(type=LoadImage),
    dict(type=LoadLabelMap),
    dict(type=RandomScale, scale=(2048, 512), ratio_range=(0.5, 2.0)),
    dict(type=CropPatch, size_hw=(512, 512), max_share=0.75),
    dict(type=RandomFlip, prob=0.5),
    dict(type=PhotometricDistortion),
    dict(type=PackDetection),
]
whole = [
    dict(type=LoadImage),
    dict(type=ResizeShortestEdge, short_sides=(512,), max_size=2048),
    dict(type=LoadLabelMap),
    dict(type=PackDetection),
]
train_dataloader = dict(
    batch_size=4,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type=ResumableInfiniteSampler, shuffle=True),
    collate_fn=dict(type=collate_detection),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type=DefaultSampler, shuffle=False),
    collate_fn=dict(type=collate_detection),
)
val_evaluator = [dict(type=SemanticMetric)]
test_evaluator = val_evaluator
