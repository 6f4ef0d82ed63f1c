"""DenseCLIP in its published form on 137 photos in Pascal VOC's form, at CPU size: embedded weights, its 21 classes only.

Paper: arXiv 2112.01518, at our scale. A frozen EfficientNet-Lite0 with the score maps of the embedded dual encoder; the pyramid, the
head and a background vector are trained. Data: voc_mini/ below the data root.
Train: python tools/train.py configs/denseclip_closed_voc_photos.py --data-root DATA
Test:  python tools/test.py configs/denseclip_closed_voc_photos.py work_dirs/denseclip_closed_voc_photos --data-root DATA --show-dir overlays
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
    from ._base_.denseclip_photos import auto_scale_lr, model, optim_wrapper, param_scheduler, test_cfg, train_cfg, val_cfg
    from ._base_.photos_voc import test_dataloader, test_evaluator, train_dataloader, val_dataloader, val_evaluator

from ovdense.methods.denseclip.decoders import SemanticFpn

model.decoder = dict(
    type=SemanticFpn,
    num_classes=21,
    in_channels=(112, 320),
    strides=(16, 32),
    score_stride=16,
    channels=64,
    head_channels=64,
    label_step=8,
)
