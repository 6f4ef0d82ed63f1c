"""MaskCLIP: CLIP ViT-B/16's value path against class names, on Pascal VOC; the background is asked by name. Nothing is trained.

Paper: arXiv 2112.01071, Sec. 3.2. Templates and normalisation (ImageNet's) are the release's. Differs from it: 21 classes under VOC's own names, there
20 ("dining table") without background; QuickGELU and the norms' epsilon are those of CLIP's training, there GELU and 1e-6.
Train: nothing to train
Test:  python tools/test.py configs/maskclip_vitb16_voc.py --data-root DATA --cfg-options model.encoder.pretrained=ViT-B-16.pt
"""
from mmengine.config import read_base
from mmengine.runner import TestLoop

with read_base():
    from ._base_.default_runtime import custom_hooks, default_scope, env_cfg, log_level, log_processor, randomness, visualizer
    from ._base_.test_voc import test_dataloader, test_evaluator

from ovdense.methods.dual_encoder import ClipDualEncoder
from ovdense.methods.maskclip import MaskClip

model = dict(
    type=MaskClip,
    encoder=dict(
        type=ClipDualEncoder, model_name="ViT-B-16-quickgelu", pretrained=None, templates="imagenet_scene", mean=(123.675, 116.28, 103.53),
        std=(58.395, 57.12, 57.375),
    ),
    image_weight=0.0,
)
test_cfg = dict(type=TestLoop)
