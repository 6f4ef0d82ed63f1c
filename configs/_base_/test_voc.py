"""Pascal VOC 2012 val, to test on: VOCdevkit/VOC2012 below the data root, 1,449 photos, 21 classes with background."""
from mmengine.dataset import DefaultSampler

from ovdense.data.collate import collate_detection
from ovdense.data.label_maps import LoadLabelMap
from ovdense.data.segmentation import VocSegmentation
from ovdense.data.transforms import LoadImage, PackDetection, ResizeShortestEdge
from ovdense.evaluation.segmentation import SemanticMetric

test_dataloader = dict(
    batch_size=1,
    num_workers=4,
    sampler=dict(type=DefaultSampler, shuffle=False),
    collate_fn=dict(type=collate_detection),
    dataset=dict(
        type=VocSegmentation,
        split_file="VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt",
        test_mode=True,
        transforms=[
            dict(type=LoadImage),
            dict(type=ResizeShortestEdge, short_sides=(512,), max_size=2048),
            dict(type=LoadLabelMap),
            dict(type=PackDetection),
        ],
    ),
)
test_evaluator = [dict(type=SemanticMetric)]
