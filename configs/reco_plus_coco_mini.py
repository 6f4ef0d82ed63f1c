"""ReCo+ at CPU size: DeepLabV3+ on a frozen backbone that comes with pip, trained on ReCo's labels of 178 photos, tested on 50 with 81 classes.

Paper: arXiv 2206.07045, Sec. 3.5, at our scale.
Result: 4.9 mIoU, 77.3 pixel accuracy on 50 photos, 81 classes (ReCo: 9.5, 72.7).
Labels: python tools/pseudo_label.py configs/reco_coco_mini.py --images DATA/coco_mini/train2017 --out DATA/pseudo/reco_coco_mini --data-root DATA
Train: python tools/train.py configs/reco_plus_coco_mini.py --data-root DATA
Test:  python tools/test.py configs/reco_plus_coco_mini.py work_dirs/reco_plus_coco_mini --data-root DATA
(labels elsewhere: --cfg-options train_dataloader.dataset.label_prefix=/absolute/folder)
"""
from mmengine.config import read_base
from mmengine.optim import CosineAnnealingLR, LinearLR, OptimWrapper
from mmengine.runner import IterBasedTrainLoop, TestLoop, ValLoop
from torch.optim import AdamW

with read_base():
    from ._base_.default_runtime import (
        custom_hooks,
        default_hooks,
        default_scope,
        env_cfg,
        load_from,
        log_level,
        log_processor,
        randomness,
        resume,
        visualizer,
    )
    from ._base_.test_photos_coco import test_dataloader, test_evaluator

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
    classes="coco_object81",
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
        label_prefix="pseudo/reco_coco_mini",
        classes="coco_object81",
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
val_dataloader = test_dataloader
val_evaluator = test_evaluator
optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=AdamW, lr=1e-3, weight_decay=1e-4), clip_grad=dict(max_norm=1.0))
param_scheduler = [
    dict(type=LinearLR, start_factor=0.02, by_epoch=False, begin=0, end=20),
    dict(type=CosineAnnealingLR, by_epoch=False, begin=20, end=300, T_max=280, eta_min=1e-5),
]
train_cfg = dict(type=IterBasedTrainLoop, max_iters=300, val_interval=300)
val_cfg = dict(type=ValLoop)
test_cfg = dict(type=TestLoop)
