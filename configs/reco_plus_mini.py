"""ReCo+ at CPU size: DeepLabV3+ on a frozen backbone that comes with pip, trained on ReCo's labels of 178 photos, tested on 37 with 21 classes.

Paper: arXiv 2206.07045, Sec. 3.5, at our scale.
Result: 13.3 mIoU, 78.8 pixel accuracy on 37 photos (ReCo: 18.2, 77.5); with background counting in full 4.0, 78.8: background everywhere.
Labels: python tools/pseudo_label.py configs/reco_mini.py --images DATA/coco_mini/train2017 --out DATA/pseudo/reco_mini --data-root DATA
Train: python tools/train.py configs/reco_plus_mini.py --data-root DATA
Test:  python tools/test.py configs/reco_plus_mini.py work_dirs/reco_plus_mini --data-root DATA
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
    from ._base_.test_photos_voc import test_dataloader, test_evaluator

model.classes = "voc21"
train_dataloader.dataset.classes = "voc21"
train_dataloader.dataset.label_prefix = "pseudo/reco_mini"
val_dataloader = test_dataloader
val_evaluator = test_evaluator
val_cfg = dict(type=ValLoop)
test_cfg = dict(type=TestLoop)
