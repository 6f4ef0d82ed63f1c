"""Zero-shot masks right after install: the dual encoder that comes with pip against class names, on Pascal VOC; nothing is trained or downloaded.

Paper: arXiv 2112.01071 (MaskCLIP), with a dense ConSE encoder (arXiv 1312.5650) instead of CLIP.
Train: nothing to train
Test:  python tools/test.py configs/maskclip_voc.py --data-root DATA
Demo:  python demo/image_demo.py photo.jpg --config configs/maskclip_voc.py --texts "cat. sofa"
"""
from mmengine.config import read_base
from mmengine.runner import TestLoop

with read_base():
    from ._base_.default_runtime import custom_hooks, default_scope, env_cfg, log_level, log_processor, randomness, visualizer
    from ._base_.test_voc import test_dataloader, test_evaluator

from ovdense.methods.dual_encoder import ConseDualEncoder
from ovdense.methods.maskclip import MaskClip

model = dict(type=MaskClip, encoder=dict(type=ConseDualEncoder), background_thr=0.75, use_synonyms=True)
test_cfg = dict(type=TestLoop)
