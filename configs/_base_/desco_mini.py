"""DesCo at CPU size, from embedded weights: two fusion blocks on a frozen EfficientNet-Lite0. A config adds `model.test`, data and schedule."""
from mmengine.optim import OptimWrapper
from mmengine.runner import TestLoop, ValLoop
from torch.optim import AdamW

from ovdense.layers.fpn import FeaturePyramid
from ovdense.methods.desco.model import Desco
from ovdense.text.encoders import BertTextEncoder
from ovdense.text.piecewise import PiecewiseTextEncoder
from ovdense.vision.backbones import TimmBackbone
from ovdense.vision.memory import RememberingBackbone

model = dict(
    type=Desco,
    backbone=dict(
        type=RememberingBackbone,
        backbone=dict(type=TimmBackbone, name="tf_efficientnet_lite0", out_strides=(16, 32), weights="embedded", frozen_stages=4),
    ),
    neck=dict(type=FeaturePyramid, in_channels=(112, 320), out_channels=128, num_extra=2),
    text_encoder=dict(type=PiecewiseTextEncoder, encoder=dict(type=BertTextEncoder, weights="embedded", frozen=True)),
    # a short run has no time to grow the logits: they start twenty times larger
    head=dict(channels=128, num_blocks=2, num_levels=4, embed_width=512, bert_ffn=768, dropout=0.0, deformable=False, log_scale=-3.0),
    criterion=dict(anchor_scale=3.0, published=False, no_object_token=False),
)

optim_wrapper = dict(
    type=OptimWrapper,
    optimizer=dict(type=AdamW, lr=1e-3, weight_decay=1e-4),
    clip_grad=dict(max_norm=1.0),
    paramwise_cfg=dict(custom_keys={"head.box": dict(lr_mult=10.0), "head.centerness": dict(lr_mult=10.0)}),
)
val_cfg = dict(type=ValLoop)
test_cfg = dict(type=TestLoop)
