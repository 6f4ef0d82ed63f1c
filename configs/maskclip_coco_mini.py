"""Zero-shot masks right after install, on the small set of real photos in COCO's form: 80 names and background.

Result: 8.5 mIoU, 66.5 pixel accuracy on 50 photos, 81 classes.
Train: nothing to train
Test:  python tools/test.py configs/maskclip_coco_mini.py --data-root DATA
"""
from mmengine.config import read_base
from mmengine.runner import TestLoop

with read_base():
    from ._base_.default_runtime import custom_hooks, default_scope, env_cfg, log_level, log_processor, randomness, visualizer
    from ._base_.test_photos_coco import test_dataloader, test_evaluator

from ovdense.methods.dual_encoder import ConseDualEncoder
from ovdense.methods.maskclip import MaskClip

model = dict(type=MaskClip, encoder=dict(type=ConseDualEncoder), background_thr=0.75, use_synonyms=True)
test_cfg = dict(type=TestLoop)
