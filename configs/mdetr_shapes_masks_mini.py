"""MDETR's masks on the embedded shapes, at CPU size: the mask head alone, on the detector that mdetr_shapes_mini.py trains.

Paper: arXiv 2104.12763, Sec. 4.2.3, the second stage, at our scale.
Train: python tools/train.py configs/mdetr_shapes_masks_mini.py --cfg-options load_from=work_dirs/mdetr_shapes_mini/last_checkpoint
Test:  python tools/test.py configs/mdetr_shapes_masks_mini.py work_dirs/mdetr_shapes_masks_mini --show-dir overlays
"""
from mmengine.config import read_base
from mmengine.optim import CosineAnnealingLR, LinearLR, OptimWrapper
from mmengine.runner import IterBasedTrainLoop
from torch.optim import AdamW

with read_base():
    from ._base_.default_runtime import default_hooks, default_scope, env_cfg, log_level, log_processor, randomness, resume, visualizer
    from ._base_.shapes_captions import test_dataloader, train_dataloader

from ovdense.evaluation.grounding import PhraseGroundingMetric
from ovdense.evaluation.phrase_masks import PhraseMaskMetric
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
        backbone=dict(type=TimmBackbone, name="tf_efficientnet_lite0", out_strides=(4, 8, 16, 32), weights="embedded", frozen_stages=4),
        on_disk=True,
    ),
    text_encoder=dict(type=RememberingTextEncoder, encoder=dict(type=BertTextEncoder, weights="embedded", frozen=True), on_disk=True),
    transformer=dict(width=128, num_heads=4, encoder_layers=3, decoder_layers=2, ffn_width=512, dropout=0.0, text_dropout=0.0, num_slots=32,
                     slots_from="proposals", joined=3, proposal_share=0.25),
    head=dict(columns=96, align_width=64, temperature=0.1, tokens="alignment"),
    criterion=dict(no_object_weight=0.1),
    masks="only",
    test=dict(score_thr=0.0, max_dets=24),
    divisor=32,
)

optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=AdamW, lr=1e-3, weight_decay=1e-4, fused=True), clip_grad=dict(max_norm=1.0))
param_scheduler = [
    dict(type=LinearLR, start_factor=0.02, by_epoch=False, begin=0, end=50),
    dict(type=CosineAnnealingLR, by_epoch=False, begin=50, end=400, T_max=350, eta_min=1e-6),
]
train_cfg = dict(type=IterBasedTrainLoop, max_iters=400)
test_cfg = dict(type=CaptionTestLoop)
auto_scale_lr = dict(enable=False, base_batch_size=8)
# without VocabularyHook: the vocabulary is each image's own
load_from = "work_dirs/mdetr_shapes_mini/last_checkpoint"
train_dataloader.dataset.datasets = [dict(part, with_masks=True) for part in train_dataloader.dataset.datasets]
test_evaluator = [dict(type=PhraseGroundingMetric), dict(type=PhraseMaskMetric)]
custom_hooks = [dict(type=IterationSeedHook), dict(type=ProgressHook), dict(type=ReportHook)]
