import os
import pickle
import shutil
from types import SimpleNamespace

import pytest
import torch
from mmengine.logging.history_buffer import HistoryBuffer

from ovdense.methods import checkpoints
from ovdense.methods.checkpoints import (
    AtomicBackend,
    AtomicCheckpointHook,
    load_weights,
    model_state,
    newest_readable,
    read_checkpoint,
    replace_file,
    require_fitting,
    write_checkpoint,
)


class _RunsCode:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


class _TakesAttributes:
    def __reduce__(self):
        return getattr, (HistoryBuffer, "__init__")


def test_read_checkpoint__reads_what_mmengine_logs(tmp_path):
    buffer = HistoryBuffer()
    buffer.update(1.5)
    torch.save({"message_hub": {"log_scalars": {"loss": buffer}}, "state_dict": {"w": torch.ones(2)}}, tmp_path / "a.pth")
    content = read_checkpoint(tmp_path / "a.pth")
    assert content["message_hub"]["log_scalars"]["loss"].mean() == 1.5


@pytest.mark.parametrize("inside", [_RunsCode, lambda _: _TakesAttributes()])
def test_read_checkpoint__runs_no_code(tmp_path, inside):
    torch.save({"state_dict": {}, "extra": inside(tmp_path / "made")}, tmp_path / "bad.pth")
    with pytest.raises(ValueError, match="could run code"):
        read_checkpoint(tmp_path / "bad.pth")
    assert not (tmp_path / "made").exists()


def test_read_checkpoint__drops_the_config_that_mmengine_would_run(tmp_path):
    torch.save({"meta": {"config": "raise SystemExit", "iter": 3}}, tmp_path / "a.pth")
    assert read_checkpoint(tmp_path / "a.pth")["meta"] == {"iter": 3}


@pytest.mark.parametrize(("content", "reason"), [(b"", "empty"), (b"hello, world\n", "text"), (b"PK\x03\x04" + b"\0" * 99, "cut short"),
                                                 (pickle.dumps([1, 2]), "a list")])  # fmt: skip
def test_read_checkpoint__other_files(tmp_path, content, reason):
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(ValueError, match="a.pth"):
        read_checkpoint(tmp_path / "a.pth")


def test_read_checkpoint__missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="must be an existing file"):
        read_checkpoint(tmp_path / "a.pth")


def test_newest_readable__passes_over_broken_ones(tmp_path):
    assert newest_readable(tmp_path) is None
    for step in (9, 10):
        torch.save({"state_dict": {"w": torch.full((2,), float(step))}}, tmp_path / f"iter_{step}.pth")
    (tmp_path / "iter_11.pth").write_bytes((tmp_path / "iter_10.pth").read_bytes()[:200])
    (tmp_path / "iter_12.pth").symlink_to(tmp_path / "gone.pth")
    torch.save({}, tmp_path / "best_iter_99.pth")
    assert newest_readable(tmp_path).name == "iter_10.pth"
    (tmp_path / "last_checkpoint").write_text("/elsewhere/iter_9.pth")
    assert model_state(tmp_path / "last_checkpoint")["w"][0] == 9  # the folder has moved
    assert model_state(tmp_path)["w"][0] == 9  # a run that went back to 9 has left the 10 of the run before
    for strange in (b"\xff\xfe", b"a\0b", b"", b"iter_7.pth", b"iter_11.pth"):  # the last one is broken, the others are none of the folder
        (tmp_path / "last_checkpoint").write_bytes(strange)
        assert newest_readable(tmp_path).name == "iter_10.pth"


def test_newest_readable__of_a_run_that_went_back_and_was_killed(tmp_path):
    """500 to 2000 were written, 500 was resumed, then 1000 written anew, and 1500 before the kill came between it and `last_checkpoint`."""
    def write(name: str, minute: int) -> None:
        path = tmp_path / name
        torch.save({"state_dict": {"w": torch.tensor([float(minute)])}}, path) if path.suffix else path.write_text("/old/place/iter_1000.pth")
        os.utime(path, (60 * minute, 60 * minute))

    for minute, step in enumerate((500, 1000, 1500, 2000)):
        write(f"iter_{step}.pth", minute)
    write("iter_1000.pth", 10)
    write("last_checkpoint", 11)
    assert newest_readable(tmp_path).name == "iter_1000.pth"
    write("iter_1500.pth", 12)
    assert newest_readable(tmp_path).name == "iter_1500.pth"
    (tmp_path / "iter_1500.pth").write_bytes(b"broken")
    os.utime(tmp_path / "iter_1500.pth", (780, 780))
    assert newest_readable(tmp_path).name == "iter_1000.pth", "not the 2000 of the run before"


def test_newest_readable__lies_where_the_hook_was_told_to_write(tmp_path):
    """With default_hooks.checkpoint.out_dir, --resume would begin anew."""
    (tmp_path / "work").mkdir(), (tmp_path / "big/work").mkdir(parents=True)
    for step in (2, 4):
        torch.save({"state_dict": {"w": torch.ones(1)}}, tmp_path / f"big/work/iter_{step}.pth")
    (tmp_path / "work/last_checkpoint").write_text(str(tmp_path / "big/work/iter_4.pth"))
    assert newest_readable(tmp_path / "work") == tmp_path / "big/work/iter_4.pth"
    (tmp_path / "big/work/iter_4.pth").write_bytes(b"broken")
    assert newest_readable(tmp_path / "work") == tmp_path / "big/work/iter_2.pth"
    shutil.copy(tmp_path / "big/work/iter_2.pth", tmp_path / "work/iter_1.pth")
    assert newest_readable(tmp_path / "work").name == "iter_1.pth", "what is in the folder is the folder's"


