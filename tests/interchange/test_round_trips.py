"""Every format, out and in again, on the annotations of real photos: what the format can hold comes back."""
import json
import warnings

import numpy as np
import pytest
from PIL import Image

from ovdense.interchange import read_annotations, write_annotations
from ovdense.interchange.formats import lost_in

FORMATS = {"coco": "a.json", "cvat": "a.xml", "labelme": "a", "voc": "a", "yolo": "a"}


@pytest.fixture(scope="module")
def photos(data_root):
    return read_annotations(data_root / "coco_mini/annotations/instances_val2017.json", "coco")


def _there_and_back(data, form, folder, pictures=None, **options):
    place = folder / FORMATS[form]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # what is lost is compared below
        write_annotations(data, place, form, **options)
    return read_annotations(place, form, **({"images": pictures} if form == "yolo" else {}))


def _by_name(data):
    return {image.file_name: image for image in data.images}


def _same_boxes(a, b, tolerance=1e-4):
    assert [o.name for o in a] == [o.name for o in b]
    np.testing.assert_allclose([o.box_xyxy for o in a], [o.box_xyxy for o in b], atol=tolerance)


@pytest.mark.parametrize("form", ["cvat", "labelme"])
def test_round_trip__keeps_everything(photos, form, tmp_path):
    back = _by_name(_there_and_back(photos, form, tmp_path))
    assert set(back) == {i.file_name for i in photos.images}
    for image in photos.images:
        found = back[image.file_name]
        assert found.size_hw == image.size_hw and len(found.objects) == len(image.objects)
        _same_boxes(image.objects, found.objects, 1e-7)
        for a, b in zip(image.objects, found.objects):
            assert (a.id, a.crowd, a.score, a.attributes) == (b.id, b.crowd, b.score, b.attributes)
            if a.mask.polygons:
                assert [len(p) for p in a.mask.polygons] == [len(p) for p in b.mask.polygons]
                np.testing.assert_allclose(sum(a.mask.polygons, ()), sum(b.mask.polygons, ()), atol=1e-7)
            else:
                assert a.mask.rle == b.mask.rle
    assert not set(lost_in(photos, form)) - {"lists of absent classes"}


@pytest.mark.parametrize("name", ["coco_mini/annotations/instances_val2017.json", "coco_mini/annotations/instances_train2017.json",
                                  "lvis_mini/annotations/lvis_v1_val.json"])
def test_coco_and_lvis__the_file_comes_back(data_root, name, tmp_path):
    """Every image, annotation and category of the file, every field of it; numbers to a billionth of a pixel."""
    data = read_annotations(data_root / name)
    write_annotations(data, tmp_path / "a.json", "coco")
    old, new = (json.loads(p.read_text()) for p in (data_root / name, tmp_path / "a.json"))
    assert set(old) == set(new)
    for key in ("images", "annotations", "categories"):
        was, now = ({e["id"]: e for e in content[key]} for content in (old, new))
        assert was.keys() == now.keys() and len(old[key]) == len(new[key])
        for n, entry in was.items():
            box = entry.pop("bbox", None)
            assert box == pytest.approx(now[n].pop("bbox", None), abs=1e-9)
            assert entry == now[n]
    assert {k: v for k, v in old.items() if not isinstance(v, list)} == {k: v for k, v in new.items() if not isinstance(v, list)}


def test_yolo__boxes(photos, data_root, tmp_path):
    back = _by_name(_there_and_back(photos, "yolo", tmp_path, data_root / "coco_mini/val2017", masks=False))
    for image in photos.images:
        _same_boxes(image.objects, back[image.file_name].objects, 1e-5)
        assert back[image.file_name].size_hw == image.size_hw


def test_yolo__masks_with_parts_and_holes(photos, data_root, tmp_path):
    """Objects of several parts become one polygon and come back as parts; the pixels are the same, whatever the parts are."""
    back = _by_name(_there_and_back(photos, "yolo", tmp_path, data_root / "coco_mini/val2017"))
    several = crowds = 0
    for image in photos.images:
        for a, b in zip(image.objects, back[image.file_name].objects, strict=True):
            several += len(a.mask.polygons) > 1
            crowds += a.crowd
            assert a.name == b.name
            if len(a.mask.polygons) == 1:
                assert a.mask.polygons == b.mask.polygons
            else:  # a part may have been turned round, whose border pixels COCO fills a little differently
                off = (a.mask.to_array() != b.mask.to_array()).sum()
                assert off == 0 if a.crowd else off <= 2 + 0.002 * a.mask.to_array().sum()
    assert several > 10 and crowds > 1


@pytest.mark.slow
def test_voc__boxes_and_pixels(photos, tmp_path):
    """VOC has one object a pixel: where masks do not overlap they come back; a pixel of several goes to the smallest."""
    back = _by_name(_there_and_back(photos, "voc", tmp_path))
    for image in photos.images:
        found = back[image.file_name]
        _same_boxes(image.objects, found.objects, 1e-6)
        assert [o.difficult for o in found.objects] == [o.crowd for o in image.objects]
        masks = np.stack([o.mask.to_array() for o in image.objects]) if image.objects else np.zeros((0, 1, 1), bool)
        alone = masks.sum(0) == 1
        for mask, thing in zip(masks, found.objects):
            assert thing.mask is not None or not (mask & alone).any()
            assert thing.mask is None or (mask & alone == thing.mask.to_array() & alone).all()


def test_voc__the_published_folder_comes_back(data_root, tmp_path):
    """All XML fields, and the label maps to the pixel (background, classes, 255)."""
    devkit = data_root / "voc_mini/VOCdevkit/VOC2012"
    data = read_annotations(devkit, "voc", split="val")
    back = _there_and_back(data, "voc", tmp_path)
    assert data.classes.names == back.classes.names and len(data.classes) == 20
    assert len(data) == len(back) > 30 and sum(image.void is not None for image in data.images) > 5
    found_by_name = _by_name(back)
    for image in data.images:
        found = found_by_name[image.file_name]
        assert (image.file_name, image.size_hw, image.id) == (found.file_name, found.size_hw, found.id)
        assert image.extra == found.extra
        for a, b in zip(image.objects, found.objects, strict=True):
            for field in ("name", "box_xyxy", "difficult", "truncated", "attributes", "stuff"):
                assert getattr(a, field) == getattr(b, field)
        stem = image.file_name.removesuffix(".jpg")
        maps = [np.asarray(Image.open(folder / "SegmentationClass" / f"{stem}.png")) for folder in (devkit, tmp_path / "a")]
        assert np.array_equal(*maps)


@pytest.mark.parametrize("form", ["cvat", "labelme", "coco"])
def test_round_trip__through_all_formats_that_hold_it(photos, form, tmp_path):
    """coco -> FORM -> coco gives the file that coco -> coco gives, but for the fields that only COCO has."""
    back = _there_and_back(photos, form, tmp_path)
    for name, data in (("direct", photos), ("around", back)):
        (tmp_path / name).mkdir()
        write_annotations(data, tmp_path / name / "a.json", "coco")
    direct, around = (read_annotations(tmp_path / name / "a.json") for name in ("direct", "around"))
    assert direct.classes.names == around.classes.names
    a, b = _by_name(direct), _by_name(around)
    for name, image in a.items():
        assert [(o.id, o.name, o.crowd) for o in image.objects] == [(o.id, o.name, o.crowd) for o in b[name].objects]
        assert all(x.mask.counts == y.mask.counts for x, y in zip(image.objects, b[name].objects))
