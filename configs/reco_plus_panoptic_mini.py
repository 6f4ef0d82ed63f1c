"""ReCo+ at CPU size: DeepLabV3+ on a frozen backbone that comes with pip, trained on ReCo's labels of 50 photos, tested on 100 others with 133 classes.

Paper: arXiv 2206.07045, Sec. 3.5, at our scale.
Result: 0.9 mIoU, 6.5 pixel accuracy on 100 photos, 133 classes (ReCo: 7.4, 16.5): fifty photos whose labels are mostly wrong teach little.
Labels: python tools/pseudo_label.py configs/reco_panoptic_mini.py --images DATA/coco_mini/val2017 --out DATA/pseudo/reco_panoptic_mini --data-root DATA
Train: python tools/train.py configs/reco_plus_panoptic_mini.py --data-root DATA
Test:  python tools/test.py configs/reco_plus_panoptic_mini.py work_dirs/reco_plus_panoptic_mini --data-root DATA
(labels elsewhere: --cfg-options train_dataloader.dataset.label_prefix=/absolute/folder)
"""
from mmengine.config import read_base
from mmengine.runner import TestLoop, ValLoop

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
    from ._base_.reco_plus_photos import model, optim_wrapper, param_scheduler, train_cfg, train_dataloader
    from ._base_.test_photos_panoptic import test_dataloader, test_evaluator

model.classes = "coco_panoptic133"
train_dataloader.dataset.classes = "coco_panoptic133"
train_dataloader.dataset.label_prefix = "pseudo/reco_panoptic_mini"
train_dataloader.dataset.image_prefix = "coco_mini/val2017"
val_dataloader = test_dataloader
val_evaluator = test_evaluator
val_cfg = dict(type=ValLoop)
test_cfg = dict(type=TestLoop)
