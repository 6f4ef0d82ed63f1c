"""OVDiff on 100 photos of COCO with things and stuff, at CPU size: photos that the embedded encoder retrieves, features of embedded networks.

Paper: arXiv 2306.09316, with retrieved photos in place of drawn ones (Sec. 3.1), at our scale. No diffusion model. Data: coco_mini/ below the data root.
Train: nothing is trained
Test:  python tools/test.py configs/ovdiff_context_mini.py --data-root DATA --show-dir overlays
"""
from mmengine.config import read_base

with read_base():
    from ._base_.default_runtime import custom_hooks, default_hooks, default_scope, env_cfg, load_from, log_level, log_processor, randomness, resume, visualizer
    from ._base_.ovdiff_photos import model, test_cfg, test_dataloader, test_evaluator, whole

from ovdense.data.segmentation import FolderSegmentation

model.support.archive = "coco_mini/val2017"
model.stuff = ("road", "sea", "snow", "sand", "river")
test_dataloader.dataset = dict(
    type=FolderSegmentation,
    dataset_name="COCO photos, 27 things and stuff",
    image_prefix="coco_mini/train2017",
    label_prefix="coco_mini/semantic_train2017",
    labelled_only=True,
    classes="coco_mini/annotations/semantic_classes.json",
    vocabulary=["person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "boat", "bird", "cat", "dog", "horse", "sheep", "elephant",
                "zebra", "giraffe", "chair", "couch", "bed", "toilet", "tv", "laptop", "road", "sea", "snow", "sand", "river"],
    test_mode=True,
    transforms=whole,
)
