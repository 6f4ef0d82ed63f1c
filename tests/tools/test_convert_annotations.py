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
