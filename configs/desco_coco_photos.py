"""DesCo on a small set of real photos in COCO form, at CPU size, from embedded weights; asked by names.

Data: coco_mini/ below the data root (a subset of COCO 2017 in its own form).
Train: python tools/train.py configs/desco_coco_photos.py --data-root DATA
Test:  python tools/test.py configs/desco_coco_photos.py work_dirs/desco_coco_photos --data-root DATA
"""
from mmengine.config import read_base
from mmengine.optim import CosineAnnealingLR, LinearLR
from mmengine.runner import IterBasedTrainLoop

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
    from ._base_.desco_mini import model, optim_wrapper, test_cfg, val_cfg
    from ._base_.photos_coco import test_dataloader, test_evaluator, train_dataloader, val_dataloader, val_evaluator

model.test = dict(max_classes=20, chunk_batch=1, score_thr=0.01)
param_scheduler = [
    dict(type=LinearLR, start_factor=0.02, by_epoch=False, begin=0, end=50),
    dict(type=CosineAnnealingLR, by_epoch=False, begin=50, end=1600, T_max=1550, eta_min=1e-6),
]
train_cfg = dict(type=IterBasedTrainLoop, max_iters=1600, val_interval=1600)
auto_scale_lr = dict(enable=False, base_batch_size=4)
