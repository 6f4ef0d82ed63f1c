"""DenseCLIP's published schedule for segmenters: 80k iterations of 32 images, AdamW 1e-4, poly to 1e-6, 1,500 iterations of warm-up.

The backbone has a tenth of the rate; norms of the context decoder have no weight decay. The text tower is frozen: the release gives it
the rate 0, which its schedule's floor lifts to 1e-6 (`methods/denseclip/optim.py`).
"""
from mmengine.optim import OptimWrapper
from mmengine.runner import IterBasedTrainLoop, TestLoop, ValLoop
from torch.optim import AdamW

from ovdense.methods.denseclip.optim import PublishedPolyLR

optim_wrapper = dict(
    type=OptimWrapper,
    optimizer=dict(type=AdamW, lr=1e-4, weight_decay=1e-4),
    paramwise_cfg=dict(custom_keys={"backbone": dict(lr_mult=0.1), "text_encoder": dict(lr_mult=0.0), "norm": dict(decay_mult=0.0)}),
)
param_scheduler = [dict(type=PublishedPolyLR, max_iters=80000, power=0.9, min_lr=1e-6, warmup_iters=1500, warmup_ratio=1e-6)]
train_cfg = dict(type=IterBasedTrainLoop, max_iters=80000, val_interval=8000)
val_cfg = dict(type=ValLoop)
test_cfg = dict(type=TestLoop)
sync_bn = "torch"
find_unused_parameters = True
auto_scale_lr = dict(enable=False, base_batch_size=32)
