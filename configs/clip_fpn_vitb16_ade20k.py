"""CLIP-FPN with ViT-B/16 on ADE20K: DenseCLIP's network without language, the paper's baseline.

Paper: arXiv 2112.01518, Table 1. A released checkpoint converted by tools/convert_weights.py fits this file. To train, give OpenAI's
weights: --cfg-options model.backbone.weights=FILE.
Data: configs/_base_/ade20k_640.py. Train: torchrun --nproc-per-node 8 tools/train.py configs/clip_fpn_vitb16_ade20k.py --launcher pytorch --data-root data
Test:  python tools/test.py configs/clip_fpn_vitb16_ade20k.py CHECKPOINT --data-root data
"""
from mmengine.config import read_base

with read_base():
    from ._base_.ade20k_640 import test_dataloader, test_evaluator, train_dataloader, val_dataloader, val_evaluator
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
    from ._base_.denseclip_seg_80k import (
        auto_scale_lr,
        find_unused_parameters,
        optim_wrapper,
        param_scheduler,
        sync_bn,
        test_cfg,
        train_cfg,
        val_cfg,
    )

from ovdense.methods.denseclip.decoders import SemanticFpn
from ovdense.methods.denseclip.model import DenseClip
from ovdense.vision.clip import ClipVit

model = dict(
    type=DenseClip,
    backbone=dict(type=ClipVit, patch_size=16, embed_width=512, table_size=40, drop_path_rate=0.1, embeddings=False, weights=None),
    decoder=dict(type=SemanticFpn, num_classes=150, in_channels=(768, 768, 768, 768), score_stride=None, channels=256, head_channels=256, aux_weight=0.4),
    vocabulary="ade150",
    test=dict(crop=(640, 640), stride=(426, 426)),
    divisor=1,
)
