"""DesCo-GLIP-T on Flickr30k Entities: trained on its captions with descriptions, tested by how often a phrase's box is among the best k.

Paper: arXiv 2306.14060 (the training is the published one, on this part of its data alone). Test: each image is asked its own caption, and
each phrase is stood for by its words in it; recall at 1, 5 and 10 by the AnyBox and MergedBox protocols of arXiv 2104.12763.
Data, below the data root: flickr30k/, mdetr_annotations/ and desco/noun_descriptions.json, see _base_/flickr.py. Without Flickr30k
Entities' own files, set the metric's entities to None: its docstring says what changes.
Train: torchrun --nproc-per-node 8 tools/train.py configs/desco_flickr.py --launcher pytorch --amp --data-root DATA
Test:  python tools/test.py configs/desco_flickr.py CHECKPOINT --data-root DATA
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
    from ._base_.flickr import test_dataloader, test_evaluator, train_dataloader

from mmengine.hooks import EMAHook
from mmengine.model import ExponentialMovingAverage

from ovdense.methods.asking import CaptionTestLoop
from ovdense.methods.hooks import IterationSeedHook
from ovdense.methods.progress import ProgressHook
from ovdense.methods.reporting import ReportHook

# the release keeps 100 detections a caption here; all phrases of an image are in one caption
model.test = dict(max_classes=None, max_tokens=256, score_thr=0.05, nms_iou=0.6, chunk_dets=100, max_dets=None)
test_cfg = dict(type=CaptionTestLoop)
# without VocabularyHook: the vocabulary is each image's own
custom_hooks = [
    dict(type=EMAHook, ema_type=ExponentialMovingAverage, momentum=0.001),
    dict(type=IterationSeedHook),
    dict(type=ProgressHook),
    dict(type=ReportHook),
]
