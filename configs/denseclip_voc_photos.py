"""DenseCLIP in its open form on 137 photos in Pascal VOC's form, at CPU size: embedded weights, any names at test time.

Paper: arXiv 2112.01518, at our scale. A frozen EfficientNet-Lite0 with the score maps of the embedded dual encoder; the pyramid, the
head and a background vector are trained. Data: voc_mini/ below the data root.
Train: python tools/train.py configs/denseclip_voc_photos.py --data-root DATA
Test:  python tools/test.py configs/denseclip_voc_photos.py work_dirs/denseclip_voc_photos --data-root DATA --show-dir overlays
Result, 37 photos, seeds 0, 1, 2: mIoU 18.8, 18.0, 22.1; the same network without language (fpn_voc_photos.py) 6.6, 6.7, 6.3.
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
