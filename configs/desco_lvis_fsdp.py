"""DesCo on LVIS v1 with its weights, gradients and optimiser states shared out over the GPUs, for models (or GPUs) where one does not hold them.

The model of desco_lvis.py, to start from: a larger backbone or language model goes in here. Every block is gathered in bfloat16 when it runs and let go
afterwards (FSDP, arXiv 2304.11277); a GPU keeps 16 bytes a weight divided by the number of GPUs, and the activations. The average of the weights
(EMA) is left out, it would need the whole model. Checkpoints hold whole tensors and are tested by any config of this model. See docs/scaling.md.
Train: torchrun --nproc-per-node 8 tools/train.py configs/desco_lvis_fsdp.py --launcher pytorch --data-root data/lvis
Test:  python tools/test.py configs/desco_lvis.py CHECKPOINT --data-root data/lvis
"""
from mmengine.config import read_base
from mmengine.hooks import DistSamplerSeedHook, IterTimerHook, LoggerHook, ParamSchedulerHook
from torch.optim import AdamW

with read_base():
    from ._base_.default_runtime import default_scope, env_cfg, load_from, log_level, log_processor, randomness, resume, visualizer
    from ._base_.desco_glip_t import auto_scale_lr, model, param_scheduler, test_cfg, train_cfg, val_cfg
    from ._base_.lvis import test_dataloader, test_evaluator, train_dataloader, val_dataloader, val_evaluator

from ovdense.methods.desco.optim import PublishedRates
from ovdense.methods.hooks import IterationSeedHook, VocabularyHook
from ovdense.methods.progress import ProgressHook
from ovdense.methods.reporting import ReportHook
from ovdense.methods.sharding import ShardedCheckpointHook, ShardedModel, ShardedOptimWrapper

model_wrapper_cfg = dict(type=ShardedModel, shard=("SwinBlock", "BertLayer", "FusionTowerBlock"), param_dtype="bfloat16")
optim_wrapper = dict(
    type=ShardedOptimWrapper,
    constructor=PublishedRates,
    optimizer=dict(type=AdamW, lr=5e-5, weight_decay=1e-4),
    clip_grad=dict(max_norm=1.0),
    paramwise_cfg=dict(text_lr=1e-5),
)
default_hooks = dict(
    timer=dict(type=IterTimerHook),
    logger=dict(type=LoggerHook, interval=20, log_metric_by_epoch=False),
    param_scheduler=dict(type=ParamSchedulerHook),
    checkpoint=dict(type=ShardedCheckpointHook, interval=500, by_epoch=False, max_keep_ckpts=3),
    sampler_seed=dict(type=DistSamplerSeedHook),
)
custom_hooks = [dict(type=VocabularyHook), dict(type=IterationSeedHook), dict(type=ProgressHook), dict(type=ReportHook)]
