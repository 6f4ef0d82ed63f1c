"""OVDiff on Pascal VOC 2012, 21 classes with background: support images by Stable Diffusion 1.5, prototypes of diffusion queries, CLIP and DINO keys.

Paper: arXiv 2306.09316 (ECCV 2024): mIoU 67.1, with PAMR 69.0; an independent run gave 65.7. Published masks are CutLER's: see `masks`.
Train: nothing is trained; python tools/build_support_set.py configs/ovdiff_voc.py draws the support images (about 210 s a class)
Test:  python tools/test.py configs/ovdiff_voc.py --data-root DATA
"""
from mmengine.config import read_base

with read_base():
    from ._base_.default_runtime import custom_hooks, default_hooks, default_scope, env_cfg, load_from, log_level, log_processor, randomness, resume, visualizer
    from ._base_.ovdiff_published import model, test_cfg, test_dataloader, test_evaluator, whole

from ovdense.data.segmentation import VocSegmentation

model.support.renamed = {"aeroplane": "airplane", "diningtable": "table", "pottedplant": "potted plant", "tvmonitor": "monitor"}
model.prefilter.renamed = model.support.renamed
model.stuff = ()
test_dataloader.dataset = dict(
    type=VocSegmentation,
    split_file="VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt",
    test_mode=True,
    transforms=whole,
)
