"""ReCo on 50 photos in COCO's form, 80 names and background, from weights that come with pip; the archive is 178 photos.

Paper: arXiv 2206.07045, at our scale. Nothing is trained or downloaded.
Result: 9.5 mIoU, 72.7 pixel accuracy on 50 photos, 81 classes (its dense encoder alone: 8.5, 66.5).
Train: nothing to train
Test:  python tools/test.py configs/reco_coco_mini.py --data-root DATA
"""
from mmengine.config import read_base
from mmengine.runner import TestLoop

with read_base():
    from ._base_.default_runtime import custom_hooks, default_scope, env_cfg, log_level, log_processor, randomness, visualizer
    from ._base_.test_photos_coco import test_dataloader, test_evaluator

from ovdense.methods.dual_encoder import ConseDualEncoder
from ovdense.methods.reco.model import ReCo
from ovdense.vision.trunk import TimmTrunk

model = dict(
    type=ReCo,
    encoder=dict(type=TimmTrunk, name="tf_efficientnet_lite0"),
    dense=dict(type=ConseDualEncoder),
    retriever=dict(type=ConseDualEncoder, centering=1.0),
    retrieval=dict(archive="coco_mini/train2017", k=10, px=384, index_px=384, index_square=False, use_synonyms=True),
    # the dense encoder's cosines are far larger than CLIP's: with the published attention, sigmoid(10 cos), everything is attended to
    cosegmentation=dict(window="image", context_elimination=False, temperature=20.0, centre=0.7),
    inference=dict(dense=True, background_thr=0.2, crf=None),
)
test_cfg = dict(type=TestLoop)
