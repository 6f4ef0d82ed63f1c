"""ReCo+ on COCO-Stuff-27 (32.6 mIoU, 54.1 pixel accuracy by the release): DeepLabV3+, ResNet-101, output stride 8, trained on ReCo's labels as released.

Paper: arXiv 2206.07045, Sec. 3.5; what differs: configs/_base_/reco_plus_published.py, and the photos (the release: the 9,000 of COCO-Stuff 10k's train).
Labels: python tools/pseudo_label.py configs/reco_coco_stuff.py --images DATA/coco/train2017 --out DATA/pseudo/reco_coco_stuff
        --cfg-options WEIGHTS model.inference.crf=True (ReCo's weights, see there); best of 171 names, merged to 27 when they are read
Train: python tools/train.py configs/reco_plus_coco_stuff.py --data-root DATA --cfg-options model.backbone.weights=resnet101.pth
Test:  python tools/test.py configs/reco_plus_coco_stuff.py work_dirs/reco_plus_coco_stuff --data-root DATA
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
    from ._base_.test_coco_stuff27 import test_dataloader

from ovdense.data.segmentation import FolderSegmentation
from ovdense.evaluation.segmentation import SemanticMetric

model.classes = "coco_stuff27"
train_dataloader.dataset = dict(
    type=FolderSegmentation,
    dataset_name="COCO-Stuff with pseudo-labels",
    image_prefix="coco/train2017",
    label_prefix="pseudo/reco_coco_stuff",
    image_suffix=".jpg",
    label_suffix=".png",
    classes="coco_stuff171_to_27",
    labelled_only=True,
    transforms=squares,
)
test_dataloader.dataset.classes = "coco_stuff27_png"
test_evaluator = [dict(type=SemanticMetric)]
val_dataloader = test_dataloader
val_evaluator = test_evaluator
