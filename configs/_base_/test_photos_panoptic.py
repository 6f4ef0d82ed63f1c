"""Photos with things and stuff below the data root, to test on: 100 of coco_mini/train2017 with COCO's 133 panoptic classes, no background class."""
from mmengine.dataset import DefaultSampler

from ovdense.data.collate import collate_detection
from ovdense.data.label_maps import LoadLabelMap
from ovdense.data.segmentation import FolderSegmentation
from ovdense.data.transforms import LoadImage, PackDetection, ResizeShortestEdge
from ovdense.evaluation.segmentation import SemanticMetric

test_dataloader = dict(
    batch_size=1,
    num_workers=1,
    sampler=dict(type=DefaultSampler, shuffle=False),
    collate_fn=dict(type=collate_detection),
    dataset=dict(
        type=FolderSegmentation,
        dataset_name="COCO photos, things and stuff",
        image_prefix="coco_mini/train2017",
        label_prefix="coco_mini/semantic_train2017",
        labelled_only=True,
        classes="coco_panoptic133_ids",
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
