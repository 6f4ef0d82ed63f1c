"""DesCo on a small set of real photos in LVIS v1 form, at CPU size, from embedded weights; all 1,203 names at test time.

Result: AP 1.6 (AP50 4.3) on 50 photos asked by all 1,203 names, trained on 178 for 1,000 iterations, seed 0; asked by LVIS's definitions, those that
do not say the noun, the best box of a description lies on its object (IoU 0.5) in 73 of 156 cases on training photos, 16 of 43 on the others.
Data: lvis_mini/ and coco_mini/ below the data root (LVIS v1's own form, photos of COCO 2017).
Train: python tools/train.py configs/desco_lvis_photos.py --data-root DATA
Test:  python tools/test.py configs/desco_lvis_photos.py work_dirs/desco_lvis_photos --data-root DATA
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
    from ._base_.photos_lvis import test_dataloader, test_evaluator, train_dataloader, val_dataloader, val_evaluator

model.test = dict(max_classes=40, chunk_batch=1, score_thr=0.01)
# logits that large would drown the gradients of boxes in shared layers
model.criterion.token_weight = 0.03
optim_wrapper.paramwise_cfg = dict(custom_keys={"head.box": dict(lr_mult=2.0), "head.centerness": dict(lr_mult=2.0)})
param_scheduler = [
    dict(type=LinearLR, start_factor=0.02, by_epoch=False, begin=0, end=50),
    dict(type=CosineAnnealingLR, by_epoch=False, begin=50, end=1000, T_max=950, eta_min=1e-6),
]
train_cfg = dict(type=IterBasedTrainLoop, max_iters=1000, val_interval=1000)
auto_scale_lr = dict(enable=False, base_batch_size=4)
