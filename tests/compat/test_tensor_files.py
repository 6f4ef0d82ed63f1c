"""Files of weights are data: a corpus of hostile and odd ones, and what honest files may hold."""
import argparse

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ovdense.api import load_model
from ovdense.compat.tensor_files import read_tensors
from ovdense.compat.weights import load_checked, read_state_dict
from ovdense.methods.checkpoints import newest_readable, read_checkpoint
from tests.hostile_files import corpus


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    trap = folder / "trap"
    return corpus(folder, trap), trap


def test_corpus__is_large(hostile):
    assert len(hostile[0]) >= 50 and len({name for name, _, _ in hostile[0]}) == len(hostile[0])


@pytest.mark.parametrize("read", [read_tensors, read_checkpoint, read_state_dict])
def test_corpus__none_runs_code_and_each_gives_one_clear_error(hostile, read):
    files, trap = hostile
    for name, path, words in files:
        with pytest.raises((ValueError, FileNotFoundError), match=words) as caught:
            read(path)
            pytest.fail(f"{name} was read")
        assert not trap.exists(), f"{name} ran code"
        message = str(caught.value)
        assert str(path) in message and "\n" not in message, f"{name}: {message}"


def test_corpus__stops_a_model_before_it_is_built(hostile, tmp_path):
    files, trap = hostile
    config = tmp_path / "c.py"
    config.write_text("model = dict(type='NoSuchModel')\n")
    for name, path, _ in files[:5]:
        with pytest.raises(ValueError, match="could run code"):
            load_model(config, path)
        assert not trap.exists(), name


def test_corpus__a_run_finds_its_newest_whole_checkpoint_among_them(hostile, tmp_path):
    files, trap = hostile
    torch.save({"state_dict": {"w": torch.ones(1)}}, tmp_path / "iter_1.pth")
    for n, (_, path, _) in enumerate(files[:12], start=2):
        (tmp_path / f"iter_{n}.pth").write_bytes(path.read_bytes())
    assert newest_readable(tmp_path).name == "iter_1.pth" and not trap.exists()


def test_config_text__is_dropped_unread(tmp_path):
    trap = tmp_path / "trap"
    torch.save({"state_dict": {"w": torch.ones(1)}, "meta": {"config": f"open({str(trap)!r}, 'w')\nmodel = 1", "iter": 1}}, tmp_path / "a.pth")
    assert read_checkpoint(tmp_path / "a.pth")["meta"] == {"iter": 1} and not trap.exists()


def test_old_files__namespaces_and_numpy_numbers_are_read(tmp_path):
    content = {
        "model": {"w": torch.ones(2)}, "args": argparse.Namespace(lr=1e-4, names=["a"]), "best": np.float64(0.5), "epoch": np.int64(3),
        "curve": np.arange(4, dtype=np.float32),
    }  # fmt: skip
    torch.save(content, tmp_path / "old.pth")
    found = read_tensors(tmp_path / "old.pth")
    assert found["args"].lr == 1e-4 and found["best"] == 0.5 and found["epoch"] == 3 and found["curve"].tolist() == [0, 1, 2, 3]
    torch.save(content, tmp_path / "legacy.pth", _use_new_zipfile_serialization=False)
    assert set(read_state_dict(tmp_path / "legacy.pth")) == {"w"}


def test_safetensors__are_read_whatever_they_are_called(tmp_path):
    save_file({"w": torch.arange(3.0)}, tmp_path / "a.safetensors")
    (tmp_path / "b.pth").write_bytes((tmp_path / "a.safetensors").read_bytes())
    for name in ("a.safetensors", "b.pth"):
        assert read_state_dict(tmp_path / name)["w"].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    "change, words",
    [
        ({"bias": torch.full((2,), float("nan"))}, "1 tensors hold nan: bias"),
        ({"weight": torch.ones(3, 2)}, r"wrong shape weight \(3, 2\) for \(2, 2\)"),
        ({"bias": torch.ones(0)}, r"wrong shape bias \(0,\)"),
    ],
    ids=["nan", "another shape", "no numbers"],
)
def test_load_checked__weights_that_cannot_be_used(change, words):
    model = torch.nn.Linear(2, 2)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(ValueError, match=words):
        load_checked(model, before | change, "a.pth")
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items()), "nothing was loaded"
