"""Pascal VOC's form below the data root, to test on: voc_mini/VOCdevkit/VOC2012, 37 photos (COCO's, in coco_mini/), 21 classes with background."""
from mmengine.dataset import DefaultSampler

from ovdense.data.collate import collate_detection
from ovdense.data.label_maps import LoadLabelMap
from ovdense.data.segmentation import VocSegmentation
from ovdense.data.transforms import LoadImage, PackDetection, ResizeShortestEdge
from ovdense.evaluation.segmentation import SemanticMetric

test_dataloader = dict(
    batch_size=1,
    num_workers=1,
    sampler=dict(type=DefaultSampler, shuffle=False),
    collate_fn=dict(type=collate_detection),
    dataset=dict(
        type=VocSegmentation,
        split_file="voc_mini/VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt",
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
