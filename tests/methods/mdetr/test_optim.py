"""MDETR's groups of rates and the text encoder's own schedule."""
import pytest
import torch
from mmengine.optim import OptimWrapper, build_optim_wrapper
from torch import nn
from torch.optim import AdamW

from ovdense.methods.mdetr.optim import MdetrRates, MdetrSchedule


class Parts(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone, self.text_encoder, self.head = nn.Linear(1, 1), nn.Linear(1, 1), nn.Linear(1, 1)
        self.backbone.bias.requires_grad_(False)


def wrapper():
    return build_optim_wrapper(Parts(), dict(type=OptimWrapper, constructor=MdetrRates, optimizer=dict(type=AdamW, lr=1e-4, weight_decay=1e-4),
                                             paramwise_cfg=dict(backbone_lr=1e-5, text_lr=5e-5)))


def test_rates__three_groups_without_frozen_parameters():
    groups = wrapper().param_groups
    assert {g["role"]: (g["lr"], len(g["params"])) for g in groups if "role" in g} == {"base": (1e-4, 2), "backbone": (1e-5, 1), "text": (5e-5, 2)}
    assert all(g["weight_decay"] == 1e-4 for g in groups if "role" in g)


def test_rates__unknown_settings_are_named():
    with pytest.raises(ValueError, match="backbone_lr"):
        MdetrRates(dict(type=OptimWrapper, optimizer=dict(type=AdamW, lr=1.0)), dict(text=1))


def rates(published, steps=12):
    optim = wrapper()
    schedule = MdetrSchedule(optim, total=10, drop=8, warmup=0.2, published_first_step=published)
    found = []
    for _ in range(steps):
        found.append({g["role"]: round(g["lr"], 12) for g in optim.param_groups if "role" in g})
        optim.step()
        schedule.step()
    return found


def test_schedule__text_warms_up_and_falls_to_zero_while_the_rest_drops_once():
    found = rates(published=False)
    text = [0, 0.5, 1.0, *[(10 - s) / 8 for s in range(3, 10)], 0, 0]
    for step, row in enumerate(found):
        assert row["text"] == pytest.approx(5e-5 * text[step])
        assert row["base"] == pytest.approx(1e-4 * 0.1 ** (step // 8)) and row["backbone"] == pytest.approx(row["base"] / 10)


def test_schedule__published_first_step_is_one_late_with_the_full_text_rate_first():
    own, published = rates(published=False), rates(published=True)
    assert published[0] == {"base": 1e-4, "backbone": 1e-5, "text": 5e-5}
    assert published[1:] == own[:-1]


def test_schedule__resumes_where_it_was():
    optim = wrapper()
    schedule = MdetrSchedule(optim, total=10, drop=8, warmup=0.2)
    for _ in range(5):
        optim.step()
        schedule.step()
    state = schedule.state_dict()
    again = MdetrSchedule(wrapper(), total=10, drop=8, warmup=0.2)
    again.load_state_dict(state)
    assert again.last_step == 5 and again.get_last_value() == schedule.get_last_value()


def test_schedule__settings_are_checked():
    with pytest.raises(ValueError, match="total at least 1"):
        MdetrSchedule(torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0), total=0, drop=1)


def test_schedule__in_epochs_keeps_begin_and_end():
    schedule = MdetrSchedule.build_iter_from_epoch(wrapper(), total=10, drop=8, begin=1, end=6, epoch_length=5)
    assert (schedule.total, schedule.drop, schedule.begin, schedule.end) == (50, 40, 5, 30)
