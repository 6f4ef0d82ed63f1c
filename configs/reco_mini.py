"""ReCo on 37 photos in Pascal VOC's form, from weights that come with pip; the archive is 178 photos.

Paper: arXiv 2206.07045, at our scale. Nothing is trained or downloaded.
Result: 6.4 mIoU, 9.7 pixel accuracy on 37 photos, 21 classes: less than its dense encoder alone (maskclip_voc_mini.py). The retrieved
photos are right (tools/show_support.py), the seeds are not: they fall on sky, ground and borders, which are alike in all photos.
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
    cosegmentation=dict(window="published", contexts=("tree", "sky", "building", "road", "person")),
    inference=dict(dense=True, background_thr=0.5, crf=None),
)
test_cfg = dict(type=TestLoop)
