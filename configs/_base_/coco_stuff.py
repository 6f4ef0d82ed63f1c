"""COCO-Stuff 164k, 171 classes: coco/{train,val}2017 and coco/stuffthingmaps/{train,val}2017 below the data root; 512-pixel crops."""
from mmengine.config import read_base

with read_base():
    from .crops_512 import crops, test_evaluator, train_dataloader, val_dataloader, val_evaluator, whole

from ovdense.data.segmentation import FolderSegmentation

train_dataloader.dataset = dict(
    type=FolderSegmentation,
    dataset_name="COCO-Stuff",
    image_prefix="coco/train2017",
    label_prefix="coco/stuffthingmaps/train2017",
    classes="coco_stuff171_png",
    transforms=crops,
)
val_dataloader.dataset = dict(
    type=FolderSegmentation,
    dataset_name="COCO-Stuff",
    image_prefix="coco/val2017",
    label_prefix="coco/stuffthingmaps/val2017",
    classes="coco_stuff171_png",
    test_mode=True,
    transforms=whole,
)
test_dataloader = val_dataloader
