"""MDETR at CPU size, from embedded weights that remember what they have seen: three maps make the image tokens, proposals the slots.

What a short training needs differs from the published model: slots start from the encoder's own proposals, tokens are told by their
alignment instead of their position. A config adds data and schedule.
"""
from mmengine.optim import OptimWrapper
from torch.optim import AdamW

from ovdense.methods.asking import CaptionTestLoop
from ovdense.methods.hooks import IterationSeedHook
from ovdense.methods.mdetr.model import Mdetr
from ovdense.methods.progress import ProgressHook
from ovdense.methods.reporting import ReportHook
from ovdense.text.encoders import BertTextEncoder
from ovdense.text.memory import RememberingTextEncoder
from ovdense.vision.backbones import TimmBackbone
from ovdense.vision.memory import RememberingBackbone

model = dict(
    type=Mdetr,
    backbone=dict(
        type=RememberingBackbone,
        backbone=dict(type=TimmBackbone, name="tf_efficientnet_lite0", out_strides=(8, 16, 32), weights="embedded", frozen_stages=4),
        on_disk=True,
    ),
    text_encoder=dict(type=RememberingTextEncoder, encoder=dict(type=BertTextEncoder, weights="embedded", frozen=True), on_disk=True),
    transformer=dict(width=128, num_heads=4, encoder_layers=3, decoder_layers=2, ffn_width=512, dropout=0.0, text_dropout=0.0, num_slots=32,
                     slots_from="proposals", joined=3, proposal_share=0.25),
    head=dict(columns=96, align_width=64, temperature=0.1, tokens="alignment"),
    criterion=dict(no_object_weight=0.1),
    test=dict(score_thr=0.0),
    divisor=32,
)
optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=AdamW, lr=1e-3, weight_decay=1e-4, fused=True), clip_grad=dict(max_norm=1.0))
test_cfg = dict(type=CaptionTestLoop)
# without VocabularyHook: the vocabulary is each image's own
custom_hooks = [dict(type=IterationSeedHook), dict(type=ProgressHook), dict(type=ReportHook)]
