"""DesCo on a small set of real photos in LVIS v1 form, at CPU size, from embedded weights; all 1,203 names at test time.

Result: AP 1.6 (AP50 4.3) on 50 photos asked by all 1,203 names, trained on 178 for 1,000 iterations, seed 0; asked by LVIS's definitions, those that
do not say the noun, the best box of a description lies on its object (IoU 0.5) in 73 of 156 cases on training photos, 16 of 43 on the others.
Data: lvis_mini/ and coco_mini/ below the data root (LVIS v1's own form, photos of COCO 2017).
Train: python tools/train.py configs/desco_lvis_photos.py --data-root DATA
Test:  python tools/test.py configs/desco_lvis_photos.py work_dirs/desco_lvis_photos --data-root DATA
"""
from mmengine.config import read_base
from mmengine.optim import CosineAnnealingLR, LinearLR, OptimWrapper
from mmengine.runner import IterBasedTrainLoop, TestLoop, ValLoop
from torch.optim import AdamW

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
    from ._base_.photos_lvis import test_dataloader, test_evaluator, train_dataloader, val_dataloader, val_evaluator

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
    # logits that large would drown the gradients of boxes in shared layers
    criterion=dict(anchor_scale=3.0, published=False, no_object_token=False, token_weight=0.03),
    test=dict(max_classes=40, chunk_batch=1, score_thr=0.01),
)

optim_wrapper = dict(
    type=OptimWrapper,
    optimizer=dict(type=AdamW, lr=1e-3, weight_decay=1e-4),
    clip_grad=dict(max_norm=1.0),
    paramwise_cfg=dict(custom_keys={"head.box": dict(lr_mult=2.0), "head.centerness": dict(lr_mult=2.0)}),
)
param_scheduler = [
    dict(type=LinearLR, start_factor=0.02, by_epoch=False, begin=0, end=50),
    dict(type=CosineAnnealingLR, by_epoch=False, begin=50, end=1000, T_max=950, eta_min=1e-6),
]
train_cfg = dict(type=IterBasedTrainLoop, max_iters=1000, val_interval=1000)
val_cfg = dict(type=ValLoop)
test_cfg = dict(type=TestLoop)
auto_scale_lr = dict(enable=False, base_batch_size=4)
