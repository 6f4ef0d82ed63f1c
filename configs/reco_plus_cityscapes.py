"""ReCo+ on Cityscapes-27 (24.2 mIoU, 83.7 pixel accuracy by the release): DeepLabV3+, ResNet-101, output stride 8, trained on ReCo's labels as released.

Paper: arXiv 2206.07045, Sec. 3.5; what differs: configs/_base_/reco_plus_published.py.
Labels: python tools/pseudo_label.py configs/reco_cityscapes.py --images DATA/cityscapes/leftImg8bit/train --out DATA/pseudo/reco_cityscapes
        --cfg-options WEIGHTS model.inference.crf=True (ReCo's weights, see there)
Train: python tools/train.py configs/reco_plus_cityscapes.py --data-root DATA --cfg-options model.backbone.weights=resnet101.pth
Test:  python tools/test.py configs/reco_plus_cityscapes.py work_dirs/reco_plus_cityscapes --data-root DATA
"""
from mmengine.config import read_base

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
    from ._base_.reco_plus_published import model, optim_wrapper, param_scheduler, squares, test_cfg, train_cfg, train_dataloader, val_cfg
    from ._base_.test_cityscapes27 import test_dataloader, test_evaluator

from ovdense.data.segmentation import FolderSegmentation

model.classes = "cityscapes27"
train_dataloader.dataset = dict(
    type=FolderSegmentation,
    dataset_name="Cityscapes with pseudo-labels",
    image_prefix="cityscapes/leftImg8bit/train",
    label_prefix="pseudo/reco_cityscapes",
    image_suffix="_leftImg8bit.png",
    label_suffix="_leftImg8bit.png",
    classes="cityscapes27",
    labelled_only=True,
    transforms=squares,
)
val_dataloader = test_dataloader
val_evaluator = test_evaluator
