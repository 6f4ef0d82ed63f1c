"""DesCo-GLIP-T as published, trained and tested on COCO 2017 by names, all 80 in one caption.

Paper: arXiv 2306.14060, 2112.03857. All weights start random unless load_from names a converted released file.
Data, below the data root: annotations/instances_{train,val}2017.json, train2017/, val2017/.
Train: torchrun --nproc-per-node 8 tools/train.py configs/desco_coco.py --launcher pytorch --amp --data-root data/coco
Test:  python tools/test.py configs/desco_coco.py CHECKPOINT --data-root data/coco
"""
from mmengine.config import read_base

with read_base():
    from ._base_.coco import test_dataloader, test_evaluator, train_dataloader, val_dataloader, val_evaluator
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

# the release keeps 100 detections an image here, 300 a caption on LVIS alone
model.test = dict(max_classes=None, max_tokens=256, score_thr=0.05, nms_iou=0.6, chunk_dets=100, max_dets=100)
