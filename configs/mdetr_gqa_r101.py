"""MDETR on GQA as published: question answering with a slot and a head for each type of question, from the pretrained weights.

Paper: arXiv 2104.12763. 125 chunks, 25 of which are an epoch, without a drop of rates; only the last decoder layer's predictions are trained, 128 questions
a step. Published test-dev accuracy 62.48 (trained on all questions of train and val, tested on the balanced ones of testdev).
Data: tools/build_grounding.py gqa train_all_questions train_sceneGraphs.json --answers gqa_answer2id_by_type.json; val likewise; for testdev, which has
no scene graphs, --images FOLDER instead.
Train: torchrun --nproc-per-node 8 tools/train.py configs/mdetr_gqa_r101.py --launcher pytorch --data-root DATA
Test:  python tools/test.py configs/mdetr_gqa_r101.py CHECKPOINT --data-root DATA
"""
from mmengine.config import read_base

with read_base():
    from ._base_.default_runtime import default_hooks, default_scope, env_cfg, log_level, log_processor, randomness, resume, visualizer
    from ._base_.mdetr_data import asked, augmented, test_dataloader, train_dataloader
    from ._base_.mdetr_r101 import custom_hooks, model, optim_wrapper

from torch.optim import AdamW

from ovdense.data.grounding import GroundingDetection, MixedDataset, QuestionDetection
from ovdense.evaluation.answers import AnswerMetric
from ovdense.methods.asking import CaptionTestLoop
from ovdense.methods.epochs import EpochTrainLoop
from ovdense.methods.mdetr.optim import MdetrSchedule

optim_wrapper.optimizer = dict(type=AdamW, lr=1.4e-4, weight_decay=1e-4, fused=True)
optim_wrapper.paramwise_cfg = dict(backbone_lr=1.4e-5, text_lr=7e-5)
model.head = dict(columns=256, align_width=0, answers="gqa")
model.criterion = dict(answer_weight=25.0, align_weight=0.0, auxiliary=False)
auto_scale_lr = dict(enable=False, base_batch_size=128)
load_from = "checkpoints/mdetr_pretrained_r101.pth"
train_dataloader.batch_size = 4
train_dataloader.dataset = dict(
    type=MixedDataset,
    datasets=[
        dict(
            type=GroundingDetection,
            dataset_name="GQA",
            ann_file=f"mdetr_annotations/gqa_questions_{split}.json",
            image_prefix="vg/images",
            filter_empty=False,
            invalid_boxes="drop",
            transforms=augmented,
        )
        for split in ("train", "val")
    ],
)
test_dataloader.dataset = dict(
    type=QuestionDetection,
    dataset_name="GQA",
    ann_file="mdetr_annotations/gqa_questions_testdev.json",
    image_prefix="vg/images",
    transforms=asked,
    invalid_boxes="drop",
)
test_evaluator = [dict(type=AnswerMetric)]
train_cfg = dict(type=EpochTrainLoop, max_epochs=5)
test_cfg = dict(type=CaptionTestLoop)
param_scheduler = [dict(type=MdetrSchedule, total=5, drop=6, warmup=0.01, by_epoch=True, convert_to_iter_based=True)]
