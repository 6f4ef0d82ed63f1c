"""DenseCLIP with Mask R-CNN and RN50 on COCO as published: score maps over tau joined to the last map, their loss on boxes beside the detector's.

Paper: arXiv 2112.01518. A released checkpoint converted by tools/convert_weights.py fits this file. To train, give OpenAI's weights:
--cfg-options model.backbone.weights=FILE model.text_encoder.weights=FILE.
Train: torchrun --nproc-per-node 8 tools/train.py configs/denseclip_maskrcnn_r50_coco.py --launcher pytorch --data-root data/coco
Test:  python tools/test.py configs/denseclip_maskrcnn_r50_coco.py CHECKPOINT --data-root data/coco
"""
from mmengine.config import read_base
from mmengine.optim import OptimWrapper
from torch.optim import AdamW

with read_base():
    from ._base_.coco_denseclip import (
        auto_scale_lr,
        find_unused_parameters,
        param_scheduler,
        rates,
        sync_bn,
        test_cfg,
        test_dataloader,
        train_cfg,
        train_dataloader,
        val_cfg,
        val_dataloader,
    )
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

from ovdense.evaluation.detection import CocoMetric
from ovdense.methods.denseclip.decoders import MaskRcnnDecoder
from ovdense.methods.denseclip.model import DenseClip
from ovdense.text.clip_context import ClipContextEncoder
from ovdense.vision.clip import ClipResNet

model = dict(
    type=DenseClip,
    backbone=dict(type=ClipResNet, layers=(3, 4, 6, 3), embed_width=1024, table_size=42, positions="crop", weights=None),
    text_encoder=dict(type=ClipContextEncoder, embed_width=1024, context_length=13, weights=None),
    pixel_text=dict(prompting="post", num_contexts=8, tau=0.07, decoder=dict(width=256, heads=4, num_layers=3, dropout=0.1)),
    decoder=dict(type=MaskRcnnDecoder, num_classes=80, in_channels=(256, 512, 1024, 2048), score_stride=32, channels=256, aux_weight=1.0),
    vocabulary="coco",
)
optim_wrapper = dict(
    type=OptimWrapper,
    optimizer=dict(type=AdamW, lr=2e-4, weight_decay=1e-4),
    clip_grad=dict(max_norm=0.1, norm_type=2),
    paramwise_cfg=dict(custom_keys=rates),
)
val_evaluator = [dict(type=CocoMetric, iou_types=("bbox", "segm"))]
test_evaluator = val_evaluator
