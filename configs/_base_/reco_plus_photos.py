"""ReCo+ at CPU size, all but its classes and labels: DeepLabV3+ on a frozen backbone that comes with pip, on photos with pseudo-labels.

A config sets `classes` of model and data, and the data's `label_prefix`. Import names with `read_base`.
"""
from mmengine.optim import CosineAnnealingLR, LinearLR, OptimWrapper
from mmengine.runner import IterBasedTrainLoop
from torch.optim import AdamW

from ovdense.data.collate import collate_detection
from ovdense.data.label_maps import CropPatch, LoadLabelMap
from ovdense.data.samplers import ResumableInfiniteSampler
from ovdense.data.segmentation import FolderSegmentation
from ovdense.data.transforms import LoadImage, PackDetection, RandomFlip, ResizeShortestEdge
from ovdense.methods.reco.plus import RecoPlus
from ovdense.vision.backbones import TimmBackbone
from ovdense.vision.memory import RememberingBackbone

model = dict(
    type=RecoPlus,
    backbone=dict(
        type=RememberingBackbone,
        backbone=dict(type=TimmBackbone, name="tf_efficientnet_lite0", out_strides=(8, 32), weights="embedded", frozen_stages=4),
    ),
    channels=128,
    low_channels=32,
    dilations=(1, 2, 4),
    background_weight=0.1,
    loss_step=4,
)
train_dataloader = dict(
    batch_size=8,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type=ResumableInfiniteSampler, shuffle=True),
    collate_fn=dict(type=collate_detection),
    dataset=dict(
        type=FolderSegmentation,
        dataset_name="photos with pseudo-labels",
        image_prefix="coco_mini/train2017",
        # a frozen backbone that remembers an image by its pixels: nothing random but a flip
        transforms=[
            dict(type=LoadImage),
            dict(type=LoadLabelMap),
            dict(type=ResizeShortestEdge, short_sides=(320,), max_size=320),
            dict(type=CropPatch, size_hw=(320, 320)),
            dict(type=RandomFlip, prob=0.5),
            dict(type=PackDetection),
        ],
    ),
)
optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=AdamW, lr=1e-3, weight_decay=1e-4), clip_grad=dict(max_norm=1.0))
param_scheduler = [
    dict(type=LinearLR, start_factor=0.02, by_epoch=False, begin=0, end=20),
    dict(type=CosineAnnealingLR, by_epoch=False, begin=20, end=300, T_max=280, eta_min=1e-5),
]
train_cfg = dict(type=IterBasedTrainLoop, max_iters=300, val_interval=300)
