"""MDETR on a small set of real photos, at CPU size, from embedded weights: captions, and the boxes of the classes that their words name.

Data: coco_mini/ below the data root (a subset of COCO 2017 in its own form). Tested on the very captions and photos that it is trained on,
a check that it learns, not that it generalises; for other photos test_dataloader.dataset takes captions_val2017.json and so on.
Train: python tools/train.py configs/mdetr_coco_photos.py --data-root DATA
Test:  python tools/test.py configs/mdetr_coco_photos.py work_dirs/mdetr_coco_photos --data-root DATA --show-dir overlays
"""
from mmengine.config import read_base
from mmengine.optim import CosineAnnealingLR, LinearLR
from mmengine.runner import IterBasedTrainLoop

with read_base():
    from ._base_.default_runtime import default_hooks, default_scope, env_cfg, load_from, log_level, log_processor, randomness, resume, visualizer
    from ._base_.mdetr_mini import custom_hooks, model, optim_wrapper, test_cfg
    from ._base_.photos_captions import test_dataloader, test_evaluator, train_dataloader

model.early = True
model.criterion.early_weight = 2.0
param_scheduler = [
    dict(type=LinearLR, start_factor=0.02, by_epoch=False, begin=0, end=100),
    dict(type=CosineAnnealingLR, by_epoch=False, begin=100, end=1000, T_max=900, eta_min=1e-6),
]
train_cfg = dict(type=IterBasedTrainLoop, max_iters=1000)
auto_scale_lr = dict(enable=False, base_batch_size=4)
