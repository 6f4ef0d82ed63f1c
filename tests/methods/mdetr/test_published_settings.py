"""What the release's commands say (its .github/*.md at ea09acc), and that our configs say the same."""
from pathlib import Path

import pytest
from mmengine.config import Config

from ovdense.data.expressions import ExpressionDetection
from ovdense.methods.mdetr.criterion import MdetrCriterion
from ovdense.methods.mdetr.model import TestSettings

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
RATES = {  # config: rates of transformer, backbone and text; epochs and drop; images a GPU, and of all GPUs
    "pretrain_r101": (1e-4, 1e-5, 5e-5, 40, 35, 2, 64),
    "pretrain_eb3": (1e-4, 5e-5, 5e-5, 40, 35, 2, 64),
    "pretrain_eb5": (1e-4, 5e-5, 5e-5, 40, 35, 2, 64),
    "refcoco_r101": (5e-5, 1e-5, 1e-5, 5, 3, 4, 8),
    "refcoco_plus_r101": (5e-5, 1e-5, 1e-5, 5, 3, 4, 8),
    "refcocog_r101": (5e-5, 1e-5, 1e-5, 3, 2, 4, 8),
    "phrasecut_r101": (5e-5, 1e-5, 1e-5, 10, 11, 2, 64),
    "phrasecut_masks_r101": (1e-4, 1e-5, 5e-5, 35, 25, 2, 64),
    "gqa_r101": (1.4e-4, 1.4e-5, 7e-5, 5, 6, 4, 128),
    "lvis_r101": (1e-4, 1e-5, 5e-5, 150, 120, 2, 64),
}


@pytest.mark.parametrize("name", RATES)
def test_configs__rates_schedule_and_batch(name):
    cfg = Config.fromfile(str(CONFIGS / f"mdetr_{name}.py"))
    groups, (schedule,) = cfg.optim_wrapper.paramwise_cfg, cfg.param_scheduler
    assert (cfg.optim_wrapper.optimizer.lr, groups.backbone_lr, groups.text_lr, schedule.total, schedule.drop, cfg.train_dataloader.batch_size,
            cfg.auto_scale_lr.base_batch_size) == RATES[name]
    assert cfg.train_cfg.max_epochs == schedule.total and schedule.warmup == 0.01
    assert cfg.optim_wrapper.optimizer.weight_decay == 1e-4 and cfg.optim_wrapper.clip_grad.max_norm == 0.1
    assert MdetrCriterion(**cfg.model.criterion).auxiliary == (name != "gqa_r101")
    assert not TestSettings(**cfg.model.test).clip, "the release does not cut boxes"
    averaged = [h for h in cfg.custom_hooks if "EMA" in getattr(h.type, "__name__", str(h.type))]
    assert [h.momentum for h in averaged] == ([] if "masks" in name else [0.0002])


@pytest.mark.parametrize("name", ["refcoco_r101", "refcoco_plus_r101", "refcocog_r101", "phrasecut_masks_r101"])
def test_configs__expressions_are_asked_whole_and_scored_as_objects(name):
    cfg = Config.fromfile(str(CONFIGS / f"mdetr_{name}.py"))
    assert cfg.test_dataloader.dataset.type is ExpressionDetection and cfg.model.test.phrase_score == "object"
    assert cfg.model.test.get("score_thr", 0.0) in (0.0, cfg.test_evaluator[0].get("score_thr")), "nothing that the metric counts is left out"


def test_gqa__learns_from_train_and_val():
    cfg = Config.fromfile(str(CONFIGS / "mdetr_gqa_r101.py"))
    assert [d.ann_file.rpartition("_")[2] for d in cfg.train_dataloader.dataset.datasets] == ["train.json", "val.json"]
