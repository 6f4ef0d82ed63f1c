"""Captions of the embedded scenes of shapes: several phrases each, told by noun, attribute or relation; made on first use."""
from mmengine.dataset import DefaultSampler

from ovdense.data.collate import collate_detection
from ovdense.data.grounding import MixedDataset, ShapesGrounding, ShapesPhraseGrounding
from ovdense.data.samplers import ResumableInfiniteSampler
from ovdense.data.transforms import LoadImage, PackDetection, RandomFlip, ResizeShortestEdge
from ovdense.evaluation.grounding import PhraseGroundingMetric

train_dataloader = dict(
    batch_size=8,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type=ResumableInfiniteSampler, shuffle=True),
    collate_fn=dict(type=collate_detection),
    # three drawings of a thousand scenes each: with one, a training learns its scenes by heart before it reads attributes
    dataset=dict(
        type=MixedDataset,
        datasets=[
            dict(
                type=ShapesGrounding,
                split="train",
                shapes_seed=seed,
                transforms=[dict(type=LoadImage), dict(type=RandomFlip, prob=0.5, swap_sides=True), dict(type=PackDetection)],
            )
            for seed in (0, 1, 2)
        ],
    ),
)
test_dataloader = dict(
    batch_size=1,  # each image is asked its own caption
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type=DefaultSampler, shuffle=False),
    collate_fn=dict(type=collate_detection),
    dataset=dict(
        type=ShapesPhraseGrounding,
        split="val",
        transforms=[dict(type=LoadImage), dict(type=ResizeShortestEdge, short_sides=(256,), max_size=384), dict(type=PackDetection)],
    ),
)
test_evaluator = [dict(type=PhraseGroundingMetric)]
