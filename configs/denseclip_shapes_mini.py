"""DenseCLIP on the embedded shapes (label maps), at CPU size: a frozen EfficientNet-Lite0 with a learned attention pool, any names at test time.

Paper: arXiv 2112.01518, Sec. 3.4 (any backbone), at our scale, in the open form. The 120 classes are asked by their descriptions.
Train: python tools/train.py configs/denseclip_shapes_mini.py
Test:  python tools/test.py configs/denseclip_shapes_mini.py work_dirs/denseclip_shapes_mini --show-dir overlays
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

from ovdense.methods.denseclip.backbones import PooledBackbone
from ovdense.methods.denseclip.model import DenseClip
from ovdense.methods.denseclip.open_decoder import OpenSemanticFpn
from ovdense.text.encoders import BertTextEncoder
from ovdense.vision.backbones import TimmBackbone
from ovdense.vision.memory import RememberingBackbone

model = dict(
    type=DenseClip,
    backbone=dict(
        type=PooledBackbone,
        backbone=dict(
            type=RememberingBackbone,
            on_disk=True,
            backbone=dict(type=TimmBackbone, name="tf_efficientnet_lite0", out_strides=(8, 16, 32), weights="embedded", frozen_stages=4),
        ),
        embed_width=384,
        heads=8,
        table_size=8,
    ),
    text_encoder=dict(type=BertTextEncoder, weights="embedded", frozen=True),
    pixel_text=dict(prompting="post", num_contexts=0, learn_background=True, decoder=dict(width=128, heads=4, num_layers=1)),
    decoder=dict(
        type=OpenSemanticFpn,
        in_channels=(40, 112, 320),
        strides=(8, 16, 32),
        score_stride=32,
        embed_width=384,
        channels=48,
        head_channels=48,
        refine_channels=0,
        label_step=8,
    ),
)
