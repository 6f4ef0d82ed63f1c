"""ADE20K (SceneParse150): ade/ADEChallengeData2016/{images,annotations}/{training,validation} below the data root; 640-pixel crops."""
from mmengine.config import read_base

with read_base():
    from .ade20k import test_evaluator, train_dataloader, val_dataloader, val_evaluator

from ovdense.data.label_maps import CropPatch, LoadLabelMap, PhotometricDistortion, RandomScale
from ovdense.data.transforms import LoadImage, PackDetection, RandomFlip, ResizeShortestEdge

train_dataloader.dataset.transforms = [
    dict(type=LoadImage),
    dict(type=LoadLabelMap),
    dict(type=RandomScale, scale=(2048, 640), ratio_range=(0.5, 2.0)),
    dict(type=CropPatch, size_hw=(640, 640), max_share=0.75),
    dict(type=RandomFlip, prob=0.5),
    dict(type=PhotometricDistortion),
    dict(type=PackDetection),
]
val_dataloader.dataset.transforms = [
    dict(type=LoadImage),
    dict(type=ResizeShortestEdge, short_sides=(640,), max_size=2048),
    dict(type=LoadLabelMap),
    dict(type=PackDetection),
]
test_dataloader = val_dataloader
