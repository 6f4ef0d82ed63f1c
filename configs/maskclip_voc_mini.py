"""Zero-shot masks right after install, on the small set of real photos in Pascal VOC's form.

Result: 17.6 mIoU, 72.2 pixel accuracy on 37 photos, 21 classes, with a background threshold of 0.75.
Train: nothing to train
Test:  python tools/test.py configs/maskclip_voc_mini.py --data-root DATA
"""
from mmengine.config import read_base
from mmengine.runner import TestLoop

with read_base():
    from ._base_.default_runtime import custom_hooks, default_scope, env_cfg, log_level, log_processor, randomness, visualizer
    from ._base_.test_photos_voc import test_dataloader, test_evaluator

from ovdense.methods.dual_encoder import ConseDualEncoder
from ovdense.methods.maskclip import MaskClip

model = dict(type=MaskClip, encoder=dict(type=ConseDualEncoder), background_thr=0.75, use_synonyms=True)
test_cfg = dict(type=TestLoop)
