"""OVDiff on 50 photos of COCO, 80 things and background, at CPU size: photos that the embedded encoder retrieves, features of embedded networks.

Paper: arXiv 2306.09316, with retrieved photos in place of drawn ones (Sec. 3.1), at our scale. No diffusion model. Data: coco_mini/ below the data root.
Train: nothing is trained
Test:  python tools/test.py configs/ovdiff_coco_object_mini.py --data-root DATA --show-dir overlays
"""
from mmengine.config import read_base

with read_base():
    from ._base_.default_runtime import custom_hooks, default_hooks, default_scope, env_cfg, load_from, log_level, log_processor, randomness, resume, visualizer
    from ._base_.ovdiff_photos import model, test_cfg, test_dataloader, test_evaluator, whole

from ovdense.data.segmentation import CocoSegmentation

model.stuff = ()
test_dataloader.dataset = dict(
    type=CocoSegmentation,
    ann_file="coco_mini/annotations/instances_val2017.json",
    image_prefix="coco_mini/val2017",
    test_mode=True,
    transforms=whole,
)
