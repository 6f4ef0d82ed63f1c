"""ReCo+ on COCO-Stuff-27 (32.6 mIoU, 54.1 pixel accuracy by the release): DeepLabV3+, ResNet-101, output stride 8, trained on ReCo's labels as released.

Paper: arXiv 2206.07045, Sec. 3.5. Differs: padding has ImageNet's mean colour, not the image's.
Labels: python tools/pseudo_label.py configs/reco_coco_stuff.py --images DATA/coco/train2017 --out DATA/pseudo/reco_coco_stuff
        (with ReCo's weights in that config, and model.inference.crf="{}" there, as released)
Train: python tools/train.py configs/reco_plus_coco_stuff.py --data-root DATA --cfg-options model.backbone.weights=resnet101.pth
Test:  python tools/test.py configs/reco_plus_coco_stuff.py work_dirs/reco_plus_coco_stuff --data-root DATA
"""
from mmengine.config import read_base
from mmengine.optim import OptimWrapper, PolyLR
from mmengine.runner import IterBasedTrainLoop, TestLoop, ValLoop
from torch.optim import Adam

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
    from ._base_.test_coco_stuff27 import test_dataloader, test_evaluator

from ovdense.data.center_crop import CenterSquare
from ovdense.data.collate import collate_detection
from ovdense.data.label_maps import CropPatch, LoadLabelMap, RandomScale
from ovdense.data.samplers import ResumableInfiniteSampler
from ovdense.data.segmentation import FolderSegmentation
from ovdense.data.strong_colours import StrongColours
from ovdense.data.transforms import LoadImage, PackDetection, RandomFlip
from ovdense.methods.reco.plus import DilatedResNet, RecoPlus

model = dict(type=RecoPlus, backbone=dict(type=DilatedResNet, depth=101, weights=None), classes="coco_stuff171")
train_dataloader = dict(
    batch_size=8,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type=ResumableInfiniteSampler, shuffle=True),
    collate_fn=dict(type=collate_detection),
    dataset=dict(
        type=FolderSegmentation,
        dataset_name="COCO-Stuff with pseudo-labels",
        image_prefix="coco/train2017",
        label_prefix="pseudo/reco_coco_stuff",
        image_suffix=".jpg",
        label_suffix=".png",
        classes="coco_stuff171",
        labelled_only=True,
        transforms=[
            dict(type=LoadImage),
            dict(type=LoadLabelMap),
            dict(type=CenterSquare, size=320, interpolation="nearest"),
            dict(type=RandomScale, scale=(320, 320), ratio_range=(0.5, 2.0)),
            dict(type=CropPatch, size_hw=(320, 320)),
            dict(type=RandomFlip, prob=0.5),
            dict(type=StrongColours),
            dict(type=PackDetection),
        ],
    ),
)
val_dataloader = test_dataloader
val_evaluator = test_evaluator
optim_wrapper = dict(
    type=OptimWrapper,
    optimizer=dict(type=Adam, lr=5e-4, betas=(0.9, 0.999), weight_decay=2e-4),
    paramwise_cfg=dict(custom_keys={"backbone": dict(lr_mult=0.1)}),
)
param_scheduler = [dict(type=PolyLR, power=0.9, eta_min=1e-6, by_epoch=False, begin=0, end=20000)]
train_cfg = dict(type=IterBasedTrainLoop, max_iters=20000, val_interval=1000)
val_cfg = dict(type=ValLoop)
test_cfg = dict(type=TestLoop)
