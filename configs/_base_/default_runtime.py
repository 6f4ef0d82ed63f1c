"""What every run has: logs, checkpoints, progress, TensorBoard, seeds. Import the names that you need with `read_base`."""
from mmengine.hooks import DistSamplerSeedHook, IterTimerHook, LoggerHook, ParamSchedulerHook
from mmengine.runner import LogProcessor
from mmengine.visualization import LocalVisBackend, TensorboardVisBackend, Visualizer

from ovdense.methods.checkpoints import AtomicCheckpointHook
from ovdense.methods.hooks import IterationSeedHook, VocabularyHook
from ovdense.methods.progress import ProgressHook
from ovdense.methods.reporting import ReportHook

default_scope = "ovdense"
default_hooks = dict(
    timer=dict(type=IterTimerHook),
    logger=dict(type=LoggerHook, interval=20, log_metric_by_epoch=False),
    param_scheduler=dict(type=ParamSchedulerHook),
    checkpoint=dict(type=AtomicCheckpointHook, interval=500, by_epoch=False, max_keep_ckpts=3),
    sampler_seed=dict(type=DistSamplerSeedHook),
)
custom_hooks = [
    dict(type=VocabularyHook),
    dict(type=IterationSeedHook),
    dict(type=ProgressHook),
    dict(type=ReportHook),
]
env_cfg = dict(cudnn_benchmark=False, mp_cfg=dict(opencv_num_threads=0), dist_cfg=dict(backend="nccl"))
visualizer = dict(type=Visualizer, vis_backends=[dict(type=LocalVisBackend), dict(type=TensorboardVisBackend)])
log_processor = dict(type=LogProcessor, by_epoch=False, window_size=20)
log_level = "INFO"
randomness = dict(seed=0)
load_from = None
resume = False
