"""LVIS v1 form below the data root: lvis_mini/annotations/lvis_v1_{train,val}.json, photos in coco_mini/."""
from mmengine.dataset import DefaultSampler

from ovdense.data.collate import collate_detection
from ovdense.data.description_queries import DescriptionQueries
from ovdense.data.detection import LvisDetection
from ovdense.data.samplers import ResumableInfiniteSampler
from ovdense.data.transforms import LoadImage, PackDetection, RandomFlip, ResizeShortestEdge
from ovdense.evaluation.detection import LvisMetric

train_dataloader = dict(
    batch_size=4,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type=ResumableInfiniteSampler, shuffle=True),
    collate_fn=dict(type=collate_detection),
    dataset=dict(
        type=LvisDetection,
        ann_file="lvis_mini/annotations/lvis_v1_train.json",
        image_prefix="coco_mini/train2017",
        transforms=[
            dict(type=LoadImage),
            dict(type=DescriptionQueries, prob_descriptions=0.7, num_pieces=20, name_prob=0.5, confusable=0.0, federated=True, num_name_negatives=None),
            dict(type=RandomFlip, prob=0.5),
            dict(type=ResizeShortestEdge, short_sides=(288,), max_size=480),
            dict(type=PackDetection),
        ],
    ),
)
val_dataloader = dict(
    batch_size=1,  # padding is seen by the network: a result must not depend on what else is in the batch
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type=DefaultSampler, shuffle=False),
    collate_fn=dict(type=collate_detection),
    dataset=dict(
        type=LvisDetection,
        ann_file="lvis_mini/annotations/lvis_v1_val.json",
        image_prefix="coco_mini/val2017",
        prompt="names",
        test_mode=True,
        transforms=[dict(type=LoadImage), dict(type=ResizeShortestEdge, short_sides=(288,), max_size=480), dict(type=PackDetection)],
    ),
)
test_dataloader = val_dataloader
val_evaluator = [dict(type=LvisMetric)]
test_evaluator = val_evaluator
