"""ReCo on embedded drawings, from weights that come with pip and know photos only; the archive is drawn on first use.

Paper: arXiv 2206.07045, at our scale. Nothing is trained or downloaded.
Train: nothing to train
Test:  python tools/test.py configs/reco_shapes_mini.py
"""
from mmengine.config import read_base
from mmengine.runner import TestLoop

with read_base():
    from ._base_.default_runtime import custom_hooks, default_scope, env_cfg, log_level, log_processor, randomness, visualizer
    from ._base_.test_shapes_seg import test_dataloader, test_evaluator

from ovdense.data.detection import ShapesDetection
from ovdense.methods.dual_encoder import ConseDualEncoder
from ovdense.methods.reco.model import ReCo
from ovdense.vision.trunk import TimmTrunk

model = dict(
    type=ReCo,
    encoder=dict(type=TimmTrunk, name="tf_efficientnet_lite0"),
    dense=dict(type=ConseDualEncoder),
    retriever=dict(type=ConseDualEncoder, centering=1.0),
    retrieval=dict(archive=dict(type=ShapesDetection, split="train"), k=20, px=384, index_px=384, index_square=False, use_synonyms=True),
    cosegmentation=dict(window="published", contexts=("tree", "sky", "building", "road", "person")),
    inference=dict(dense=True, background_thr=0.5, crf=None),
)
test_cfg = dict(type=TestLoop)
