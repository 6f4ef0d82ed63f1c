"""The network of denseclip_shapes_mini.py without language on the same scenes: what the text is compared with.

Paper: arXiv 2112.01518, at our scale. A frozen EfficientNet-Lite0; the pyramid and the head are trained.
Train: python tools/train.py configs/fpn_shapes_mini.py
Test:  python tools/test.py configs/fpn_shapes_mini.py work_dirs/fpn_shapes_mini --show-dir overlays
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
    from ._base_.denseclip_photos import auto_scale_lr, optim_wrapper, param_scheduler, test_cfg, train_cfg, val_cfg
    from ._base_.shapes_semantic import test_dataloader, test_evaluator, train_dataloader, val_dataloader, val_evaluator

from ovdense.methods.denseclip.decoders import SemanticFpn
from ovdense.methods.denseclip.model import DenseClip
from ovdense.vision.backbones import TimmBackbone
from ovdense.vision.memory import RememberingBackbone

model = dict(
    type=DenseClip,
    backbone=dict(
        type=RememberingBackbone,
        on_disk=True,
        backbone=dict(type=TimmBackbone, name="tf_efficientnet_lite0", out_strides=(8, 16, 32), weights="embedded", frozen_stages=4),
    ),
    decoder=dict(
        type=SemanticFpn,
        num_classes=121,
        in_channels=(40, 112, 320),
        strides=(8, 16, 32),
        score_stride=None,
        channels=48,
        head_channels=48,
        label_step=8,
    ),
)
