"""OVDiff on COCO-Object, COCO's 80 things and background: support images by Stable Diffusion 1.5, prototypes of diffusion queries, CLIP and DINO keys.

Paper: arXiv 2306.09316 (ECCV 2024), mIoU 34.8, with PAMR 36.3. Class-agnostic masks as published are CutLER's: see `masks`.
Train: nothing is trained; python tools/build_support_set.py configs/ovdiff_coco_object.py draws the support images (about 210 s a class)
Test:  python tools/test.py configs/ovdiff_coco_object.py --data-root DATA
"""
from mmengine.config import read_base

with read_base():
    from ._base_.default_runtime import custom_hooks, default_hooks, default_scope, env_cfg, load_from, log_level, log_processor, randomness, resume, visualizer
    from ._base_.ovdiff_published import model, test_cfg, test_dataloader, test_evaluator, whole

from ovdense.data.segmentation import CocoSegmentation

model.support.renamed = {"keyboard": "computer keyboard"}
model.prefilter.renamed = model.support.renamed
model.stuff = ()
test_dataloader.dataset = dict(
    type=CocoSegmentation,
    ann_file="coco/annotations/instances_val2017.json",
    image_prefix="coco/val2017",
    test_mode=True,
    transforms=whole,
)
