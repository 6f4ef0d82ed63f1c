"""Cityscapes val with ReCo's squares, to test on: cityscapes/leftImg8bit/val and cityscapes/gtFine/val, the 27 classes from id 7 on."""
from mmengine.dataset import DefaultSampler

from ovdense.data.center_crop import CenterSquare
from ovdense.data.collate import collate_detection
from ovdense.data.label_maps import LoadLabelMap
from ovdense.data.segmentation import FolderSegmentation
from ovdense.data.transforms import LoadImage, PackDetection
from ovdense.evaluation.segmentation import SemanticMetric

test_dataloader = dict(
    batch_size=1,
    num_workers=4,
    sampler=dict(type=DefaultSampler, shuffle=False),
    collate_fn=dict(type=collate_detection),
    dataset=dict(
        type=FolderSegmentation,
        dataset_name="Cityscapes",
        image_prefix="cityscapes/leftImg8bit/val",
        label_prefix="cityscapes/gtFine/val",
        image_suffix="_leftImg8bit.png",
        label_suffix="_gtFine_labelIds.png",
        classes="cityscapes27_ids",
        test_mode=True,
        transforms=[
            dict(type=LoadImage),
            dict(type=LoadLabelMap),
            dict(type=CenterSquare, size=320, interpolation="nearest"),
            dict(type=PackDetection),
        ],
    ),
)
test_evaluator = [dict(type=SemanticMetric)]
