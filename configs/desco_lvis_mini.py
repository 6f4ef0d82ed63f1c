"""DesCo on the embedded shapes (LVIS v1 form), at CPU size: embedded encoders, two fusion blocks, 256 pixels.

Paper: arXiv 2306.14060, at our scale. Pieces of a caption are read apart (arXiv 2303.05499, Sec. 3.4) and the frozen
encoders remember what they have seen, so that an iteration costs no more than the head.
Train: python tools/train.py configs/desco_lvis_mini.py
Test:  python tools/test.py configs/desco_lvis_mini.py work_dirs/desco_lvis_mini --show-dir overlays
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
    from ._base_.shapes import test_dataloader, test_evaluator, train_dataloader, val_dataloader, val_evaluator

model.test = dict(max_classes=8, chunk_batch=5, score_thr=0.01)
param_scheduler = [
    dict(type=LinearLR, start_factor=0.02, by_epoch=False, begin=0, end=50),
    dict(type=CosineAnnealingLR, by_epoch=False, begin=50, end=1200, T_max=1150, eta_min=1e-6),
]
train_cfg = dict(type=IterBasedTrainLoop, max_iters=1200, val_interval=1200)
auto_scale_lr = dict(enable=False, base_batch_size=8)
