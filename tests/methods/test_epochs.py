"""Training of so many epochs: every pass draws anew, schedules in epochs fit, and an interrupted one goes on where it stopped."""
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import DefaultSampler
from mmengine.hooks import ParamSchedulerHook
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.runner import IterBasedTrainLoop, Runner
from torch import nn

from ovdense.data.passes import DrawnDataset
from ovdense.data.samplers import ResumableInfiniteSampler
from ovdense.methods.checkpoints import AtomicCheckpointHook
from ovdense.methods.epochs import EpochTrainLoop
from ovdense.methods.hooks import IterationSeedHook
from ovdense.methods.mdetr.optim import MdetrRates, MdetrSchedule

LENGTH, BATCH, EPOCHS = 6, 2, 4


class Numbers(DrawnDataset):
    metainfo = {}

    def __len__(self):
        return LENGTH

    def __getitem__(self, index):
        return torch.tensor(self.draw_and_index(index))


class Notes(BaseModel):
    """Writes down what it is shown, and its rates."""

    def __init__(self):
        super().__init__()
        self.backbone, self.text_encoder, self.head = nn.Linear(1, 1), nn.Linear(1, 1), nn.Linear(1, 1)
        self.seen: list[list[tuple[int, int]]] = []
        self.rates: list[dict[str, float]] = []

    def train_step(self, data, optim_wrapper):
        self.rates.append({g["role"]: g["lr"] for g in optim_wrapper.param_groups if "role" in g})
        self.seen.append([tuple(pair.tolist()) for pair in data])
        optim_wrapper.update_params(sum(p.sum() for p in self.parameters()) ** 2)
        return {}

    def forward(self, *args, **kwargs):
        raise NotImplementedError


def run(folder, *, resume=False, sampler=ResumableInfiniteSampler, **loop):
    model = Notes()
    runner = Runner(
        model, work_dir=str(folder), default_scope="ovdense", randomness=dict(seed=0), resume=resume, experiment_name=f"epochs_{folder.name}_{resume}_{loop}",
        train_dataloader=dict(batch_size=BATCH, num_workers=0, sampler=dict(type=sampler, shuffle=True), dataset=Numbers()),
        train_cfg=dict(type=EpochTrainLoop, max_epochs=EPOCHS) | loop,
        optim_wrapper=dict(type=OptimWrapper, constructor=MdetrRates, optimizer=dict(type=torch.optim.SGD, lr=1e-3),
                           paramwise_cfg=dict(backbone_lr=1e-4, text_lr=1e-3)),
        param_scheduler=[dict(type=MdetrSchedule, total=EPOCHS, drop=3, warmup=0.0, by_epoch=True, convert_to_iter_based=True)],
        default_hooks=dict(param_scheduler=dict(type=ParamSchedulerHook), checkpoint=dict(type=AtomicCheckpointHook, interval=1, by_epoch=False)),
        custom_hooks=[dict(type=IterationSeedHook)],
    )  # fmt: skip
    runner.train()
    return model


def test_loop__draws_every_image_anew_in_every_epoch_and_follows_the_schedule(tmp_path):
    model = run(tmp_path)
    a_pass = LENGTH // BATCH
    assert len(model.seen) == EPOCHS * a_pass
    passes = [[pair for batch in model.seen[n * a_pass : (n + 1) * a_pass] for pair in batch] for n in range(EPOCHS)]
    for number, shown in enumerate(passes):
        assert sorted(shown) == [(number, n) for n in range(LENGTH)], "once a pass, and each time with a draw of its own"
    assert len({tuple(n for _, n in shown) for shown in passes}) > 1
    steps = EPOCHS * a_pass
    for step, rates in enumerate(model.rates):
        assert rates["base"] == pytest.approx(1e-3 * (0.1 if step >= 3 * a_pass else 1)) and rates["text"] == pytest.approx(1e-3 * (steps - step) / steps)


def test_loop__goes_on_in_the_middle_of_an_epoch(tmp_path):
    whole = run(tmp_path / "whole")
    first = run(tmp_path / "parts", max_iters=4)
    rest = run(tmp_path / "parts", resume=True)
    assert len(first.seen) == 4 and first.seen + rest.seen == whole.seen
    assert [r["text"] for r in first.rates + rest.rates] == pytest.approx([r["text"] for r in whole.rates])


def test_loop__refuses_a_sampler_that_does_not_count_passes(tmp_path):
    with pytest.raises(ValueError, match="such as ResumableInfiniteSampler, got DefaultSampler"):
        run(tmp_path, sampler=DefaultSampler)
    with pytest.raises(ValueError, match="max_epochs must be at least 1"):
        run(tmp_path, max_epochs=0)


CONFIGS = sorted((Path(__file__).resolve().parents[2] / "configs").glob("*.py"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_configs__train_on_images_drawn_anew_in_every_pass(path):
    """With MMEngine's DefaultSampler a data set of ours cuts and scales an image alike in all epochs."""
    cfg = Config.fromfile(str(path))
    if cfg.get("train_dataloader") is not None:
        assert hasattr(cfg.train_dataloader.sampler.type, "pass_length") and issubclass(cfg.train_cfg.type, IterBasedTrainLoop)
