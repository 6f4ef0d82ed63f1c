"""MDETR on PhraseCut, the first stage as published: the detector, 10 epochs from the pretrained weights.

Paper: arXiv 2104.12763. The second stage, masks, is mdetr_phrasecut_masks_r101.py.
Train: torchrun --nproc-per-node 8 tools/train.py configs/mdetr_phrasecut_r101.py --launcher pytorch --data-root DATA
Test:  python tools/test.py configs/mdetr_phrasecut_r101.py CHECKPOINT --data-root DATA
"""
from mmengine.config import read_base

with read_base():
    from ._base_.default_runtime import default_hooks, default_scope, env_cfg, log_level, log_processor, randomness, resume, visualizer
    from ._base_.mdetr_data import asked, augmented, test_dataloader, train_dataloader
    from ._base_.mdetr_r101 import auto_scale_lr, custom_hooks, model, optim_wrapper

from torch.optim import AdamW

from ovdense.data.grounding import GroundingDetection, PhraseGroundingDetection
from ovdense.evaluation.grounding import PhraseGroundingMetric
from ovdense.methods.asking import CaptionTestLoop
from ovdense.methods.epochs import EpochTrainLoop
from ovdense.methods.mdetr.optim import MdetrSchedule

optim_wrapper.optimizer = dict(type=AdamW, lr=5e-5, weight_decay=1e-4, fused=True)
optim_wrapper.paramwise_cfg = dict(backbone_lr=1e-5, text_lr=1e-5)
load_from = "checkpoints/mdetr_pretrained_r101.pth"
train_dataloader.dataset = dict(
    type=GroundingDetection,
    dataset_name="PhraseCut",
    ann_file="mdetr_annotations/finetune_phrasecut_train.json",
    image_prefix="vg/images",
    filter_empty=False,
    invalid_boxes="drop",
    transforms=augmented,
)
test_dataloader.dataset = dict(
    type=PhraseGroundingDetection,
    dataset_name="PhraseCut",
    ann_file="mdetr_annotations/finetune_phrasecut_test.json",
    image_prefix="vg/images",
    transforms=asked,
    invalid_boxes="drop",
)
test_evaluator = [dict(type=PhraseGroundingMetric)]
train_cfg = dict(type=EpochTrainLoop, max_epochs=10)
test_cfg = dict(type=CaptionTestLoop)
param_scheduler = [dict(type=MdetrSchedule, total=10, drop=11, warmup=0.01, by_epoch=True, convert_to_iter_based=True)]
