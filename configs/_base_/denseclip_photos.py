"""DenseCLIP in its open form at CPU size, from embedded weights, and the schedule of all small ones: a frozen EfficientNet-Lite0, score maps at stride 16."""
from mmengine.optim import CosineAnnealingLR, LinearLR, OptimWrapper
from mmengine.runner import IterBasedTrainLoop, TestLoop, ValLoop
from torch.optim import AdamW

from ovdense.methods.denseclip.model import DenseClip
from ovdense.methods.denseclip.open_decoder import OpenSemanticFpn
from ovdense.methods.dual_encoder import ConseDualEncoder
from ovdense.vision.backbones import TimmBackbone
from ovdense.vision.memory import RememberingBackbone

model = dict(
    type=DenseClip,
    backbone=dict(
        type=RememberingBackbone,
        on_disk=True,
        backbone=dict(type=TimmBackbone, name="tf_efficientnet_lite0", out_strides=(16, 32), weights="embedded", frozen_stages=4),
    ),
    text_encoder=dict(type=ConseDualEncoder, short_sides=(384, 224)),
    pixel_text=dict(prompting="none", num_contexts=0, templates="clip_photo", synonyms=True, learn_background=True),
    score_stride=16,
    decoder=dict(
        type=OpenSemanticFpn,
        in_channels=(112, 320),
        strides=(16, 32),
        score_stride=16,
        embed_width=384,
        channels=64,
        head_channels=64,
        label_step=8,
    ),
)

optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=AdamW, lr=1e-3, weight_decay=1e-2), clip_grad=dict(max_norm=1.0))
param_scheduler = [
    dict(type=LinearLR, start_factor=0.02, by_epoch=False, begin=0, end=30),
    dict(type=CosineAnnealingLR, by_epoch=False, begin=30, end=120, T_max=90, eta_min=1e-6),
]
train_cfg = dict(type=IterBasedTrainLoop, max_iters=120, val_interval=120)
val_cfg = dict(type=ValLoop)
test_cfg = dict(type=TestLoop)
auto_scale_lr = dict(enable=False, base_batch_size=8)
