"""DesCo-GLIP-T as published: Swin-T, BERT-base, six fusion blocks, 256 tokens, 800x1333, trained here on LVIS v1.

Paper: arXiv 2306.14060. Nothing is fetched: all weights start random unless a checkpoint is given, such as a released one
converted by tools/convert_weights.py, with --cfg-options load_from=FILE. The paper trains on GoldG and Objects365.
Data: LVIS v1 annotations and COCO 2017 images below the data root.
Train: torchrun --nproc-per-node 8 tools/train.py configs/desco_lvis.py --launcher pytorch --amp --data-root data/lvis
Test:  python tools/test.py configs/desco_lvis.py CHECKPOINT --data-root data/lvis
"""
from mmengine.config import read_base

with read_base():
    from ._base_.default_runtime import (
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
    from ._base_.desco_glip_t import auto_scale_lr, custom_hooks, model, optim_wrapper, param_scheduler, test_cfg, train_cfg, val_cfg
    from ._base_.lvis import test_dataloader, test_evaluator, train_dataloader, val_dataloader, val_evaluator
