"""ReCo on COCO-Stuff-27, as released: ImageNet as the archive, CLIP ViT-L/14@336 to retrieve, RN50x16 for text attention, DeiT-S/16-SIN to co-segment.

Paper: arXiv 2206.07045, 26.3 mIoU, 46.1 pixel accuracy (paper).
The weights: model.encoder.weights=DeiT-S-SIN.pth model.dense.pretrained=RN50x16.pt model.retriever.pretrained=ViT-L-14-336px.pt
(each with --cfg-options; nothing is downloaded). A dense CRF: model.inference.crf=True.
Train: nothing to train
Test:  python tools/test.py configs/reco_coco_stuff.py --data-root DATA --cfg-options WEIGHTS
"""
from mmengine.config import read_base
from mmengine.runner import TestLoop

with read_base():
    from ._base_.default_runtime import custom_hooks, default_scope, env_cfg, log_level, log_processor, randomness, visualizer
    from ._base_.reco_published import model
    from ._base_.test_coco_stuff27 import test_dataloader, test_evaluator

model.retrieval.said = {  # as the release writes them
    "building-other": "building other", "ceiling-other": "ceiling other", "ceiling-tile": "ceiling tile", "desk-stuff": "desk stuff",
    "door-stuff": "door stuff", "floor-marble": "floor marble", "floor-other": "floor other", "floor-stone": "floor stone", "floor-tile": "floor tile",
    "floor-wood": "floor wood", "food-other": "food other", "furniture-other": "furniture other", "ground-other": "ground other",
    "mirror-stuff": "mirror stuff", "plant-other": "plant other", "sky-other": "sky other", "solid-other": "solid other",
    "structural-other": "structural other", "textile-other": "textile other", "wall-brick": "wall brick", "wall-concrete": "wall concrete",
    "wall-other": "wall other", "wall-panel": "wall panel", "wall-stone": "wall stone", "wall-tile": "wall tile", "wall-wood": "wall wood",
    "water-other": "water other", "window-blind": "window blind", "window-other": "window other",
}
test_cfg = dict(type=TestLoop)
