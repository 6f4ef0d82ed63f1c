"""ReCo on Pascal VOC, as released: ImageNet as the archive, CLIP ViT-L/14@336 to retrieve, RN50x16 for text attention, DeiT-S/16-SIN to co-segment.

Paper: arXiv 2206.07045, with model.inference.background_thr; the release has no background, and no VOC.
The weights: model.encoder.weights=DeiT-S-SIN.pth model.dense.pretrained=RN50x16.pt model.retriever.pretrained=ViT-L-14-336px.pt
(each with --cfg-options; nothing is downloaded). A dense CRF: model.inference.crf=True.
Train: nothing to train
Test:  python tools/test.py configs/reco_voc.py --data-root DATA --cfg-options WEIGHTS
"""
from mmengine.config import read_base
from mmengine.runner import TestLoop

with read_base():
    from ._base_.default_runtime import custom_hooks, default_scope, env_cfg, log_level, log_processor, randomness, visualizer
    from ._base_.reco_published import model
    from ._base_.test_voc import test_dataloader, test_evaluator

model.retrieval.said = {"diningtable": "dining table", "pottedplant": "potted plant", "tvmonitor": "tv monitor"}
test_cfg = dict(type=TestLoop)
