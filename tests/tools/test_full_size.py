"""The published model at its full size (232 million weights, random ones) with the two configs for GPUs that are too small for it: one step.

The first takes 6 GB of memory, the second 7 on two ranks; a machine that has less leaves them out and says so.
"""
import json
import time
from pathlib import Path

import pytest
import torch

from tests.ranks import call_on_ranks
from tests.tiny_run import ROOT, shapes

SMALL = {
    "train_dataloader.dataset.ann_file": "annotations/shapes_train.json", "train_dataloader.dataset.image_prefix": "images", "train_dataloader.num_workers": 0,
    "train_dataloader.persistent_workers": False, "train_dataloader.dataset.transforms.3.short_sides": (128,), "train_dataloader.batch_size": 1,
    "default_hooks.checkpoint.save_last": False,
}  # fmt: skip


class Notes:
    """What a run leaves for the test: per iteration the sum of each weight's part on this rank, the losses' log and the time."""

    def __init__(self) -> None:
        self.rows: list[dict] = []
        self.began = time.monotonic()

    def hook(self):
        from mmengine.hooks import Hook

        notes = self

        class Note(Hook):
            priority = "VERY_LOW"

            def before_train(self, runner):
                notes.note(runner, {})

            def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
                notes.note(runner, {k: float(v) for k, v in outputs.items()})

        return Note()

    def note(self, runner, losses: dict) -> None:
        parts = {name: getattr(p, "_local_tensor", p).detach() for name, p in runner.model.named_parameters() if p.requires_grad}
        self.rows.append({"seconds": time.monotonic() - self.began, "losses": losses, "num_weights": sum(p.numel() for p in parts.values()),
                          "sums": {name: float(p.double().abs().sum()) for name, p in parts.items()}})  # fmt: skip


def step(config: str, folder: str, data: str, options: str) -> None:
    """Take the config's steps, and write notes-RANK.json."""
    import os

    from mmengine.dist import get_rank, get_world_size

    from ovdense.api import load_config
    from ovdense.measure import process_peak_mib
    from ovdense.runs import build_runner, use_seed

    os.environ["OVDENSE_DATA"] = data
    cfg = load_config(ROOT / "configs" / config, SMALL | json.loads(options))
    for key in ("dataloader", "evaluator", "cfg"):
        cfg[f"val_{key}"] = cfg[f"test_{key}"] = None
    cfg.launcher, cfg.work_dir = "pytorch" if get_world_size() > 1 else "none", f"{folder}/w{get_rank()}"
    use_seed(cfg, 0)
    notes = Notes()
    runner = build_runner(cfg)
    runner.register_hook(notes.hook())
    runner.train()
    content = {"peak_mib": process_peak_mib(), "rows": notes.rows,
               "grad_norm": runner.message_hub.get_scalar("train/grad_norm").current()}  # fmt: skip
    Path(f"{folder}/notes-{get_rank()}.json").write_text(json.dumps(content))


def notes_of(folder: Path, ranks: int) -> list[dict]:
    found = [json.loads((folder / f"notes-{rank}.json").read_text()) for rank in range(ranks)]
    for rank, one in enumerate(found):
        print(f"rank {rank}: {one['rows'][0]['num_weights'] / 1e6:.1f} M weights, built and begun in {one['rows'][0]['seconds']:.1f} s, "
              f"steps {[round(b['seconds'] - a['seconds'], 1) for a, b in zip(one['rows'], one['rows'][1:])]} s, peak {one['peak_mib']:.0f} MiB")  # fmt: skip
        assert all(torch.isfinite(torch.tensor(list(row["losses"].values()))).all() and row["losses"] for row in one["rows"][1:])
        assert 0 < one["grad_norm"] < 1e6
    return found


def available_gb() -> float:
    """Return what a new process can have, after Linux's own account; infinity on other systems."""
    path = Path("/proc/meminfo")
    lines = dict(line.split(":", 1) for line in path.read_text().splitlines()) if path.is_file() else {}
    return int(lines["MemAvailable"].split()[0]) * 1024 / 1e9 if "MemAvailable" in lines else float("inf")


def stepped(config: str, ranks: int, folder: Path, data: Path, **options) -> list[dict]:
    """Take the steps on so many ranks and return the notes of each."""
    free = available_gb()
    if free < 8:
        pytest.skip(f"the published model's step takes 7 GB of memory, {free:.1f} are available")
    call_on_ranks(step, config, str(folder), str(data), json.dumps({k.replace("__", "."): v for k, v in options.items()}), folder=folder, world=ranks)
    return notes_of(folder, ranks)


@pytest.mark.slow
def test_accumulate__adds_up_two_batches_and_steps_once(tmp_path, tmp_path_factory):
    (notes,) = stepped("desco_lvis_accumulate.py", 1, tmp_path, shapes(tmp_path_factory), optim_wrapper__accumulative_counts=2, train_cfg__max_iters=2)
    before, first, second = (row["sums"] for row in notes["rows"])
    assert notes["rows"][0]["num_weights"] > 2.2e8 and first == before, "the first batch's gradients are kept, nothing moves"
    moved = [name for name in before if second[name] != before[name]]
    assert len(moved) > 0.9 * len(before)


@pytest.mark.slow
def test_sharded__each_rank_holds_half_and_steps(tmp_path, tmp_path_factory):
    data = shapes(tmp_path_factory)
    first, second = stepped("desco_lvis_fsdp.py", 2, tmp_path, data, model_wrapper_cfg__param_dtype="float32", train_cfg__max_iters=1)
    counts = [one["rows"][0]["num_weights"] for one in (first, second)]
    assert sum(counts) > 2.2e8 and max(counts) < 0.51 * sum(counts), "half of the weights each"
    assert first["grad_norm"] == second["grad_norm"]
    for one in (first, second):
        before, after = (row["sums"] for row in one["rows"])
        assert len([name for name in before if after[name] != before[name]]) > 0.9 * len([name for name in before if before[name]])
