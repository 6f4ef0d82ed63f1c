"""MDETR pretraining with EfficientNet-B5 (noisy student) as published; see mdetr_pretrain_r101.py.

Paper: arXiv 2104.12763. Published Flickr30k val, AnyBox: R@1 83.6, R@5 93.4, R@10 95.1. The release's frozen norms have an epsilon of 1e-5.
ImageNet weights: timm's state dict, --cfg-options model.backbone.weights=FILE.
Train: torchrun --nproc-per-node 8 tools/train.py configs/mdetr_pretrain_eb5.py --launcher pytorch --data-root DATA
Test:  python tools/test.py configs/mdetr_pretrain_eb5.py CHECKPOINT --data-root DATA
"""
from mmengine.config import read_base

with read_base():
    from ._base_.default_runtime import default_hooks, default_scope, env_cfg, log_level, log_processor, randomness, resume, visualizer
    from ._base_.mdetr_data import test_dataloader, train_dataloader
    from ._base_.mdetr_r101 import auto_scale_lr, custom_hooks, model, optim_wrapper

from ovdense.evaluation.grounding import PhraseGroundingMetric
from ovdense.methods.asking import CaptionTestLoop
from ovdense.methods.epochs import EpochTrainLoop
from ovdense.methods.mdetr.optim import MdetrSchedule
from ovdense.vision.backbones import TimmBackbone

model.backbone = dict(type=TimmBackbone, name="tf_efficientnet_b5.ns_jft_in1k", out_strides=(32,), frozen_stages=-1, norm_frozen=True, norm_eps=1e-5)
optim_wrapper.paramwise_cfg = dict(backbone_lr=5e-5, text_lr=5e-5)
load_from = None
test_evaluator = [dict(type=PhraseGroundingMetric, entities="flickr30k/flickr30k_entities")]
train_cfg = dict(type=EpochTrainLoop, max_epochs=40)
test_cfg = dict(type=CaptionTestLoop)
param_scheduler = [dict(type=MdetrSchedule, total=40, drop=35, warmup=0.01, by_epoch=True, convert_to_iter_based=True)]
