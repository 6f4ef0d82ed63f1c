"""OmniLabel below the data root: omnilabel/dataset_all_val_v0.1.4.json and the photos that it names, below omnilabel/."""
from mmengine.dataset import DefaultSampler

from ovdense.data.collate import collate_detection
from ovdense.data.described import OmniLabelDetection
from ovdense.data.transforms import LoadImage, PackDetection, ResizeShortestEdge
from ovdense.evaluation.omnilabel import OmniLabelMetric

test_dataloader = dict(
    batch_size=1,  # each image has its own label space
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type=DefaultSampler, shuffle=False),
    collate_fn=dict(type=collate_detection),
    dataset=dict(
        type=OmniLabelDetection,
        ann_file="omnilabel/dataset_all_val_v0.1.4.json",
        image_prefix="omnilabel",
        prompt="texts",
        transforms=[dict(type=LoadImage), dict(type=ResizeShortestEdge, short_sides=(800,), max_size=1333), dict(type=PackDetection)],
    ),
)
test_evaluator = [dict(type=OmniLabelMetric)]
