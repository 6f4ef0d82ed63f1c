"""YOLO as others write it: Ultralytics, Roboflow, LabelImg, CVAT. A wrong folder is never a data set without objects."""
import json
import warnings
from dataclasses import replace

import pytest
from PIL import Image

from ovdense.interchange import read_annotations, write_annotations
from tests.interchange.test_formats import _set, _thing, _yolo

LINE = "1 0.5 0.5 0.5 0.5\n"


def _files(folder, yaml, **pictures):
    """`pictures`: place (with "__" for "/") -> label line, or None for a picture without a label file."""
    for name, line in pictures.items():
        picture = folder / f"{name.replace('__', '/')}.jpg"
        picture.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (60, 40)).save(picture)
        if line is not None:
            label = folder / f"{name.replace('images', 'labels').replace('__', '/')}.txt"
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text(line)
    (folder / "data.yaml").write_text(yaml + "\nnames: [cat, dog]\n")
    return folder


def _found(data):
    return {image.file_name: [(o.name, o.box_xyxy) for o in image.objects] for image in data.images}


DOG = [("dog", (15, 10, 45, 30))]


@pytest.mark.parametrize("path", ["coco", "/datasets/coco8", "../datasets/coco8", "."])
@pytest.mark.parametrize("images", [False, True])
def test_yolo__a_path_of_another_machine(path, images, tmp_path):
    folder = _files(tmp_path / "set", f"path: {path}\ntrain: images/train", images__train__a=LINE)
    if images:
        (folder / "images").rename(tmp_path / "pictures")
    assert _found(read_annotations(folder, **({"images": tmp_path / "pictures/train"} if images else {}))) == {"a.jpg": DOG}


def test_yolo__below_any_folder_named_images(tmp_path):
    (tmp_path / "images" / "set").mkdir(parents=True)
    folder = _files(tmp_path / "images" / "set", "train: train")
    for kind in ("images", "labels"):
        (folder / "train" / kind).mkdir(parents=True)
    Image.new("RGB", (60, 40)).save(folder / "train" / "images" / "a.jpg")
    (folder / "train" / "labels" / "a.txt").write_text(LINE)
    assert _found(read_annotations(folder)) == {"a.jpg": DOG}
    (folder / "train" / "labels" / "lost.txt").write_text(LINE)
    with pytest.raises(ValueError, match="have no picture, the first is lost.txt"):
        read_annotations(folder)


def test_yolo__roboflow(tmp_path):
    yaml = "train: ../train/images\nval: ../valid/images"
    folder = _files(tmp_path / "export", yaml, train__images__a=LINE, valid__images__b=LINE)
    assert _found(read_annotations(folder)) == {"a.jpg": DOG} and _found(read_annotations(folder, split="val")) == {"b.jpg": DOG}
    (folder / "other").mkdir()
    (folder / "other/data.yaml").write_text(yaml + "\nnames: [cat, dog]\n")
    assert _found(read_annotations(folder / "other")) == {"a.jpg": DOG}  # here "../" is meant
    (folder / "data.yaml").write_text("train: train\nnames: [cat, dog]\n")
    assert _found(read_annotations(folder)) == {"a.jpg": DOG}


def test_yolo__lists_of_folders_and_of_pictures(tmp_path):
    folder = _files(tmp_path / "set", "train: [images/train]", images__train__a=LINE, images__more__b=LINE, images__more__c=LINE)
    assert _found(read_annotations(folder)) == {"a.jpg": DOG}
    (folder / "data.yaml").write_text("train: [images/train, images/more]\nnames: [cat, dog]\n")
    assert _found(read_annotations(folder)) == {"train/a.jpg": DOG, "more/b.jpg": DOG, "more/c.jpg": DOG}
    (folder / "train.txt").write_text(f"./images/more/c.jpg\n\n{folder}/images/train/a.jpg\n")
    (folder / "data.yaml").write_text("train: train.txt\nnames: [cat, dog]\n")
    assert _found(read_annotations(folder)) == {"more/c.jpg": DOG, "train/a.jpg": DOG}
    (folder / "train.txt").write_text("data/images/more/c.jpg\n")  # of CVAT
    assert _found(read_annotations(folder)) == {"c.jpg": DOG}
    (folder / "train.txt").write_text("images/more/c.jpg\nimages/more/d.jpg\n")
    with pytest.raises(ValueError, match=r"train.txt, line 2: the picture must exist"):
        read_annotations(folder)
    (folder / "data.yaml").write_text("train: [images/more, images/more]\nnames: [cat, dog]\n")
    with pytest.raises(ValueError, match="each picture must be there once"):
        read_annotations(folder)


