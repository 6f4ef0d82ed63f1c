"""The network of denseclip_voc_photos.py without language on the same photos: what the text is compared with.

Paper: arXiv 2112.01518, at our scale. A frozen EfficientNet-Lite0; the pyramid and the head are trained. Data: voc_mini/ below the data root.
Train: python tools/train.py configs/fpn_voc_photos.py --data-root DATA
Test:  python tools/test.py configs/fpn_voc_photos.py work_dirs/fpn_voc_photos --data-root DATA --show-dir overlays
Result, 37 photos, seeds 0, 1, 2: mIoU 6.6, 6.7, 6.3.
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
    from ._base_.photos_voc import test_dataloader, test_evaluator, train_dataloader, val_dataloader, val_evaluator

from ovdense.methods.denseclip.decoders import SemanticFpn
from ovdense.methods.denseclip.model import DenseClip
from ovdense.vision.backbones import TimmBackbone
from ovdense.vision.memory import RememberingBackbone

model = dict(
    type=DenseClip,
    backbone=dict(
        type=RememberingBackbone,
        on_disk=True,
        backbone=dict(type=TimmBackbone, name="tf_efficientnet_lite0", out_strides=(16, 32), weights="embedded", frozen_stages=4),
    ),
    decoder=dict(
        type=SemanticFpn,
        num_classes=21,
        in_channels=(112, 320),
        strides=(16, 32),
        score_stride=None,
        channels=64,
        head_channels=64,
        label_step=8,
    ),
)
