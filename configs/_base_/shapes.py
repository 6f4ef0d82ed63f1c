"""The embedded data set: scenes that need their description, drawn on first use."""
from mmengine.dataset import DefaultSampler

from ovdense.data.collate import collate_detection
from ovdense.data.description_queries import DescriptionQueries
from ovdense.data.detection import ShapesDetection
from ovdense.data.samplers import ResumableInfiniteSampler
from ovdense.data.transforms import LoadImage, PackDetection, RandomFlip, ResizeShortestEdge
from ovdense.evaluation.descriptions import PairRankingMetric
from ovdense.evaluation.detection import LvisMetric

train_dataloader = dict(
    batch_size=8,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type=ResumableInfiniteSampler, shuffle=True),
    collate_fn=dict(type=collate_detection),
    dataset=dict(
        type=ShapesDetection,
        split="train",
        transforms=[
            dict(type=LoadImage),
            # every piece keeps its noun: a shape's description says everything but the noun. An image holds up to seven classes,
            # most chunks of the vocabulary none of them: twelve pieces, and every fifth caption without any
            dict(type=DescriptionQueries, prob_descriptions=1.0, num_pieces=12, name_prob=1.0, confusable=0.5, only_negatives=0.2),
            dict(type=RandomFlip, prob=0.5),
            dict(type=ResizeShortestEdge, short_sides=(256,), max_size=384),
            dict(type=PackDetection),
        ],
    ),
)
val_dataloader = dict(
    batch_size=10,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type=DefaultSampler, shuffle=False),
    collate_fn=dict(type=collate_detection),
    dataset=dict(
        type=ShapesDetection,
        split="val",
        prompt="descriptions",
        test_mode=True,
        transforms=[dict(type=LoadImage), dict(type=ResizeShortestEdge, short_sides=(256,), max_size=384), dict(type=PackDetection)],
    ),
)
test_dataloader = val_dataloader
val_evaluator = [dict(type=LvisMetric), dict(type=PairRankingMetric)]
test_evaluator = val_evaluator
