"""Pascal VOC 2012, 21 classes with background: VOCdevkit/VOC2012 below the data root; `train` is 1,464 photos, put `trainaug` there where you have it."""
from mmengine.config import read_base

with read_base():
    from .crops_512 import crops, test_evaluator, train_dataloader, val_dataloader, val_evaluator, whole

from ovdense.data.segmentation import VocSegmentation

train_dataloader.dataset = dict(type=VocSegmentation, split_file="VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt", transforms=crops)
val_dataloader.dataset = dict(type=VocSegmentation, split_file="VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt", test_mode=True, transforms=whole)
test_dataloader = val_dataloader
