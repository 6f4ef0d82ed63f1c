"""DesCo-GLIP-T as published: Swin-T, BERT-base, six fusion blocks, 256 tokens; its rates and schedule for 16 images an iteration.

arXiv 2306.14060. Import the names that you need with `read_base`.
"""
from mmengine.hooks import EMAHook
from mmengine.model import ExponentialMovingAverage
from mmengine.optim import LinearLR, MultiStepLR, OptimWrapper
from mmengine.runner import IterBasedTrainLoop, TestLoop, ValLoop
from torch.optim import AdamW

from ovdense.layers.fpn import FeaturePyramid
from ovdense.methods.desco.model import Desco
from ovdense.methods.desco.optim import PublishedRates
from ovdense.methods.hooks import IterationSeedHook, VocabularyHook
from ovdense.methods.progress import ProgressHook
from ovdense.methods.reporting import ReportHook
from ovdense.text.encoders import BertTextEncoder
from ovdense.vision.backbones import SwinBackbone

model = dict(
    type=Desco,
    backbone=dict(type=SwinBackbone, embed_dim=96, depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 24), window=7, use_checkpoint=True),
    neck=dict(type=FeaturePyramid, in_channels=(192, 384, 768), out_channels=256, num_extra=2),
    text_encoder=dict(type=BertTextEncoder, weights=None, frozen=False),
    head=dict(
        channels=256,
        num_blocks=6,
        num_levels=5,
        embed_width=2048,
        num_heads=8,
        bert_heads=12,
        bert_ffn=3072,
        dropout=0.1,
        deformable=True,
        coarse_offsets="published",
        closed_set_classes=80,
        checkpointing=True,
    ),
    criterion=dict(anchor_scale=8.0),
    test=dict(max_classes=8, max_tokens=256, chunk_batch="fill", score_thr=0.05, nms_iou=0.6, chunk_dets=300, max_dets=None),
)

# rates of the release for 16 images an iteration: language model 1e-5; biases twice their rate, without decay
optim_wrapper = dict(
    type=OptimWrapper,
    constructor=PublishedRates,
    optimizer=dict(type=AdamW, lr=5e-5, weight_decay=1e-4),
    clip_grad=dict(max_norm=1.0),
    paramwise_cfg=dict(text_lr=1e-5),
)
custom_hooks = [
    dict(type=EMAHook, ema_type=ExponentialMovingAverage, momentum=0.001),
    dict(type=VocabularyHook),
    dict(type=IterationSeedHook),
    dict(type=ProgressHook),
    dict(type=ReportHook),
]
param_scheduler = [
    dict(type=LinearLR, start_factor=0.001, by_epoch=False, begin=0, end=2000),
    dict(type=MultiStepLR, by_epoch=False, milestones=[201000, 267000], gamma=0.1),
]
train_cfg = dict(type=IterBasedTrainLoop, max_iters=300000, val_interval=20000)
val_cfg = dict(type=ValLoop)
test_cfg = dict(type=TestLoop)
auto_scale_lr = dict(enable=False, base_batch_size=16)
