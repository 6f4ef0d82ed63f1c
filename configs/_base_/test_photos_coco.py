"""COCO form below the data root, to test on: the instances of coco_mini/val2017 (50 photos) as label maps, 80 classes and background."""
from mmengine.dataset import DefaultSampler

from ovdense.data.collate import collate_detection
from ovdense.data.label_maps import LoadLabelMap
from ovdense.data.segmentation import CocoSegmentation
from ovdense.data.transforms import LoadImage, PackDetection, ResizeShortestEdge
from ovdense.evaluation.segmentation import SemanticMetric

test_dataloader = dict(
    batch_size=1,
    num_workers=1,
    sampler=dict(type=DefaultSampler, shuffle=False),
    collate_fn=dict(type=collate_detection),
    dataset=dict(
        type=CocoSegmentation,
        ann_file="coco_mini/annotations/instances_val2017.json",
        image_prefix="coco_mini/val2017",
        test_mode=True,
        transforms=[
            dict(type=LoadImage),
            dict(type=ResizeShortestEdge, short_sides=(384,), max_size=640),
            dict(type=LoadLabelMap),
            dict(type=PackDetection),
        ],
    ),
)
test_evaluator = [dict(type=SemanticMetric)]
