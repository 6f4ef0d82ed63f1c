"""ReCo on 100 photos with things and stuff, COCO's 133 names, from weights that come with pip; the archive is 50 other photos.

Paper: arXiv 2206.07045, at our scale. Nothing is trained or downloaded.
Result: 7.4 mIoU, 16.5 pixel accuracy on 100 photos, 133 classes (its dense encoder alone: 7.5, 17.3).
Train: nothing to train
Test:  python tools/test.py configs/reco_panoptic_mini.py --data-root DATA
"""
from mmengine.config import read_base
from mmengine.runner import TestLoop

with read_base():
    from ._base_.default_runtime import custom_hooks, default_scope, env_cfg, log_level, log_processor, randomness, visualizer
    from ._base_.reco_photos import model
    from ._base_.test_photos_panoptic import test_dataloader, test_evaluator

model.retrieval.archive = "coco_mini/val2017"
model.inference.background_thr = None
test_cfg = dict(type=TestLoop)
