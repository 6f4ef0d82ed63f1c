"""ovdense predict: nothing of the user's own is written over, no picture is lost, and what cannot be is one line."""
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ovdense.cli.picture_names import picture_names, record_names, require_free
from ovdense.cli.predict import main
from ovdense.methods.reporting import OverlayHook


def photo(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (40, 56, 3), dtype=np.uint8)).save(path)
    return path


def refused(argv, capsys) -> str:
    """Return the one line with which a command is refused."""
    with pytest.raises(SystemExit) as error:
        main([str(a) for a in argv])
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.value.code == 2 and line.startswith("error: ")
    return line


@pytest.mark.parametrize("out", ["photos", "photos/../photos", "link"])
def test_predict__never_writes_over_a_photo(out, tmp_path, capsys):
    own = photo(tmp_path / "photos" / "a.jpg")
    (tmp_path / "link").symlink_to("photos")
    before = own.read_bytes()
    line = refused([own, "--texts", "cat", "--out", tmp_path / out, "--device", "cpu"], capsys)
    assert "a.jpg" in line and "give another folder" in line
    assert own.read_bytes() == before and [p.name for p in own.parent.iterdir()] == ["a.jpg"]


def test_predict__never_writes_over_what_lies_beside_the_photos(tmp_path):
    png, beside = photo(tmp_path / "a.png"), photo(tmp_path / "a.jpg", 1)
    for files in ([png], [Path(os.path.relpath(png))]):
        with pytest.raises(ValueError, match="would overwrite .*a.jpg"):
            require_free(tmp_path, picture_names(files), files, heat=False)
    beside.rename(tmp_path / "predictions.json")
    with pytest.raises(ValueError, match="would overwrite .*predictions.json"):
        require_free(tmp_path, ["a"], [png], heat=False)
    linked = tmp_path / "elsewhere" / "b.jpg"
    photo(tmp_path / "out" / "b.jpg")
    linked.parent.mkdir()
    linked.symlink_to(tmp_path / "out" / "b.jpg")
    with pytest.raises(ValueError, match="would overwrite .*b.jpg"):
        require_free(tmp_path / "out", ["b"], [linked], heat=False)
    assert require_free(tmp_path / "out", ["c"], [linked], heat=True) == tmp_path / "out"  # a second run may write over the first's


@pytest.mark.parametrize(
    "files",
    [["a.jpg", "a.png", "a_jpg.jpg"], ["a.jpg", "A.png", "a_png.jpg"], ["x_heat.jpg", "x.jpg"], ["x.jpg", "x_heat.png", "X_HEAT.jpg"],
     ["contact_sheet.jpg", "b.jpg"], ["p/0.png", "q/0.png", "0_png_1.jpg", "0_png_2.jpg"], ["p/a.jpg", "q/a.jpg", "r/a.jpg"]],
)  # fmt: skip
def test_picture_names__no_two_photos_write_the_same_file(files):
    names = picture_names([Path(f) for f in files])
    written = [f"{name}{end}".casefold() for name in names for end in ("", "_heat")] + ["contact_sheet"]
    assert len(names) == len(files) and len(set(written)) == len(written)


def test_picture_names__of_very_many_photos():
    files = [Path(f"{k % 100}/{k // 100}.jpg") for k in range(20_000)]
    names = picture_names(files)
    assert len({n.casefold() for n in names}) == 20_000 and names[:2] == ["0_jpg_1", "0_jpg_2"]


def test_predict__what_a_model_cannot_do_is_said_before_anything_is_written(tmp_path, capsys):
    own, out = photo(tmp_path / "a.jpg"), tmp_path / "out"
    ends = ["--out", out, "--device", "cpu"]
    assert "does not read captions" in refused([own, "--caption", "a dog", "--phrases", "a dog", *ends], capsys)
    weights = tmp_path / "w.pth"
    from ovdense.api import load_model

    torch.save({"state_dict": load_model("mdetr_mini", device="cpu").state_dict()}, weights)
    assert "has no heat maps" in refused([own, "--texts", "cat", "--heat", "--model", "mdetr_mini", "--weights", weights, *ends], capsys)
    photo(tmp_path / "mugs" / "mug" / "a.jpg")
    assert "example pictures" in refused([own, "--exemplars", tmp_path / "mugs", "--model", "mdetr_mini", "--weights", weights, *ends], capsys)
    assert not out.exists()


def test_predict__device_and_out_that_are_none(tmp_path, capsys):
    own = photo(tmp_path / "a.jpg")
    assert "the device must be cpu, cuda:0" in refused([own, "--texts", "cat", "--out", tmp_path / "out", "--device", "gpu"], capsys)
    assert "must be a folder" in refused([own, "--texts", "cat", "--out", own, "--device", "cpu"], capsys)


