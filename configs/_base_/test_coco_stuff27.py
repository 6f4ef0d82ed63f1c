"""COCO-Stuff val with ReCo's squares, to test on: coco/val2017 and coco/stuffthingmaps/val2017; best of 171 names, then merged to 27."""
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
        dataset_name="COCO-Stuff",
        image_prefix="coco/val2017",
        label_prefix="coco/stuffthingmaps/val2017",
        classes="coco_stuff171_png",
        test_mode=True,
        transforms=[
            dict(type=LoadImage),
            dict(type=LoadLabelMap),
            dict(type=CenterSquare, size=320, interpolation="nearest"),
            dict(type=PackDetection),
        ],
    ),
)
test_evaluator = [dict(type=SemanticMetric, class_map="coco_stuff171_to_27")]
