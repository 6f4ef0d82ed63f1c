"""ReCo on 50 photos in COCO's form, 80 names and background, from weights that come with pip; the archive is 178 photos.

Paper: arXiv 2206.07045, at our scale. Nothing is trained or downloaded.
Result: 9.5 mIoU, 72.7 pixel accuracy on 50 photos, 81 classes (its dense encoder alone: 8.5, 66.5).
Train: nothing to train
Test:  python tools/test.py configs/reco_coco_mini.py --data-root DATA
"""
from mmengine.config import read_base
from mmengine.runner import TestLoop

with read_base():
    from ._base_.default_runtime import custom_hooks, default_scope, env_cfg, log_level, log_processor, randomness, visualizer
    from ._base_.reco_photos import model
    from ._base_.test_photos_coco import test_dataloader, test_evaluator

test_cfg = dict(type=TestLoop)