def test_predict__goes_on_past_a_file_that_may_not_be_read(tmp_path, capsys, monkeypatch):
    from ovdense.compat import images

    for name in "ab":
        photo(tmp_path / "in" / f"{name}.jpg")

    def read(path):
        if path.name == "a.jpg":
            raise PermissionError(13, "Permission denied", str(path))
        return np.zeros((40, 56, 3), np.uint8)

    monkeypatch.setattr(images, "read_upright", read)
    assert main([str(tmp_path / "in"), "--texts", "cat", "--out", str(tmp_path / "out"), "--device", "cpu"]) == 1
    assert "a.jpg" in capsys.readouterr().err
    assert [i["file_name"] for i in json.loads((tmp_path / "out" / "predictions.json").read_text())["images"]] == ["b.jpg"]


def test_overlays__never_go_into_the_folder_of_the_images(tmp_path):
    runner = type("Runner", (), {"test_dataloader": type("Loader", (), {"dataset": type("Set", (), {"image_folder": tmp_path})})})
    with pytest.raises(ValueError, match="--show-dir.*overwrite"):
        OverlayHook(str(tmp_path / ".." / tmp_path.name)).before_test_epoch(runner)
    OverlayHook(str(tmp_path / "overlays")).before_test_epoch(runner)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("out of memory")])
def test_predict__stopped_half_way_it_keeps_what_was_found(error, tmp_path, capsys, monkeypatch):
    from ovdense.api import OpenVocabPredictor

    for name in "abc":
        photo(tmp_path / "in" / f"{name}.jpg", ord(name))
    plain, calls = OpenVocabPredictor.predict, []

    def predict(self, image, **how):
        calls.append(1)
        if len(calls) == 3:
            raise error
        return plain(self, image, **how)

    monkeypatch.setattr(OpenVocabPredictor, "predict", predict)
    with pytest.raises(type(error)):
        main([str(tmp_path / "in"), "--texts", "cat", "--out", str(tmp_path / "out"), "--device", "cpu"])
    content = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [i["file_name"] for i in content["images"]] == ["a.jpg", "b.jpg"] and [c["name"] for c in content["categories"]] == ["background", "cat"]
    assert "2 of 3 images is in" in capsys.readouterr().err


def test_predict__photos_of_one_name_can_be_told_apart_and_converted(tmp_path):
    from ovdense.cli.annotations import main as convert

    for n, folder in enumerate(("a", "b/c")):
        photo(tmp_path / folder / "1.jpg", n)
    photo(tmp_path / "a" / "2.jpg")
    assert main([str(tmp_path / "a"), str(tmp_path / "b" / "c"), "--texts", "cat", "--out", str(tmp_path / "out"), "--device", "cpu"]) == 0
    names = [i["file_name"] for i in json.loads((tmp_path / "out" / "predictions.json").read_text())["images"]]
    assert names == ["a/1.jpg", "a/2.jpg", "b/c/1.jpg"]
    assert convert([str(tmp_path / "out" / "predictions.json"), str(tmp_path / "labels"), "--to", "labelme"]) == 0
    assert (tmp_path / "labels" / "b" / "c" / "1.json").is_file()


def test_record_names__say_nothing_of_the_way_to_the_photos(tmp_path, monkeypatch):
    """What holds ".." leads out of a folder: no reader of annotations takes it."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    assert record_names([Path("../a/1.jpg"), Path("b/1.jpg")]) == ["a/1.jpg", "work/b/1.jpg"]
    assert record_names([Path("b/../a/1.jpg"), tmp_path / "work" / "c" / "1.jpg"]) == ["a/1.jpg", "c/1.jpg"]


def test_outputs__never_take_the_place_of_what_is_read(tmp_path, capsys):
    from ovdense.cli import main as ovdense

    run = tmp_path / "run"
    run.mkdir()
    for name in ("iter_1.pth", "val.json"):
        (run / name).write_text("{}")
    photo(run / "1.jpg")
    weights, val = str(run / "iter_1.pth"), str(run / "val.json")
    for argv in (["vocab", "fold", "desco_mini", weights, weights, "--texts", "cat"], ["vocab", "fold", "desco_mini", str(run), weights, "--texts", "cat"],
                 ["export", "desco_mini", weights, "--texts", "cat", "--out", weights],
                 ["test", "desco_coco_photos", weights, "--annotations", val, "--out", val]):  # fmt: skip
        with pytest.raises(SystemExit) as error:
            ovdense(argv)
        assert error.value.code == 2 and "must be another file than those that are read" in capsys.readouterr().err, argv
    assert (run / "iter_1.pth").read_text() == (run / "val.json").read_text() == "{}"
