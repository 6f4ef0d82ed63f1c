"""DesCo-GLIP-T as published, trained as published: Objects365 with descriptions, GoldG twice and Flickr30k twice a pass; tested on LVIS.

Paper: arXiv 2306.14060 (LVIS minival AP 34.6, by descriptions, of the released weights). The released weights of Swin-T and
BERT start it where load_from names a converted file; else all weights start random. What the language model said is not
published with the paper's numbers of images: tools/describe_vocabulary.py makes descriptions of classes.
Data, below the data root: objects365/, gqa and coco photos and flickr30k/ with MDETR's annotation files, see _base_/o365_goldg.py.
Train: torchrun --nproc-per-node 8 tools/train.py configs/desco_o365_goldg.py --launcher pytorch --amp --data-root DATA
Test:  python tools/test.py configs/desco_o365_goldg.py CHECKPOINT --data-root DATA
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
    from ._base_.lvis import test_dataloader, test_evaluator, val_dataloader, val_evaluator
    from ._base_.o365_goldg import train_dataloader
