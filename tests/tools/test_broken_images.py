"""tools/train.py on data with broken images: goes on, counts them, names them, resumes exactly; or stops where that is asked for."""
import json
import shutil
from pathlib import Path

import pytest

from tests.tiny_run import load_script, shapes, write_config
from tests.tools.test_tools import losses

OPTIONS = ["--cfg-options", "default_hooks.logger.interval=1", "default_hooks.checkpoint.interval=2", "train_cfg.val_interval=100", "train_cfg.max_iters=6"]
BROKEN = ("000001.png", "000004.png", "000006.png")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Eight training scenes: one of 0 bytes, one cut short, one of another size."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("broken") / "data"
    shutil.copytree(shapes(tmp_path_factory), folder)
    first, second, third = (folder / "images/train" / name for name in BROKEN)
    first.write_bytes(b"")
    second.write_bytes(second.read_bytes()[:700])
    Image.new("RGB", (9, 7)).save(third)
    return folder


def train(data: Path, folder: Path, name: str, *extra: str, options=()) -> dict:
    config = write_config(folder, name)
    arguments = [str(config), "--work-dir", str(folder / "w"), "--data-root", str(data), *extra, *OPTIONS, *options]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OVDENSE_DATA", "")
        assert load_script("tools/train.py").main(arguments) == 0
    return json.loads((folder / "w" / "broken_images.json").read_text())


@pytest.fixture(scope="module")
def straight(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight")
    return folder / "w", train(data, folder, "skips")


def test_train__leaves_broken_images_out_and_says_so(straight):
    work, told = straight
    assert set(losses(work)) == {1, 2, 3, 4, 5, 6}
    assert {Path(line.split(": ")[0].split(" (")[0]).name for line in told["files"]} == set(BROKEN)
    assert told["samples"] == sum(told["files"].values()) >= 3
    log = next(work.glob("*/*.log")).read_text()
    assert log.count("another image stands in") == 3
    assert f"3 images could not be read, {told['samples']} samples of them were replaced" in log


@pytest.mark.parametrize("workers", [0, 2])
def test_train__resume_counts_on_and_repeats_the_losses(data, straight, tmp_path, workers):
    work, told = straight
    (tmp_path / "w").mkdir()
    shutil.copy(work / "iter_2.pth", tmp_path / "w")
    again = train(data, tmp_path, f"again{workers}", "--resume", options=[f"train_dataloader.num_workers={workers}"])
    before = losses(work)
    assert losses(tmp_path / "w") == {n: before[n] for n in (3, 4, 5, 6)} and again == told


def test_train__strict_data_stops_at_the_first(data, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        train(data, tmp_path, "strict", "--strict-data")
    assert stopped.value.code == 2 and "images/train" in capsys.readouterr().err.splitlines()[-1]


def test_train__good_images_leave_no_word(tmp_path_factory, tmp_path):
    with pytest.raises(FileNotFoundError):
        train(shapes(tmp_path_factory), tmp_path, "good", options=["train_cfg.max_iters=1"])
