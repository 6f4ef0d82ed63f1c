"""MDETR as published (arXiv 2104.12763): ResNet-101, RoBERTa-base, six and six layers, 100 slots; its rates for 64 images a step.

RoBERTa's weights: the hub's "roberta-base", or a local folder: --cfg-options model.text_encoder.weights=FOLDER. ResNet's ImageNet weights:
torchvision's file, --cfg-options model.backbone.weights=FILE; converted released checkpoints bring both along (tools/convert_weights.py).
The targets are the paper's (a box's tokens share 1); criterion.published=True trains as the release does. Import names with `read_base`.
"""
from mmengine.hooks import EMAHook
from mmengine.model import ExponentialMovingAverage
from mmengine.optim import OptimWrapper
from torch.optim import AdamW

from ovdense.methods.hooks import IterationSeedHook
from ovdense.methods.mdetr.model import Mdetr
from ovdense.methods.mdetr.optim import MdetrRates
from ovdense.methods.progress import ProgressHook
from ovdense.methods.reporting import ReportHook
from ovdense.text.encoders import RobertaTextEncoder
from ovdense.vision.resnet import FrozenNormResNet

model = dict(
    type=Mdetr,
    backbone=dict(type=FrozenNormResNet, depth=101, out_strides=(32,), frozen_stages=1),
    text_encoder=dict(type=RobertaTextEncoder, weights="roberta-base", frozen=False),
    transformer=dict(width=256, num_heads=8, encoder_layers=6, decoder_layers=6, ffn_width=2048, dropout=0.1, text_dropout=0.1, num_slots=100),
    head=dict(columns=256, align_width=64, temperature=0.07),
    criterion=dict(
        class_cost=1.0, box_cost=5.0, giou_cost=2.0, token_weight=1.0, box_weight=5.0, giou_weight=2.0, align_weight=1.0, mask_weight=1.0, dice_weight=1.0,
        no_object_weight=0.1,
    ),
    test=dict(phrase_score="max", clip=False),
)
optim_wrapper = dict(
    type=OptimWrapper,
    constructor=MdetrRates,
    optimizer=dict(type=AdamW, lr=1e-4, weight_decay=1e-4, fused=True),
    clip_grad=dict(max_norm=0.1),
    paramwise_cfg=dict(backbone_lr=1e-5, text_lr=5e-5),
)
# without VocabularyHook: the vocabulary is each caption's own
custom_hooks = [
    dict(type=EMAHook, ema_type=ExponentialMovingAverage, momentum=0.0002),
    dict(type=IterationSeedHook),
    dict(type=ProgressHook),
    dict(type=ReportHook),
]
auto_scale_lr = dict(enable=False, base_batch_size=64)
