"""MDETR on PhraseCut, the second stage as published: the mask head alone, 35 epochs, all the rest frozen.

Paper: arXiv 2104.12763. Published test: mIoU 53.1, P@0.5 56.1, P@0.7 38.9, P@0.9 11.9.
Train: torchrun --nproc-per-node 8 tools/train.py configs/mdetr_phrasecut_masks_r101.py --launcher pytorch --data-root DATA
Test:  python tools/test.py configs/mdetr_phrasecut_masks_r101.py CHECKPOINT --data-root DATA
"""
from mmengine.config import read_base

with read_base():
    from ._base_.default_runtime import default_hooks, default_scope, env_cfg, log_level, log_processor, randomness, resume, visualizer
    from ._base_.mdetr_data import asked, augmented, test_dataloader, train_dataloader
    from ._base_.mdetr_r101 import auto_scale_lr, custom_hooks, model, optim_wrapper

from ovdense.data.expressions import ExpressionDetection
from ovdense.data.grounding import GroundingDetection
from ovdense.evaluation.phrase_cut import PhraseCutMetric
from ovdense.methods.asking import CaptionTestLoop
from ovdense.methods.epochs import EpochTrainLoop
from ovdense.methods.hooks import IterationSeedHook
from ovdense.methods.mdetr.optim import MdetrSchedule
from ovdense.methods.progress import ProgressHook
from ovdense.methods.reporting import ReportHook
from ovdense.vision.resnet import FrozenNormResNet

model.backbone = dict(type=FrozenNormResNet, depth=101, out_strides=(4, 8, 16, 32), frozen_stages=4)
model.head = dict(columns=256, align_width=0)
model.masks = "only"
model.test = dict(phrase_score="object", clip=False, masks=True, score_thr=0.7)  # no more answers count
custom_hooks = [dict(type=IterationSeedHook), dict(type=ProgressHook), dict(type=ReportHook)]
load_from = "work_dirs/mdetr_phrasecut_r101/last_checkpoint"
train_dataloader.dataset = dict(
    type=GroundingDetection,
    dataset_name="PhraseCut",
    ann_file="mdetr_annotations/finetune_phrasecut_train.json",
    image_prefix="vg/images",
    filter_empty=False,
    invalid_boxes="drop",
    with_masks=True,
    transforms=augmented,
)
test_dataloader.dataset = dict(
    type=ExpressionDetection,
    dataset_name="PhraseCut",
    ann_file="mdetr_annotations/finetune_phrasecut_test.json",
    image_prefix="vg/images",
    transforms=asked,
    invalid_boxes="drop",
)
test_evaluator = [dict(type=PhraseCutMetric, score_thr=0.7)]
train_cfg = dict(type=EpochTrainLoop, max_epochs=35)
test_cfg = dict(type=CaptionTestLoop)
param_scheduler = [dict(type=MdetrSchedule, total=35, drop=25, warmup=0.01, by_epoch=True, convert_to_iter_based=True)]
