"""OVDiff on 37 photos in Pascal VOC's form, at CPU size: photos that the embedded encoder retrieves, features of embedded networks.

Paper: arXiv 2306.09316, with retrieved photos in place of drawn ones (Sec. 3.1), at our scale. No diffusion model. Data: coco_mini/ below the data root.
Result, 37 photos: mIoU 17.4, without background prototypes 6.7, without pre-filter 19.0; with 1 to 6 photos a class with masks (--exemplars) 23.7.
Train: nothing is trained
Test:  python tools/test.py configs/ovdiff_voc_mini.py --data-root DATA --show-dir overlays
"""
from mmengine.config import read_base

with read_base():
    from ._base_.default_runtime import custom_hooks, default_hooks, default_scope, env_cfg, load_from, log_level, log_processor, randomness, resume, visualizer
    from ._base_.ovdiff_photos import model, test_cfg, test_dataloader, test_evaluator, whole

from ovdense.data.segmentation import VocSegmentation

model.stuff = ()
test_dataloader.dataset = dict(
    type=VocSegmentation,
    split_file="voc_mini/VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt",
    image_prefix="coco_mini/val2017",
    test_mode=True,
    transforms=whole,
)
