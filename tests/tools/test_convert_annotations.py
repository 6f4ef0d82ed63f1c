import json

import pytest

from ovdense.interchange import read_annotations
from tests.tiny_run import load_script

COCO = {
    "images": [{"id": 3, "file_name": "a.jpg", "height": 30, "width": 40}], "categories": [{"id": 5, "name": "cat"}],
    "annotations": [{"id": 1, "image_id": 3, "category_id": 5, "bbox": [1, 2, 10, 12], "area": 60, "iscrowd": 0, "segmentation": [[1, 2, 11, 2, 11, 14]]}],
}


@pytest.fixture
def source(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(COCO))
    return tmp_path / "a.json"


@pytest.mark.parametrize("form, place", [("cvat", "a.xml"), ("labelme", "l"), ("voc", "v")])
def test_convert_annotations__there_and_back(form, place, source, tmp_path, capsys):
    main = load_script("tools/convert_annotations.py").main
    assert main([str(source), str(tmp_path / place), "--to", form]) == 0
    assert f"1 images, 1 objects (1 with masks) of 1 classes: coco -> {form}" in capsys.readouterr().out
    assert main([str(tmp_path / place), str(tmp_path / "back.json"), "--to", "coco"]) == 0
    (thing,) = read_annotations(tmp_path / "back.json").images[0].objects
    assert thing.name == "cat" and thing.box_xyxy == pytest.approx((1, 2, 11, 14)) and thing.mask is not None


def test_convert_annotations__options_that_do_not_fit_are_said(source, tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_info:
        load_script("tools/convert_annotations.py").main([str(source), str(tmp_path / "o"), "--to", "labelme", "--split", "val"])
    assert exit_info.value.code == 2 and "options must be among invalid_boxes" in capsys.readouterr().err


def _refused(argv, capsys):
    with pytest.raises(SystemExit) as exit_info:
        load_script("tools/convert_annotations.py").main([str(a) for a in argv])
    assert exit_info.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("form, label", [("labelme", "a.json"), ("voc", "Annotations/a.xml"), ("yolo", "labels/train/a.txt")])
def test_convert_annotations__labels_that_are_there_are_not_written_over(form, label, source, tmp_path, capsys):
    main, out = load_script("tools/convert_annotations.py").main, tmp_path / "out"
    assert main([str(source), str(out), "--to", form]) == 0
    (out / label).write_text("corrected by hand")
    said = _refused([source, out, "--to", form], capsys)
    assert str(out / label) in said and "--overwrite" in said and (out / label).read_text() == "corrected by hand"
    assert main([str(source), str(out), "--to", form, "--overwrite"]) == 0
    assert (out / label).read_text() != "corrected by hand"


@pytest.mark.parametrize("form", ["coco", "cvat"])
def test_convert_annotations__never_over_what_is_read(form, source, tmp_path, capsys):
    before = source.read_text()
    (tmp_path / "link.json").symlink_to(source)
    for out in (source, tmp_path / "link.json"):
        assert "another file than SOURCE" in _refused([source, out, "--to", form], capsys)
    assert source.read_text() == before
    assert load_script("tools/convert_annotations.py").main([str(source), str(tmp_path / "b.json"), "--to", form]) == 0
    assert load_script("tools/convert_annotations.py").main([str(source), str(tmp_path / "b.json"), "--to", form]) == 0  # a file made before may be made anew


@pytest.mark.parametrize("form, label", [("labelme", "a.json"), ("voc", "Annotations/a.xml")])
def test_convert_annotations__never_over_one_of_the_labels_that_are_read(form, label, source, tmp_path, capsys):
    main, folder = load_script("tools/convert_annotations.py").main, tmp_path / "in"
    assert main([str(source), str(folder), "--to", form]) == 0
    before = (folder / label).read_text()
    assert "one of its labels" in _refused([folder, folder / label, "--from", form, "--to", "coco"], capsys)
    assert (folder / label).read_text() == before
    assert main([str(folder), str(folder / "all.coco"), "--from", form, "--to", "coco"]) == 0


def test_convert_annotations__errors_name_the_options_of_the_command(source, tmp_path, capsys):
    source.write_text(json.dumps({**COCO, "annotations": [{**COCO["annotations"][0], "bbox": [1, 2, 0, 12]}]}))
    assert "or pass --drop" in _refused([source, tmp_path / "o", "--to", "labelme"], capsys)
