"""MDETR on Flickr30k Entities' test captions: the pretrained weights, asked for the phrases of each caption.

Paper: arXiv 2104.12763. Published test, AnyBox: R@1 83.4, R@5 93.5, R@10 95.3; MergedBox 83.8, 92.7, 94.4. Training is the pretraining.
Train: torchrun --nproc-per-node 8 tools/train.py configs/mdetr_flickr_r101.py --launcher pytorch --data-root DATA
Test:  python tools/test.py configs/mdetr_flickr_r101.py CHECKPOINT --data-root DATA
"""
from mmengine.config import read_base

with read_base():
    from ._base_.default_runtime import default_hooks, default_scope, env_cfg, log_level, log_processor, randomness, resume, visualizer
    from ._base_.mdetr_data import test_dataloader, train_dataloader
    from ._base_.mdetr_r101 import auto_scale_lr, custom_hooks, model, optim_wrapper

from ovdense.evaluation.grounding import PhraseGroundingMetric
from ovdense.methods.asking import CaptionTestLoop
from ovdense.methods.epochs import EpochTrainLoop
from ovdense.methods.mdetr.optim import MdetrSchedule

load_from = None
test_dataloader.dataset.ann_file = "mdetr_annotations/final_flickr_separateGT_test.json"
test_evaluator = [dict(type=PhraseGroundingMetric, entities="flickr30k/flickr30k_entities")]
train_cfg = dict(type=EpochTrainLoop, max_epochs=40)
test_cfg = dict(type=CaptionTestLoop)
param_scheduler = [dict(type=MdetrSchedule, total=40, drop=35, warmup=0.01, by_epoch=True, convert_to_iter_based=True)]
