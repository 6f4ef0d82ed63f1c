"""LVIS v1 with COCO's images, below the data root: annotations/lvis_v1_{train,val}.json, train2017/, val2017/."""
from mmengine.dataset import DefaultSampler

from ovdense.data.collate import collate_detection
from ovdense.data.description_queries import DescriptionQueries
from ovdense.data.detection import LvisDetection
from ovdense.data.samplers import ClassAwareSampler
from ovdense.data.transforms import LoadImage, PackDetection, RandomFlip, ResizeShortestEdge
from ovdense.evaluation.detection import LvisMetric

train_dataloader = dict(
    batch_size=2,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type=ClassAwareSampler, repeat_thr=0.001),
    collate_fn=dict(type=collate_detection),
    dataset=dict(
        type=LvisDetection,
        ann_file="annotations/lvis_v1_train.json",
        image_prefix="",
        transforms=[
            dict(type=LoadImage),
            dict(type=DescriptionQueries, prob_descriptions=0.7, num_pieces=8, name_prob=0.5, federated=True),
            dict(type=RandomFlip, prob=0.5),
            dict(type=ResizeShortestEdge, short_sides=(480, 560, 640, 720, 800), max_size=1333),
            dict(type=PackDetection),
        ],
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type=DefaultSampler, shuffle=False),
    collate_fn=dict(type=collate_detection),
    dataset=dict(
        type=LvisDetection,
        ann_file="annotations/lvis_v1_val.json",
        image_prefix="",
        prompt="descriptions",
        test_mode=True,
        transforms=[dict(type=LoadImage), dict(type=ResizeShortestEdge, short_sides=(800,), max_size=1333), dict(type=PackDetection)],
    ),
)
test_dataloader = val_dataloader
# the paper's numbers are fixed AP (arXiv 2102.01066)
val_evaluator = [dict(type=LvisMetric), dict(type=LvisMetric, fixed_ap=True, prefix="lvis_fixed")]
test_evaluator = val_evaluator
