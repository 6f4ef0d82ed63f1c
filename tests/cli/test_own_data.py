"""A user's own COCO JSON by flags: train, test, and the run's folder as a model."""
import argparse
import json

import numpy as np
import pytest
from PIL import Image

import ovdense
from ovdense import zoo
from ovdense.api import load_config
from ovdense.cli.own_data import use_iterations, use_own_data
from ovdense.cli.test import main as run_test
from ovdense.cli.train import main as run_train
from tests.tiny_run import write_config


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    """A folder with photos/ and two COCO files of two classes."""
    folder = tmp_path_factory.mktemp("mine")
    (folder / "photos").mkdir()
    for split, numbers in (("train", range(1, 5)), ("val", range(5, 7))):
        rng, images, boxes = np.random.default_rng(0), [], []
        for n in numbers:
            picture = rng.integers(0, 255, (60, 80, 3), dtype=np.uint8)
            picture[10:40, 20:60] = (220, 40, 40)
            Image.fromarray(picture).save(folder / "photos" / f"{n}.jpg")
            images.append({"id": n, "file_name": f"{n}.jpg", "width": 80, "height": 60})
            boxes.append({"id": n, "image_id": n, "category_id": 1 + n % 2, "bbox": [20, 10, 40, 30], "area": 1200, "iscrowd": 0})
        categories = [{"id": 1, "name": "red brick"}, {"id": 2, "name": "poster"}]
        (folder / f"{split}.json").write_text(json.dumps({"images": images, "annotations": boxes, "categories": categories}))
    return folder


def given(**flags) -> argparse.Namespace:
    none = dict.fromkeys(("annotations", "images", "val_annotations", "val_images", "iterations", "short_side"))
    return argparse.Namespace(**{**none, **{key: None if value is None else value if isinstance(value, int) else str(value) for key, value in flags.items()}})


@pytest.mark.slow
def test_a_run__trains_reports_ap_and_its_folder_is_a_model(mine, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    flags = ["--annotations", str(mine / "train.json"), "--images", str(mine / "photos"), "--val-annotations", str(mine / "val.json")]
    assert run_train([str(write_config(tmp_path, "own")), *flags, "--iterations", "3", "--short-side", "96", "--work-dir", "run", "--json"]) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert "training on 4 images, 2 classes (red brick, poster); validation on 2 images" in captured.err
    assert "coco/bbox_AP" in found["validation"]["metrics"] and found["checkpoint"].endswith("iter_3.pth")

    predictor = ovdense.load("run", device="cpu")
    assert predictor.resize.short_sides == (96,)
    assert predictor(mine / "photos" / "5.jpg", ["red brick", "a poster"]).names == ("red brick", "a poster")
    assert run_test(["run", "--json", "--work-dir", "tested"]) == 0  # the validation's boxes
    first = json.loads(capsys.readouterr().out)
    assert first["metrics"]["coco/bbox_AP"] == pytest.approx(found["validation"]["metrics"]["coco/bbox_AP"])
    assert run_test(["run", "--json", "--work-dir", "tested2", "--annotations", str(mine / "train.json"), "--images", str(mine / "photos")]) == 0
    assert json.loads(capsys.readouterr().out)["protocol"]["images"] == 4
    again = [str(write_config(tmp_path, "again")), *flags[:4], "--iterations", "3", "--short-side", "96", "--work-dir", "run", "--json"]
    for more, measured in ((["--resume"], True), ([], False)):
        assert run_train([*again, *more]) == 0
        assert (json.loads(capsys.readouterr().out)["validation"] is not None) == measured, "an AP of the run before is not this one's"


def test_use_own_data__without_validation_and_with_the_json_s_own_folder(mine, capsys):
    cfg = load_config("desco_lvis_mini")
    use_own_data(cfg, given(annotations=mine / "train.json", short_side=128))
    dataset = cfg.train_dataloader.dataset
    assert dataset.image_prefix == str(mine) and dataset.type.endswith("CocoDetection") and len(dataset.transforms) > 2
    assert cfg.val_dataloader is None and cfg.val_evaluator is None and "no AP will be reported" in capsys.readouterr().out
    sides = [(step.short_sides, step.max_size) for step in dataset.transforms if "short_sides" in step]
    before = [step for step in load_config("desco_lvis_mini").train_dataloader.dataset.transforms if "short_sides" in step]
    assert sides == [((128,), round(step.max_size * 128 / max(step.short_sides))) for step in before]


def test_use_iterations__stretches_the_schedule():
    cfg = load_config("desco_coco_photos")  # 1,600 iterations, the first 50 warm up
    use_iterations(cfg, 400)
    warm, cosine = cfg.param_scheduler
    assert cfg.train_cfg.max_iters == cfg.train_cfg.val_interval == 400
    assert (warm.end, cosine.begin, cosine.end, cosine.T_max) == (12, 12, 400, 388)
    assert cfg.default_hooks.checkpoint.interval == 125  # of 500
    cfg = load_config("desco_coco_photos")
    use_iterations(cfg, 16000)
    assert cfg.default_hooks.checkpoint.interval == 500  # a kill does not lose more of a longer run


@pytest.mark.parametrize(
    ("config", "flags", "error", "words"),
    [
        ("desco_coco_photos", {"images": "photos"}, ValueError, "--images goes with --annotations"),
        ("desco_coco_photos", {"annotations": "nothing.json"}, FileNotFoundError, "existing files, got nothing.json"),
        ("desco_coco_photos", {"annotations": __file__}, ValueError, "ovdense annotations"),
        ("denseclip_voc_photos", {"annotations": "train.json"}, ValueError, "boxes with classes, but this config's data are"),
        ("maskclip_voc_mini", {"annotations": "train.json"}, ValueError, "trains nothing"),
        ("desco_coco_photos", {"iterations": 0}, ValueError, "--iterations must be at least 1"),
        ("desco_coco_photos", {"short_side": 8}, ValueError, "--short-side must be at least 32"),
    ],
)
def test_use_own_data__says_what_does_not_go(config, flags, error, words, mine, monkeypatch):
    monkeypatch.chdir(mine)
    with pytest.raises(error, match=words):
        use_own_data(load_config(config), given(**flags))


def test_run_folder__holds_one_config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mini").mkdir()
    assert zoo.run_folder("mini") is None  # a model's name means the model
    (tmp_path / "run").mkdir()
    with pytest.raises(ValueError, match="holds 0"):
        zoo.run_folder("run")
    (tmp_path / "run" / "a.py").write_text("")
    assert zoo.run_folder("run") is not None and zoo.config_path(tmp_path / "run") == tmp_path / "run" / "a.py"
    (tmp_path / "run" / "broken.py").write_text("model = nothing.at_all\n")
    with pytest.raises(ValueError, match="holds 2"):
        zoo.config_path("run")
    with pytest.raises(ValueError, match="could not be read as a config"):
        load_config(tmp_path / "run" / "broken.py")
