"""DenseCLIP in its open form, trained with 15 of the 20 names of Pascal VOC and tested on all: pixels of the other five are not seen as anything.

Paper: arXiv 2112.01518, at our scale; the split is that of SPNet (CVPR 2019). Data: voc_mini/ below the data root.
Train: python tools/train.py configs/denseclip_voc15_photos.py --data-root DATA
Test:  python tools/test.py configs/denseclip_voc15_photos.py work_dirs/denseclip_voc15_photos --data-root DATA --show-dir overlays
Result, 37 photos, seeds 0, 1, 2: mIoU of the seen names 16.6, 14.5, 20.9, of the unseen 12.9, 10.0, 13.1.
"""
from mmengine.config import read_base

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
    from ._base_.denseclip_photos import auto_scale_lr, model, optim_wrapper, param_scheduler, test_cfg, train_cfg, val_cfg
    from ._base_.photos_voc import test_dataloader, train_dataloader, val_dataloader

from ovdense.evaluation.segmentation import SemanticMetric

# fmt: off
seen = ("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog", "horse",
        "motorbike", "person")
# fmt: on
train_dataloader.dataset.vocabulary = seen
val_evaluator = [dict(type=SemanticMetric, split="voc15_5")]
test_evaluator = val_evaluator
