"""Zero-shot masks right after install, on 100 real photos with things and stuff: COCO's 133 names.

Result: 7.5 mIoU, 17.3 pixel accuracy on 100 photos, 133 classes (chance 0.2, 0.8).
Train: nothing to train
Test:  python tools/test.py configs/maskclip_panoptic_mini.py --data-root DATA
"""
from mmengine.config import read_base
from mmengine.runner import TestLoop

with read_base():
    from ._base_.default_runtime import custom_hooks, default_scope, env_cfg, log_level, log_processor, randomness, visualizer
    from ._base_.test_photos_panoptic import test_dataloader, test_evaluator

from ovdense.methods.dual_encoder import ConseDualEncoder
from ovdense.methods.maskclip import MaskClip

model = dict(type=MaskClip, encoder=dict(type=ConseDualEncoder), background_thr=None, use_synonyms=True)
test_cfg = dict(type=TestLoop)
