"""Pascal VOC's form below the data root: voc_mini/VOCdevkit/VOC2012, 137 training and 37 validation photos, 21 classes with background.

The photos are COCO's, in coco_mini/.
"""
from mmengine.dataset import DefaultSampler

from ovdense.data.collate import collate_detection
from ovdense.data.label_maps import CropPatch, LoadLabelMap
from ovdense.data.samplers import ResumableInfiniteSampler
from ovdense.data.segmentation import VocSegmentation
from ovdense.data.transforms import LoadImage, PackDetection, ResizeShortestEdge
from ovdense.evaluation.segmentation import SemanticMetric

train_dataloader = dict(
    batch_size=8,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type=ResumableInfiniteSampler, shuffle=True),
    collate_fn=dict(type=collate_detection),
    dataset=dict(
        type=VocSegmentation,
        split_file="voc_mini/VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt",
        image_prefix="coco_mini/train2017",
        # a frozen backbone that remembers an image by its pixels: all of one size, nothing random
        transforms=[
            dict(type=LoadImage),
            dict(type=LoadLabelMap),
            dict(type=ResizeShortestEdge, short_sides=(320,), max_size=320),
            dict(type=CropPatch, size_hw=(320, 320)),
            dict(type=PackDetection),
        ],
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type=DefaultSampler, shuffle=False),
    collate_fn=dict(type=collate_detection),
    dataset=dict(
        type=VocSegmentation,
        split_file="voc_mini/VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt",
        image_prefix="coco_mini/val2017",
        test_mode=True,
        transforms=[
            dict(type=LoadImage),
            dict(type=ResizeShortestEdge, short_sides=(320,), max_size=320),
            dict(type=LoadLabelMap),
            dict(type=PackDetection),
        ],
    ),
)
test_dataloader = val_dataloader
val_evaluator = [dict(type=SemanticMetric)]
test_evaluator = val_evaluator
