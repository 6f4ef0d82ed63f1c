"""OVDiff on Pascal Context, 59 classes and background: support images by Stable Diffusion 1.5, prototypes of diffusion queries, CLIP and DINO keys.

Paper: arXiv 2306.09316 (ECCV 2024), mIoU 30.1, with PAMR 31.4. Class-agnostic masks as published are CutLER's: see `masks`.
Train: nothing is trained; python tools/build_support_set.py configs/ovdiff_context.py draws the support images (about 210 s a class)
Test:  python tools/test.py configs/ovdiff_context.py --data-root DATA
"""
from mmengine.config import read_base

with read_base():
    from ._base_.default_runtime import custom_hooks, default_hooks, default_scope, env_cfg, load_from, log_level, log_processor, randomness, resume, visualizer
    from ._base_.ovdiff_published import model, test_cfg, test_dataloader, test_evaluator, whole

from ovdense.data.segmentation import FolderSegmentation

model.support.renamed = {"aeroplane": "airplane", "pottedplant": "potted plant", "tvmonitor": "monitor", "keyboard": "computer keyboard"}
model.prefilter.renamed = model.support.renamed
model.stuff = ("bedclothes", "ceiling", "cloth", "curtain", "fence", "floor", "grass", "ground",
           "mountain", "platform", "road", "rock", "sidewalk", "sky", "snow", "track", "wall", "water", "wood")
test_dataloader.dataset = dict(
    type=FolderSegmentation,
    dataset_name="Pascal Context",
    image_prefix="VOCdevkit/VOC2010/JPEGImages",
    label_prefix="VOCdevkit/VOC2010/SegmentationClassContext",
    labelled_only=True,
    classes="context60",
    test_mode=True,
    transforms=whole,
)
