"""MDETR fine-tuned on RefCOCOg as published, from the pretrained weights: 3 epochs.

Paper: arXiv 2104.12763. Published P@1: 81.64 (val), 80.89 (test); a hit is a generalised IoU of 0.5, as the release counts (P@1_giou).
Train: torchrun --nproc-per-node 2 tools/train.py configs/mdetr_refcocog_r101.py --launcher pytorch --data-root DATA
Test:  python tools/test.py configs/mdetr_refcocog_r101.py CHECKPOINT --data-root DATA
"""
from mmengine.config import read_base

with read_base():
    from ._base_.default_runtime import default_hooks, default_scope, env_cfg, log_level, log_processor, randomness, resume, visualizer
    from ._base_.mdetr_data import asked, augmented, test_dataloader, train_dataloader
    from ._base_.mdetr_r101 import custom_hooks, model, optim_wrapper

from torch.optim import AdamW

from ovdense.data.expressions import ExpressionDetection
from ovdense.data.grounding import GroundingDetection
from ovdense.evaluation.referring import ReferringMetric
from ovdense.methods.asking import CaptionTestLoop
from ovdense.methods.epochs import EpochTrainLoop
from ovdense.methods.mdetr.optim import MdetrSchedule

optim_wrapper.optimizer = dict(type=AdamW, lr=5e-5, weight_decay=1e-4, fused=True)
optim_wrapper.paramwise_cfg = dict(backbone_lr=1e-5, text_lr=1e-5)
model.test = dict(phrase_score="object", clip=False)
auto_scale_lr = dict(enable=False, base_batch_size=8)
load_from = "checkpoints/mdetr_pretrained_r101.pth"
train_dataloader.batch_size = 4
train_dataloader.dataset = dict(
    type=GroundingDetection,
    dataset_name="RefCOCOg",
    ann_file="mdetr_annotations/finetune_refcocog_train.json",
    image_prefix="coco/train2014",
    filter_empty=False,
    invalid_boxes="drop",
    transforms=augmented,
)
test_dataloader.dataset = dict(
    type=ExpressionDetection,
    dataset_name="RefCOCOg",
    ann_file="mdetr_annotations/finetune_refcocog_test.json",
    image_prefix="coco/train2014",
    transforms=asked,
    invalid_boxes="drop",
)
test_evaluator = [dict(type=ReferringMetric)]
train_cfg = dict(type=EpochTrainLoop, max_epochs=3)
test_cfg = dict(type=CaptionTestLoop)
param_scheduler = [dict(type=MdetrSchedule, total=3, drop=2, warmup=0.01, by_epoch=True, convert_to_iter_based=True)]
