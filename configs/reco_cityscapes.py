"""ReCo on Cityscapes-27, as released: ImageNet as the archive, CLIP ViT-L/14@336 to retrieve, RN50x16 for text attention, DeiT-S/16-SIN to co-segment.

Paper: arXiv 2206.07045, 19.3 mIoU, 74.6 pixel accuracy (paper).
The weights: model.encoder.weights=DeiT-S-SIN.pth model.dense.pretrained=RN50x16.pt model.retriever.pretrained=ViT-L-14-336px.pt
(each with --cfg-options; nothing is downloaded). A dense CRF: model.inference.crf="{}".
Train: nothing to train
Test:  python tools/test.py configs/reco_cityscapes.py --data-root DATA --cfg-options WEIGHTS
"""
from mmengine.config import read_base
from mmengine.runner import TestLoop

with read_base():
    from ._base_.default_runtime import custom_hooks, default_scope, env_cfg, log_level, log_processor, randomness, visualizer
    from ._base_.test_cityscapes27 import test_dataloader, test_evaluator

from ovdense.methods.dual_encoder import ClipDualEncoder
from ovdense.methods.reco.model import ReCo
from ovdense.vision.vit import VitBackbone

model = dict(
    type=ReCo,
    encoder=dict(type=VitBackbone, name="deit_small_distilled_patch16_224", weights=None),
    # both towers see images normalised as for ImageNet, as in the release
    dense=dict(
        type=ClipDualEncoder, model_name="RN50x16-quickgelu", pretrained=None, templates="imagenet_scene", mean=(123.675, 116.28, 103.53),
        std=(58.395, 57.12, 57.375),
    ),
    retriever=dict(type=ClipDualEncoder, model_name="ViT-L-14-336-quickgelu", pretrained=None, templates="imagenet_scene"),
    retrieval=dict(archive="ImageNet2012/train", k=50, px=224, index_px=336),
    cosegmentation=dict(window="published", contexts=("tree", "sky", "building", "road", "person")),
    inference=dict(dense=True, background_thr=None, crf=None),
)
test_cfg = dict(type=TestLoop)