def test_yolo__labels_that_are_nowhere(tmp_path):
    folder = _files(tmp_path / "set", "train: images/train", images__train__a=None)
    with pytest.raises(ValueError, match="looked for in .*labels/train, which is missing"):
        read_annotations(folder)
    (folder / "labels/train").mkdir(parents=True)
    with pytest.warns(UserWarning, match="all are taken for background"):
        assert _found(read_annotations(folder)) == {"a.jpg": []}
    (folder / "images/train/a.jpg").unlink()
    with pytest.raises(ValueError, match="must have pictures"):
        read_annotations(folder)


def test_yolo__the_classes_txt_of_labelimg(tmp_path):
    folder = _files(tmp_path / "set", "train: images/train", images__train__a=LINE)
    (folder / "labels/train/classes.txt").write_text("cat\ndog\n")
    assert _found(read_annotations(folder)) == {"a.jpg": DOG}


@pytest.mark.parametrize("names", ["[no, on, 'y', 01, 1.0]", "{0: no, 1: on, 2: y, 3: 01, 4: 1.0}"])
def test_yolo__names_are_read_as_they_are_written(names, tmp_path):
    folder = _yolo(tmp_path / "set", LINE, names=names)
    data = read_annotations(folder)
    assert data.classes.names == ("no", "on", "y", "01", "1.0")
    write_annotations(data, folder, "yolo")
    assert read_annotations(folder).classes.names == data.classes.names


def test_yolo__key_points_are_left_out_with_a_warning(tmp_path):
    lines = "0 .5 .5 .2 .2 .4 .4 2 .5 .5 1 .6 .6 0\n1 .5 .5 .2 .2 .4 .4 2 .5 .5 1 .6 .6 0 .75\n"
    folder = _files(tmp_path / "set", "kpt_shape: [3, 3]\ntrain: images/train", images__train__a=lines)
    with pytest.warns(UserWarning, match=r"left out the key points \(kpt_shape \[3, 3\]\)"):
        first, second = read_annotations(folder).objects()
    assert first.box_xyxy == second.box_xyxy == (24, 16, 36, 24) and first.mask is second.mask is None and (first.score, second.score) == (None, 0.75)
    (folder / "labels/train/a.txt").write_text("0 .5 .5 .2 .2 .4 .4 2 .5 .5 1\n")
    with pytest.raises(ValueError, match="line 1: must be a class, a box .* and key points"):
        read_annotations(folder)
    (folder / "data.yaml").write_text("kpt_shape: 17\ntrain: images/train\nnames: [cat, dog]\n")
    with pytest.raises(ValueError, match="kpt_shape must be"):
        read_annotations(folder)


def test_yolo__a_folder_named_images_in_a_pictures_name(tmp_path):
    """The label lies where Ultralytics looks for it: the last "images" of the path is "labels"."""
    data = _set(_thing())
    data = replace(data, images=(replace(data.images[0], file_name="images/a.jpg"),))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_annotations(data, tmp_path, "yolo")
    (tmp_path / "images/train/images").mkdir(parents=True)
    Image.new("RGB", (60, 40)).save(tmp_path / "images/train/images/a.jpg")
    assert (tmp_path / "images/train/labels/a.txt").is_file() and _found(read_annotations(tmp_path))["images/a.jpg"][0][0] == "cat"


def test_yolo__labels_of_a_turned_photo_are_in_its_upright_size(tmp_path):
    """Labels are drawn on the upright picture; COCO then says its upright size."""
    folder = _files(tmp_path / "set", "train: images/train", images__train__a="0 0.25 0.75 0.5 0.5\n")
    picture = Image.new("RGB", (60, 40))
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(folder / "images/train/a.jpg", exif=exif)
    write_annotations(read_annotations(folder), tmp_path / "a.json", "coco")
    content = json.loads((tmp_path / "a.json").read_text())
    assert (content["images"][0]["height"], content["images"][0]["width"]) == (60, 40) and content["annotations"][0]["bbox"] == [0, 30, 20, 30]
