"""DesCo on LVIS v1 on one GPU that holds two images: gradients of eight batches are added up to the published step of 16 images.

All counts are of batches, eight a step: the schedule, the validation and the average of the weights are eight times those of desco_lvis.py. Each
batch divides its losses by its own number of boxes, as a GPU with two images would alone. See docs/scaling.md.
Train: python tools/train.py configs/desco_lvis_accumulate.py --amp --data-root data/lvis
Test:  python tools/test.py configs/desco_lvis.py CHECKPOINT --data-root data/lvis
"""
from mmengine.config import read_base
from mmengine.hooks import DistSamplerSeedHook, EMAHook, IterTimerHook, LoggerHook, ParamSchedulerHook
from mmengine.model import ExponentialMovingAverage
from mmengine.optim import LinearLR, MultiStepLR, OptimWrapper
from mmengine.runner import IterBasedTrainLoop
from torch.optim import AdamW

with read_base():
    from ._base_.default_runtime import default_scope, env_cfg, load_from, log_level, log_processor, randomness, resume, visualizer
    from ._base_.desco_glip_t import model, test_cfg, val_cfg
    from ._base_.lvis import test_dataloader, test_evaluator, train_dataloader, val_dataloader, val_evaluator

from ovdense.methods.checkpoints import AtomicCheckpointHook
from ovdense.methods.desco.optim import PublishedRates
from ovdense.methods.hooks import IterationSeedHook, VocabularyHook
from ovdense.methods.progress import ProgressHook
from ovdense.methods.reporting import ReportHook

optim_wrapper = dict(
    type=OptimWrapper,
    constructor=PublishedRates,
    optimizer=dict(type=AdamW, lr=5e-5, weight_decay=1e-4),
    clip_grad=dict(max_norm=1.0),
    accumulative_counts=8,
    paramwise_cfg=dict(text_lr=1e-5),
)
param_scheduler = [
    dict(type=LinearLR, start_factor=0.001, by_epoch=False, begin=0, end=16000),
    dict(type=MultiStepLR, by_epoch=False, milestones=[1608000, 2136000], gamma=0.1),
]
train_cfg = dict(type=IterBasedTrainLoop, max_iters=2400000, val_interval=160000)
# a checkpoint lies between two steps: what is added up is not stored
default_hooks = dict(
    timer=dict(type=IterTimerHook),
    logger=dict(type=LoggerHook, interval=160, log_metric_by_epoch=False),
    param_scheduler=dict(type=ParamSchedulerHook),
    checkpoint=dict(type=AtomicCheckpointHook, interval=4000, by_epoch=False, max_keep_ckpts=3),
    sampler_seed=dict(type=DistSamplerSeedHook),
)
custom_hooks = [
    dict(type=EMAHook, ema_type=ExponentialMovingAverage, momentum=0.001, interval=8),
    dict(type=VocabularyHook),
    dict(type=IterationSeedHook),
    dict(type=ProgressHook),
    dict(type=ReportHook),
]
