"""MDETR on LVIS v1 as published: fine-tuned on one class a caption, absent classes too, and asked for each class alone.

Paper: arXiv 2104.12763. Published fixed AP, LVIS minival: 24.2 (APr 20.9, APc 24.9, APf 24.3) with 10% of LVIS; 16.7 with 1%, 22.5 with all. As published each
of 1,203 names is a caption; model.test.prompts=many asks as many as fit at once, which is much faster (tools/benchmark_mdetr.py).
Data, below the data root: coco/ with lvis_v1_minival.json in mdetr_annotations/; training captions from tools/build_grounding.py lvis --share 0.1.
Train: torchrun --nproc-per-node 8 tools/train.py configs/mdetr_lvis_r101.py --launcher pytorch --data-root DATA
Test:  python tools/test.py configs/mdetr_lvis_r101.py CHECKPOINT --data-root DATA
"""
from mmengine.config import read_base

with read_base():
    from ._base_.default_runtime import default_hooks, default_scope, env_cfg, log_level, log_processor, randomness, resume, visualizer
    from ._base_.mdetr_data import asked, augmented, train_dataloader
    from ._base_.mdetr_r101 import auto_scale_lr, custom_hooks, model, optim_wrapper

from mmengine.dataset import DefaultSampler
from mmengine.hooks import EMAHook
from mmengine.model import ExponentialMovingAverage
from mmengine.runner import TestLoop

from ovdense.data.collate import collate_detection
from ovdense.data.detection import LvisDetection
from ovdense.data.grounding import GroundingDetection
from ovdense.evaluation.detection import LvisMetric
from ovdense.methods.epochs import EpochTrainLoop
from ovdense.methods.hooks import IterationSeedHook, VocabularyHook
from ovdense.methods.mdetr.optim import MdetrSchedule
from ovdense.methods.progress import ProgressHook
from ovdense.methods.reporting import ReportHook

model.test = dict(prompts="one", published=True, score_thr=0.0, max_dets=None, clip=False, pairs=8)
load_from = "checkpoints/mdetr_pretrained_r101.pth"
train_dataloader.dataset = dict(
    type=GroundingDetection,
    dataset_name="LVIS v1",
    ann_file="mdetr_annotations/finetune_lvis10_train.json",
    image_prefix="coco",
    filter_empty=False,
    invalid_boxes="drop",
    transforms=augmented,
)
test_dataloader = dict(
    batch_size=1,  # padding is seen by the network
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type=DefaultSampler, shuffle=False),
    collate_fn=dict(type=collate_detection),
    dataset=dict(
        type=LvisDetection, ann_file="mdetr_annotations/lvis_v1_minival.json", image_prefix="coco", prompt="names", test_mode=True, transforms=asked
    ),
)
test_evaluator = [dict(type=LvisMetric, fixed_ap=True)]
train_cfg = dict(type=EpochTrainLoop, max_epochs=150)
test_cfg = dict(type=TestLoop)
param_scheduler = [dict(type=MdetrSchedule, total=150, drop=120, warmup=0.01, by_epoch=True, convert_to_iter_based=True)]
custom_hooks = [
    dict(type=EMAHook, ema_type=ExponentialMovingAverage, momentum=0.0002),
    dict(type=VocabularyHook),
    dict(type=IterationSeedHook),
    dict(type=ProgressHook),
    dict(type=ReportHook),
]
