"""DenseCLIP with ViT-B/16 on Pascal VOC 2012 with background: the published model and schedule, 21 classes.

Paper: arXiv 2112.01518, which has no Pascal VOC 2012; crops and scales are ADE20K's. To train, give OpenAI's weights:
--cfg-options model.backbone.weights=FILE model.text_encoder.weights=FILE.
Data: configs/_base_/voc.py. Train: torchrun --nproc-per-node 8 tools/train.py configs/denseclip_vitb16_voc.py --launcher pytorch --data-root data
Test:  python tools/test.py configs/denseclip_vitb16_voc.py CHECKPOINT --data-root data
"""
from mmengine.config import read_base

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
    from ._base_.voc import test_dataloader, test_evaluator, train_dataloader, val_dataloader, val_evaluator

from ovdense.methods.denseclip.decoders import SemanticFpn
from ovdense.methods.denseclip.model import DenseClip
from ovdense.text.clip_context import ClipContextEncoder
from ovdense.vision.clip import ClipVit

model = dict(
    type=DenseClip,
    backbone=dict(type=ClipVit, patch_size=16, embed_width=512, table_size=40, drop_path_rate=0.1, weights=None),
    text_encoder=dict(type=ClipContextEncoder, embed_width=512, context_length=77, weights=None),
    pixel_text=dict(prompting="post", num_contexts=8, tau=0.07, decoder=dict(width=256, heads=4, num_layers=3, dropout=0.1)),
    decoder=dict(type=SemanticFpn, num_classes=21, in_channels=(768, 768, 768, 768), score_stride=16, channels=256, head_channels=256, aux_weight=0.4),
    vocabulary="voc21",
    test=dict(crop=(512, 512), stride=(341, 341)),
    divisor=1,
)
