"""DesCo-GLIP-T as published on OmniLabel, without training on it: each image is asked for its own free-form texts.

Paper: arXiv 2306.14060 (OmniLabel AP 23.8 of the released weights). Texts of more than two words run alone, shorter ones 20 together.
Data, below the data root: omnilabel/dataset_all_val_v0.1.4.json and the photos that it names, below omnilabel/.
Train: torchrun --nproc-per-node 8 tools/train.py configs/desco_omnilabel.py --launcher pytorch --amp --data-root DATA
Test:  python tools/test.py configs/desco_omnilabel.py CHECKPOINT --data-root DATA
"""
from mmengine.config import read_base

with read_base():
    from ._base_.default_runtime import (
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
    from ._base_.desco_glip_t import auto_scale_lr, model, optim_wrapper, param_scheduler, train_cfg
    from ._base_.o365_goldg import train_dataloader
    from ._base_.omnilabel import test_dataloader, test_evaluator

from mmengine.hooks import EMAHook
from mmengine.model import ExponentialMovingAverage

from ovdense.methods.asking import AskedTestLoop
from ovdense.methods.hooks import IterationSeedHook
from ovdense.methods.progress import ProgressHook
from ovdense.methods.reporting import ReportHook

# the release keeps 100 detections a caption here
model.test = dict(max_classes=20, max_tokens=256, score_thr=0.05, nms_iou=0.6, chunk_dets=100, max_dets=None)
test_cfg = dict(type=AskedTestLoop)
# without VocabularyHook: the vocabulary is each image's own
custom_hooks = [
    dict(type=EMAHook, ema_type=ExponentialMovingAverage, momentum=0.001),
    dict(type=IterationSeedHook),
    dict(type=ProgressHook),
    dict(type=ReportHook),
]