def test_load_weights__names_what_is_missing(tmp_path):
    model = torch.nn.Linear(2, 1)
    torch.save({"state_dict": {"module.weight": torch.ones(1, 2), "module.bias": torch.zeros(1), "old": torch.ones(1)}}, tmp_path / "a.pth")
    load_weights(model, tmp_path / "a.pth")
    assert model.weight.sum() == 2
    torch.save({"model": {"weight": torch.ones(1, 2)}}, tmp_path / "b.pth")
    with pytest.raises(ValueError, match="missing bias"):
        load_weights(model, tmp_path / "b.pth")


def test_load_weights__refuses_a_file_of_which_nothing_fits(tmp_path):
    model = torch.nn.Linear(2, 1)
    torch.save({"model": {"module.backbone.body.patch_embed.proj.weight": torch.ones(1)}}, tmp_path / "glip.pth")
    with pytest.raises(ValueError, match=r"no tensor fits; it has backbone.*tools/convert_weights.py \S*glip.pth"):
        load_weights(model, tmp_path / "glip.pth")
    assert require_fitting(model, {"weight": torch.ones(1, 2), "bias": torch.ones(9), "other": torch.ones(1)}, "a.pth") == 1


def test_safe_loading__finds_weights_under_model(tmp_path):
    from mmengine.runner import CheckpointLoader

    checkpoints.install_safe_loading()
    write_checkpoint(tmp_path / "new" / "a.pth", {"model": {"w": torch.ones(1)}})
    assert set(CheckpointLoader.load_checkpoint(str(tmp_path / "new" / "a.pth"))) == {"state_dict"}


def test_replace_file__interrupted_leaves_the_old_one(tmp_path, monkeypatch):
    replace_file(tmp_path / "a", b"old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        replace_file(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def _hook(folder, save, **arguments):
    """Return a hook in the middle of training, and its runner, which saves with `save`."""
    info = {}
    hub = SimpleNamespace(runtime_info=info, update_info=info.__setitem__, get_info=info.get)
    runner = SimpleNamespace(work_dir=str(folder), logger=SimpleNamespace(info=print), message_hub=hub, iter=0, epoch=0, save_checkpoint=save,
                             optim_wrapper=SimpleNamespace(_accumulative_counts=1))  # fmt: skip
    hook = AtomicCheckpointHook(interval=1, by_epoch=False, **arguments)
    hook.before_train(runner)
    return hook, runner


def test_hook__keeps_old_checkpoints_until_the_new_one_is_there(tmp_path):
    def save(folder, name, **_):
        if name == "iter_3.pth":
            raise OSError("disk full")
        replace_file(tmp_path / name, name.encode())

    (tmp_path / ".iter_1.pth.0123456789ab.ovdense.tmp").write_bytes(b"left by a killed run")
    hook, runner = _hook(tmp_path, save, max_keep_ckpts=1)
    for runner.iter in (0, 1):
        hook._save_checkpoint(runner)
    assert {p.name for p in tmp_path.iterdir()} == {"iter_2.pth", "last_checkpoint"}
    runner.iter = 2
    with pytest.raises(OSError):
        hook._save_checkpoint(runner)
    assert {p.name for p in tmp_path.iterdir()} == {"iter_2.pth", "last_checkpoint"}
    assert (tmp_path / "last_checkpoint").read_text().endswith("iter_2.pth")


def test_hook__checkpoints_fall_on_whole_optimiser_steps(tmp_path):
    hook, runner = _hook(tmp_path, None)
    runner.optim_wrapper._accumulative_counts = 4
    for hook.interval in (8, -1):  # the latter: none but the last
        hook.before_train(runner)
    hook.interval = 6
    with pytest.raises(ValueError, match="whole optimiser steps, of 4 iterations each, got an interval of 6"):
        hook.before_train(runner)


def test_hook__publishes_a_whole_file(tmp_path):
    write_checkpoint(tmp_path / "iter_1.pth", {"state_dict": {"w": torch.ones(1)}, "optimizer": {}, "meta": {"iter": 1}})
    hook, runner = _hook(tmp_path, None, published_keys=["state_dict"])
    hook._publish_model(runner, str(tmp_path / "iter_1.pth"))
    [published] = tmp_path.glob("iter_1-????????.pth")
    assert list(read_checkpoint(published)) == ["state_dict"] and len(list(tmp_path.iterdir())) == 2


def test_hook__best_checkpoint_goes_only_after_a_better_one_is_there(tmp_path):
    present = []

    def save(folder, name=None, filename=None, **_):
        present.append(sorted(p.name for p in tmp_path.glob("best*")))
        replace_file(tmp_path / (name or filename), b"weights")

    hook, runner = _hook(tmp_path, save, save_best="AP", rule="greater")
    assert isinstance(hook.file_backend, AtomicBackend)
    for runner.iter, ap in ((5, 1.0), (6, 0.5), (7, 2.0)):
        hook.after_val_epoch(runner, {"AP": ap})
    assert present == [[], ["best_AP_iter_5.pth"]]
    assert [p.name for p in tmp_path.glob("best*")] == ["best_AP_iter_7.pth"]
