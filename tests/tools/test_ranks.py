"""tools/train.py and tools/test.py on two gloo ranks: a killed rank ends the run, which resumes exactly; uneven data; shared-out weights."""
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from mmengine.dataset import DefaultSampler
from mmengine.dataset import sampler as mmengine_sampler

from ovdense.data.shapes import make_shapes
from ovdense.evaluation.gather import in_order
from ovdense.methods.checkpoints import read_checkpoint
from tests.ranks import PATIENCE, environment
from tests.tiny_run import ROOT, write_config
from tests.tools.test_tools import losses

OPTIONS = ["default_hooks.logger.interval=1", "train_cfg.val_interval=1000"]
KEPT = "interval=2, by_epoch=False, max_keep_ckpts=-1"
CLIPPED = f'''
from ovdense.methods.checkpoints import AtomicCheckpointHook
optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=AdamW, lr=1e-3), clip_grad=dict(max_norm=0.5))
default_hooks.update(checkpoint=dict(type=AtomicCheckpointHook, {KEPT}))
'''
SHARDED = f'''
from ovdense.methods.sharding import ShardedCheckpointHook, ShardedModel, ShardedOptimWrapper
model_wrapper_cfg = dict(type=ShardedModel, shard=("BertLayer", "FusionTowerBlock"), sync_norms=True)
optim_wrapper = dict(type=ShardedOptimWrapper, optimizer=dict(type=AdamW, lr=1e-3), clip_grad=dict(max_norm=0.5))
default_hooks.update(checkpoint=dict(type=ShardedCheckpointHook, {KEPT}))
'''


def config(folder: Path, name: str, more: str = CLIPPED) -> Path:
    path = write_config(folder, name)
    path.write_text(path.read_text() + more)
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Seven scenes to train on and five to test, neither of which two ranks can share evenly."""
    return make_shapes(tmp_path_factory.mktemp("uneven") / "data", seed=1, num_train=7, num_val=5, num_workers=1)


def command(script: str, config: Path, data: Path, work: Path, *more: str, options=(), ranks: int = 2) -> list[str]:
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)] if ranks > 1 else [sys.executable]
    tail = ["--launcher", "pytorch"] if ranks > 1 else []
    return [*start, str(ROOT / "tools" / script), str(config), *more, "--work-dir", str(work), "--data-root", str(data), *tail, "--cfg-options", *options]


def run(*args, **kwargs) -> str:
    done = subprocess.run(command(*args, **kwargs), env=environment(), capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


def weights(path: Path) -> dict[str, torch.Tensor]:
    return read_checkpoint(path)["state_dict"]


@pytest.fixture(scope="module")
def straight(data, tmp_path_factory):
    """Six steps of two ranks without a break."""
    folder = tmp_path_factory.mktemp("straight")
    run("train.py", config(folder, "straight"), data, folder / "w", options=[*OPTIONS, "train_cfg.max_iters=6"])
    return folder / "w"


def worker_of_rank(launcher: int, rank: int) -> int:
    """Return the process id of a rank, a child of the launcher."""
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(status.read_text().rsplit(")", 1)[1].split()[1])
            variables = (status.parent / "environ").read_bytes().split(b"\0") if parent == launcher else []
        except OSError:
            continue
        if f"RANK={rank}".encode() in variables:
            return int(status.parent.name)
    raise AssertionError(f"no child of {launcher} is rank {rank}")


@pytest.mark.slow
def test_a_killed_rank__ends_the_run_with_a_message_and_the_run_resumes_exactly(data, straight, tmp_path):
    work = tmp_path / "w"
    endless = command("train.py", config(tmp_path, "killed"), data, work, options=[*OPTIONS, "train_cfg.max_iters=100000"])
    errors = tmp_path / "errors.txt"  # a file: nobody reads a pipe while it fills
    with errors.open("w") as file:
        launched = subprocess.Popen(endless, env=environment(), stdout=subprocess.DEVNULL, stderr=file)
    try:
        patience = time.monotonic() + PATIENCE
        while not (work / "iter_4.pth").is_file():
            assert launched.poll() is None and time.monotonic() < patience, errors.read_text()[-2000:]
            time.sleep(0.1)
        os.kill(worker_of_rank(launched.pid, 1), signal.SIGKILL)
        killed = time.monotonic()
        assert launched.wait(timeout=PATIENCE) != 0, "it ends by itself, the other rank does not wait for ever"
        print(f"the launcher ended {time.monotonic() - killed:.1f} s after the kill")
    finally:
        launched.terminate()  # where it runs still, its ranks end with it
        launched.wait(timeout=PATIENCE)
    said = errors.read_text()
    assert "Signal 9" in said and "local_rank: 1" in said
    for checkpoint in work.glob("iter_*.pth"):
        if checkpoint.name != "iter_2.pth":
            checkpoint.unlink()
    run("train.py", config(tmp_path, "goes_on"), data, work, "--resume", options=[*OPTIONS, "train_cfg.max_iters=6"])
    expected, found = weights(straight / "iter_6.pth"), weights(work / "iter_6.pth")
    assert all(torch.equal(found[k], v) for k, v in expected.items()), "bit for bit"


@pytest.mark.slow
def test_sharded__steps_as_data_parallel_and_leaves_whole_checkpoints(data, straight, tmp_path):
    options = [*OPTIONS, "train_cfg.max_iters=4"]
    run("train.py", config(tmp_path, "sharded", SHARDED), data, tmp_path / "w", options=[options[0], options[2], "train_cfg.val_interval=4"])
    before, after = losses(straight), losses(tmp_path / "w")
    assert after == pytest.approx({n: before[n] for n in (1, 2, 3, 4)}, rel=1e-4)
    expected, found = weights(straight / "iter_4.pth"), weights(tmp_path / "w/iter_4.pth")
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-5, msg=name)
    assert json.loads((tmp_path / "w/val_metrics.json").read_text())["protocol"]["images"] == 5
    (tmp_path / "resumed").mkdir()
    shutil.copy(tmp_path / "w/iter_2.pth", tmp_path / "resumed")
    run("train.py", config(tmp_path, "again", SHARDED), data, tmp_path / "resumed", "--resume", options=options)
    assert losses(tmp_path / "resumed") == {n: after[n] for n in (3, 4)}
    again = weights(tmp_path / "resumed/iter_4.pth")
    assert all(torch.equal(again[k], v) for k, v in found.items())


@pytest.mark.slow
def test_evaluation__of_five_images_on_two_ranks_is_that_of_one_process(data, straight, tmp_path):
    found = []
    for ranks in (1, 2):
        work = tmp_path / f"w{ranks}"
        run("test.py", config(tmp_path, f"tested{ranks}"), data, work, str(straight / "iter_6.pth"), "--out", str(work / "found.json"),
            options=["test_dataloader.batch_size=1"], ranks=ranks)  # fmt: skip
        found.append((json.loads((work / "test_metrics.json").read_text())["metrics"], json.loads((work / "found.json").read_text())))
    assert found[0] == found[1] and len(found[0][1]) > 50


@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_uneven_shares__come_back_in_order_and_once(world, monkeypatch):
    for size in (1, 2, 5, 7, 8, 33):
        parts = []
        for rank in range(world):
            monkeypatch.setattr(mmengine_sampler, "get_dist_info", lambda rank=rank: (rank, world))
            parts.append([{"n": n} for n in DefaultSampler(range(size), shuffle=False)])
        assert len({len(part) for part in parts}) == 1, "every rank runs as often, or one would wait for the others"
        assert [r["n"] for r in in_order(parts, size)] == list(range(size))
