import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.tiny_run import ROOT, load_script, shapes, write_config

EVERY_ITERATION = ["--cfg-options", "default_hooks.logger.interval=1", "default_hooks.checkpoint.interval=2"]


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    monkeypatch.setenv("OVDENSE_DATA", "/nonexistent")  # restored afterwards, whatever a tool sets
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished training run: dict(folder, config, data, work, checkpoint)."""
    folder, data = tmp_path_factory.mktemp("run"), shapes(tmp_path_factory)
    config, work = write_config(folder, "base"), folder / "work"
    arguments = [str(config), "--work-dir", str(work), "--data-root", str(data), *EVERY_ITERATION, "train_cfg.max_iters=6", "train_cfg.val_interval=6"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OVDENSE_DATA", "")
        assert load_script("tools/train.py").main(arguments) == 0
    return {"folder": folder, "config": config, "data": data, "work": work, "checkpoint": work / "iter_6.pth"}


def losses(work: Path) -> dict[int, float]:
    rows = [json.loads(line) for file in sorted(work.glob("*/vis_data/*.json")) for line in file.read_text().splitlines()]
    return {row["step"]: row["loss"] for row in rows if "loss" in row}


def fails(capsys, script: str, arguments: list[str], code: int = 2) -> str:
    with pytest.raises(SystemExit) as exit_info:
        load_script(script).main(arguments)
    assert exit_info.value.code == code
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    return error


def test_train__writes_checkpoints_metrics_and_scalars(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert sorted(p.name for p in run["work"].glob("*.pth")) == ["iter_2.pth", "iter_4.pth", "iter_6.pth"]
    assert Path((run["work"] / "last_checkpoint").read_text()).name == "iter_6.pth"
    report = json.loads((run["work"] / "val_metrics.json").read_text())
    assert "lvis/bbox_AP" in report["metrics"] and report["protocol"]["images"] == 4 and report["protocol"]["chunks"] == 15
    events = EventAccumulator(str(next(run["work"].glob("*/vis_data/events*")).parent))
    events.Reload()
    assert [e.step for e in events.Scalars("loss")] == [1, 2, 3, 4, 5, 6]


def test_train__resume_takes_the_newest_readable_and_repeats_the_losses(run, tmp_path, capsys):
    shutil.copy(run["work"] / "iter_4.pth", tmp_path / "iter_4.pth")
    (tmp_path / "iter_9.pth").write_bytes((run["work"] / "iter_4.pth").read_bytes()[:100_000])
    config = write_config(run["folder"], "resumed")
    arguments = [str(config), "--work-dir", str(tmp_path), "--data-root", str(run["data"]), "--resume", *EVERY_ITERATION, "train_cfg.max_iters=6"]
    assert load_script("tools/train.py").main([*arguments, "train_cfg.val_interval=100"]) == 0
    assert "iter_4.pth" in capsys.readouterr().out
    before = losses(run["work"])
    assert losses(tmp_path) == {5: before[5], 6: before[6]}


def test_train__amp_scaled_rate_seed_and_a_bar(run, tmp_path, capsys):
    config = write_config(run["folder"], "amp")
    arguments = [str(config), "--work-dir", str(tmp_path), "--data-root", str(run["data"]), "--amp", "--auto-scale-lr", "--seed", "3", *EVERY_ITERATION]
    assert load_script("tools/train.py").main([*arguments, "custom_hooks.2.enabled=True", "train_cfg.val_interval=100"]) == 0
    output = capsys.readouterr().out
    assert "left" in output and "2/2" in output
    content = torch.load(tmp_path / "iter_2.pth", weights_only=False)
    assert content["optimizer"]["param_groups"][0]["lr"] == pytest.approx(1e-3 * 2 / 8)
    assert content["meta"]["seed"] == 3
    assert losses(tmp_path)[1] != losses(run["work"])[1]


def test_test__writes_predictions_overlays_and_protocol(run, tmp_path):
    config = write_config(run["folder"], "tested")
    arguments = [str(config), str(run["work"] / "last_checkpoint"), "--work-dir", str(tmp_path / "w"), "--data-root", str(run["data"])]
    out, overlays = tmp_path / "o" / "found.json", tmp_path / "overlays"
    assert load_script("tools/test.py").main([*arguments, "--out", str(out), "--show-dir", str(overlays), "--prompt", "descriptions"]) == 0
    truth = json.loads((run["data"] / "annotations" / "shapes_val.json").read_text())
    found = json.loads(out.read_text())
    name_of = {c["id"]: c["name"] for c in truth["categories"]}
    assert found and all(name_of[f["category_id"]] == f["category_name"] for f in found)
    assert {f["image_id"] for f in found} <= {i["id"] for i in truth["images"]}
    report = json.loads((tmp_path / "o" / "found.metrics.json").read_text())
    assert report["protocol"]["prompt"] == "descriptions"
    assert report == json.loads((tmp_path / "w" / "test_metrics.json").read_text())
    assert len(list(overlays.rglob("*.jpg"))) == 4


@pytest.mark.slow
def test_train__two_gloo_processes(run, tmp_path):
    config = write_config(run["folder"], "gloo")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(ROOT / "tools" / "train.py"), str(config)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment.pop("LOCAL_RANK")
    done = subprocess.run([*command, "--launcher", "pytorch", "--work-dir", str(tmp_path), "--data-root", str(run["data"]), *EVERY_ITERATION],
                          env=environment, capture_output=True, text=True, timeout=120)  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads((tmp_path / "val_metrics.json").read_text())["protocol"]["images"] == 4
    assert set(losses(tmp_path)) == {1, 2}


@pytest.mark.parametrize("script", ["tools/train.py", "tools/test.py", "tools/print_config.py", "demo/image_demo.py"])
def test_help__names_every_flag(script, capsys):
    with pytest.raises(SystemExit) as exit_info:
        load_script(script).parse_args(["--help"])
    assert exit_info.value.code == 0
    assert "config" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (["--cfg-options", "model.heda.channels=8"], "did you mean head"),  # a misspelt parent
        (["--cfg-options", "randmness.seed=1"], "did you mean randomness"),  # a misspelt top-level key
        (["--cfg-options", "custom_hooks.9.enabled=True"], "has 4 entries"),  # an index that is not there
        (["--cfg-options", "model.head.blokcs=1"], "blokcs"),  # an argument that the class does not have
        (["--data-root", "/nonexistent/data"], "must be an existing folder"),
        (["--resume", "/nonexistent/iter_1.pth"], "must be an existing file"),
        (["--resume", str(Path(__file__))], "is not a whole checkpoint"),
        (["--launcher", "pytorch"], "torchrun"),
    ],
)
def test_train__bad_input_is_one_line(run, tmp_path, capsys, extra, said, monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    assert said in fails(capsys, "tools/train.py", [str(run["config"]), "--work-dir", str(tmp_path), *extra])


def test_train__missing_data_says_where_to_get_it_and_what_runs(run, tmp_path, capsys):
    error = fails(capsys, "tools/train.py", [str(run["config"]), "--work-dir", str(tmp_path), "--data-root", str(tmp_path)])
    assert "shapes_train.json" in error and "OVDENSE_DATA" in error and "desco_lvis_mini.py" in error


def test_train__unknown_config(tmp_path, capsys):
    assert "does not exist" in fails(capsys, "tools/train.py", [str(tmp_path / "nothing.py")])


def test_test__refuses_pickles_and_incomplete_weights(run, tmp_path, capsys):
    assert "must end with .json" in fails(capsys, "tools/test.py", [str(run["config"]), str(run["checkpoint"]), "--out", "found.pkl"])
    state = torch.load(run["checkpoint"], weights_only=False)["state_dict"]
    state.pop("head.level_scale")
    torch.save({"state_dict": state}, tmp_path / "part.pth")
    arguments = [str(run["config"]), str(tmp_path / "part.pth"), "--work-dir", str(tmp_path), "--data-root", str(run["data"])]
    assert "head.level_scale" in fails(capsys, "tools/test.py", arguments)


def test_print_config__shows_bases_and_options(run, capsys):
    assert load_script("tools/print_config.py").main([str(run["config"]), "--cfg-options", "train_cfg.max_iters=77"]) == 0
    output = capsys.readouterr().out
    assert "max_iters=77" in output and "AtomicCheckpointHook" in output


def test_demo__folder_with_an_unreadable_image(run, tmp_path, capsys):
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    for n, side in enumerate((70, 120)):
        Image.fromarray(np.full((side, 100, 3), 90 * n, dtype=np.uint8)).save(photos / f"{n}.png")
    (photos / "2.jpg").write_bytes(b"not an image")
    arguments = [str(photos), "--texts", "cat. a red chair left of the table", "--config", str(run["config"]), "--weights", str(run["checkpoint"])]
    assert load_script("demo/image_demo.py").main([*arguments, "--score-thr", "0", "--out", str(out), "--device", "cpu"]) == 1
    captured = capsys.readouterr()
    assert "2.jpg" in captured.err and "2 of 3 images" in captured.out
    assert {p.name for p in out.iterdir()} == {"0.jpg", "1.jpg", "contact_sheet.jpg", "predictions.json"}
    content = json.loads((out / "predictions.json").read_text())
    assert [i["height"] for i in content["images"]] == [70, 120]
    assert {a["image_id"] for a in content["annotations"]} == {1, 2}
    assert {a["category_name"] for a in content["annotations"]} <= {"cat", "a red chair left of the table"}
    assert len({a["id"] for a in content["annotations"]}) == len(content["annotations"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["IMAGE", "--texts", " . "], "at least one thing"),
        (["IMAGE", "--texts", "cat. Cat"], "said once"),
        (["IMAGE", "--vocab", "lviss"], "did you mean 'lvis'"),
        (["nothing.jpg", "--texts", "cat"], "existing file or folder"),
        (["FOLDER", "--texts", "cat"], "must hold images"),
        (["IMAGE", "--texts", "cat", "--score-thr", "3"], "0..1"),
        (["IMAGE", "--texts", "cat"], "python tools/train.py configs/desco_lvis_mini.py"),
        (["IMAGE", "--texts", "cat", "--config", "nothing.py"], "does not exist"),
    ],
)
def test_demo__bad_input_is_one_line(tmp_path, capsys, arguments, said, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    Image.new("RGB", (8, 8)).save("image.png")
    places = {"IMAGE": "image.png", "FOLDER": "empty"}
    assert said in fails(capsys, "demo/image_demo.py", [places.get(a, a) for a in arguments])
