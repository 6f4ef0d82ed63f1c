"""The embedded shapes as label maps, to test on: 120 classes and background, drawn on first use."""
from mmengine.dataset import DefaultSampler

from ovdense.data.collate import collate_detection
from ovdense.data.label_maps import LoadLabelMap
from ovdense.data.segmentation import ShapesSegmentation
from ovdense.data.transforms import LoadImage, PackDetection, ResizeShortestEdge
from ovdense.evaluation.segmentation import SemanticMetric

test_dataloader = dict(
    batch_size=1,
    num_workers=1,
    sampler=dict(type=DefaultSampler, shuffle=False),
    collate_fn=dict(type=collate_detection),
    dataset=dict(
        type=ShapesSegmentation,
        split="val",
        prompt="names",
        test_mode=True,
        first=60,
        transforms=[
            dict(type=LoadImage),
            dict(type=ResizeShortestEdge, short_sides=(384,), max_size=640),
            dict(type=LoadLabelMap),
            dict(type=PackDetection),
        ],
    ),
)
test_evaluator = [dict(type=SemanticMetric)]
