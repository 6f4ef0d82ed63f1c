"""What a user meets: odd but right files, clear errors for wrong ones, holes, groups, flags, results, names that would leave the folder."""
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from ovdense.interchange import (
    AnnotatedImage,
    AnnotatedObject,
    AnnotationSet,
    Mask,
    guess_format,
    read_annotations,
    record_of_results,
    to_labelme,
    write_annotations,
)
from ovdense.interchange.outlines import join_parts, outlines, polygons_rle, split_parts
from ovdense.structures import Results, Vocabulary

SIZE = (40, 60)


def _thing(**changes):
    return AnnotatedObject(**{"name": "cat", "box_xyxy": (5.0, 6.0, 20.5, 30.25), **changes})


def _set(*things, **changes):
    return AnnotationSet(classes=Vocabulary.of(["cat", "red dog"]), images=(AnnotatedImage(file_name="photos/a.jpg", size_hw=SIZE, objects=things, **changes),))


def _ring():
    mask = np.zeros(SIZE, dtype=bool)
    mask[5:25, 10:40] = True
    mask[10:20, 15:30] = False
    mask[12:14, 18:20] = True  # an island in the hole
    return mask


def _back(data, form, folder):
    place = folder / {"coco": "a.json", "cvat": "a.xml"}.get(form, "data")
    write_annotations(data, place, form)
    if form == "yolo":
        for image in data.images:
            (folder / "pictures" / image.file_name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", image.size_hw[::-1]).save(folder / "pictures" / image.file_name)
    return read_annotations(place, form, **({"images": folder / "pictures"} if form == "yolo" else {}))


@pytest.mark.parametrize("seed", range(8))
def test_outlines__filled_give_the_same_pixels(seed):
    rng = np.random.default_rng(seed)
    mask = rng.random((rng.integers(1, 30), rng.integers(1, 40))) > rng.choice([0.2, 0.5, 0.8])
    mask.flat[0] = True
    found = outlines(mask)
    joined = join_parts(found)
    for polygons in (found, split_parts(joined)):
        assert polygons_rle(polygons, mask.shape) == Mask.of_array(mask).counts
    assert len(split_parts(joined)) == len(found)


@pytest.mark.parametrize("form", ["coco", "cvat", "labelme", "voc", "yolo"])
def test_formats__a_mask_with_a_hole_keeps_it(form, tmp_path):
    mask = Mask.of_array(_ring())
    found = _back(_set(_thing(mask=mask, box_xyxy=mask.box_xyxy())), form, tmp_path).images[0].objects[0]
    assert np.array_equal(found.mask.to_array(), _ring()) and found.box_xyxy == pytest.approx(mask.box_xyxy())


@pytest.mark.parametrize("form", ["coco", "cvat", "labelme"])
def test_formats__what_is_said_of_an_object_comes_back(form, tmp_path):
    polygons = ((5.0, 6.0, 10.0, 6.0, 10.0, 12.5), (20.0, 6.0, 30.0, 6.0, 30.0, 12.5))
    things = (
        _thing(score=0.12345678, id=7, difficult=True, occluded=True, attributes={"age": 3, "name": "Tom & <Jerry>", "asleep": False}),
        _thing(name="red dog", id=8, truncated=True, crowd=True, mask=Mask(polygons=polygons, size_hw=SIZE), attributes={"age": 2.5, "asleep": True}),
        _thing(id=9, stuff=True, mask=Mask.of_array(_ring()), box_xyxy=(1.0, 2.0, 41.0, 27.0)),
    )
    for a, b in zip(things, _back(_set(*things), form, tmp_path).images[0].objects, strict=True):
        for field in ("name", "box_xyxy", "score", "id", "crowd", "difficult", "truncated", "occluded", "stuff", "attributes"):
            assert getattr(a, field) == getattr(b, field), (form, field)
        assert (a.mask and a.mask.counts) == (b.mask and b.mask.counts)


@pytest.mark.parametrize("form", ["coco", "cvat", "labelme", "voc", "yolo"])
def test_formats__an_image_without_objects_stays(form, tmp_path):
    data = AnnotationSet(classes=Vocabulary.of(["cat", "red dog"]), images=(
        AnnotatedImage(file_name="a.jpg", size_hw=SIZE), AnnotatedImage(file_name="b.jpg", size_hw=SIZE, objects=(_thing(name="red dog"),))))
    back = _back(data, form, tmp_path)
    assert [i.file_name for i in back.images] == ["a.jpg", "b.jpg"] and [len(i.objects) for i in back.images] == [0, 1]
    assert back.classes.names == ("cat", "red dog")  # in their order, the first one unseen


def test_write__says_what_the_format_cannot_hold(tmp_path):
    data = _set(_thing(score=0.5, crowd=True), _thing(attributes={"a": 1}), negative=("cat",))
    with pytest.warns(UserWarning, match=r"voc has no place for scores \(1\), crowds \(1\), attributes \(1\), lists of absent classes \(1\)"):
        write_annotations(data, tmp_path / "voc", "voc")


@pytest.mark.parametrize("name", ["../a.jpg", "/etc/a.jpg", "x/../../a.jpg", "C:\\a.jpg", "..\\a.jpg", "", "a\0.jpg"])
@pytest.mark.parametrize("form", ["labelme", "voc", "yolo"])
def test_write__never_leaves_the_folder(form, name, tmp_path):
    data = _set()
    data = replace(data, images=(replace(data.images[0], file_name=name),))
    with pytest.raises(ValueError, match="below the folder of images"):
        write_annotations(data, tmp_path / "out", form)


def test_write__two_images_that_would_share_a_file(tmp_path):
    data = _set()
    with pytest.raises(ValueError, match="would share a"):
        write_annotations(replace(data, images=(data.images[0], replace(data.images[0], file_name="photos/a.png"))), tmp_path, "labelme")


XML = '<?xml version="1.0"?><!DOCTYPE lolz [<!ENTITY lol "lol"><!ENTITY lol2 "&lol;&lol;">]><annotations><version>&lol2;</version></annotations>'


def test_xml__entities_are_refused(tmp_path):
    (tmp_path / "a.xml").write_text(XML)
    with pytest.raises(ValueError, match="without a DTD"):
        read_annotations(tmp_path / "a.xml")
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "Annotations" / "a.xml").write_text(XML)
    with pytest.raises(ValueError, match="without a DTD"):
        read_annotations(tmp_path, "voc")


CVAT = '<annotations><image id="0" name="a.jpg" width="60" height="40">{}</image></annotations>'


@pytest.mark.parametrize("inner, words", [
    ("<box label='cat' xtl='1' ytl='2' xbr='1' ybr='9'/>", "positive width"),
    ("<box label='cat' xtl='1' ytl='2' xbr='x' ybr='9'/>", "finite numbers"),
    ("<box xtl='1' ytl='2' xbr='5' ybr='9'/>", "must have a label"),
    ("<polygon label='cat' points='1,2;3,4'/>", "at least three points"),
    ("<mask label='cat' rle='5,5' left='55' top='0' width='10' height='1'/>", "inside the image"),
    ("<points label='cat' points='1,2'/>", "got points"),
    ("<box label='cat' xtl='1' ytl='2' xbr='5' ybr='9' rotation='30'/>", "got a rotated box"),
    ("", "at least one class"),
])
def test_cvat__wrong_entries_are_named(inner, words, tmp_path):
    (tmp_path / "a.xml").write_text(CVAT.format(inner))
    with pytest.raises(ValueError, match=words) as error:
        read_annotations(tmp_path / "a.xml")
    assert "a.xml" in str(error.value)


def test_cvat__tracks_of_a_video(tmp_path):
    (tmp_path / "a.xml").write_text("<annotations><track id='0' label='cat'/></annotations>")
    with pytest.raises(ValueError, match="CVAT for images 1.1"):
        read_annotations(tmp_path / "a.xml")


def test_cvat__box_and_polygons_of_a_group_are_one_object(tmp_path):
    (tmp_path / "a.xml").write_text(CVAT.format(
        "<box label='cat' xtl='1' ytl='2' xbr='30' ybr='20' group_id='4'/><polygon label='cat' points='2,3;9,3;9,9' group_id='4'/>"
        "<polygon label='cat' points='12,3;19,3;19,9' group_id='4'/><box label='dog' xtl='1' ytl='2' xbr='30' ybr='20' group_id='4'/>"
        "<ellipse label='dog' cx='20' cy='20' rx='10' ry='5'/>"))
    cat, dog, round_one = read_annotations(tmp_path / "a.xml").images[0].objects
    assert cat.box_xyxy == (1, 2, 30, 20) and len(cat.mask.polygons) == 2 and dog.group == 4
    assert round_one.mask.to_array().sum() == pytest.approx(np.pi * 50, rel=0.03)


def _labelme(**changes):
    shape = {"label": "cat", "points": [[1, 2], [9, 12]], "shape_type": "rectangle", "group_id": None, "flags": {}}
    return {"version": "5.0", "shapes": [{**shape, **changes}], "imagePath": "..\\photos\\a.jpg", "imageHeight": 40, "imageWidth": 60, "imageData": None}


def test_labelme__corners_in_any_order(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(_labelme(points=[[9, 2], [1, 12]])))
    image = read_annotations(tmp_path).images[0]
    assert image.objects[0].box_xyxy == (1, 2, 9, 12) and image.file_name == "a.jpg"


@pytest.mark.parametrize("changes, words", [
    ({"points": [[1, 2]]}, "must have 2 points"), ({"points": [[1, 2], [1, 9]]}, "positive width"), ({"points": [[1, 2], ["x", 9]]}, "finite numbers"),
    ({"points": [[1, 2], [float("nan"), 9]]}, "finite numbers"), ({"label": ""}, "must have a label"), ({"group_id": "a"}, "group_id"),
    ({"shape_type": "linestrip"}, "got linestrip"), ({"shape_type": "mask", "mask": "@@"}, "PNG in base64"), ({"flags": [1]}, "flags and attributes"),
])
def test_labelme__wrong_entries_are_named(changes, words, tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(_labelme(**changes)))
    with pytest.raises(ValueError, match=words) as error:
        read_annotations(tmp_path)
    assert "a.json" in str(error.value)


def test_labelme__lines_may_be_dropped(tmp_path):
    content = _labelme()
    content["shapes"].append({**content["shapes"][0], "shape_type": "line"})
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.warns(UserWarning, match="left out 1 shapes"):
        assert len(read_annotations(tmp_path, unknown="drop").images[0].objects) == 1


def _yolo(folder, line, names="{0: cat, 1: dog}", label="a"):
    for part in ("images/train", "labels/train"):
        (folder / part).mkdir(parents=True)
    Image.new("RGB", (60, 40)).save(folder / "images/train/a.jpg")
    (folder / f"labels/train/{label}.txt").write_text(line)
    (folder / "data.yaml").write_text(f"train: images/train\nnames: {names}\n")
    return folder


@pytest.mark.parametrize("line, words", [
    ("2 .5 .5 .1 .1", "class 0..1"), ("0 .5 .5 .1", "box"), ("0 .5 .5 -.1 .1", "positive width"), ("0 a .5 .1 .1", "finite"), ("0.5 .5 .5 .1 .1", "class 0..1"),
    ("0 nan .5 .1 .1", "finite"),
])
def test_yolo__wrong_lines_are_named(line, words, tmp_path):
    with pytest.raises(ValueError, match=words) as error:
        read_annotations(_yolo(tmp_path, f"0 .5 .5 .1 .1\n{line}\n"))
    assert "a.txt, line 2" in str(error.value)


def test_yolo__scores_lists_of_names_and_lost_labels(tmp_path):
    data = read_annotations(_yolo(tmp_path / "a", "1 0.5 0.5 0.5 0.5 0.75\n0 0.1 0.1 0.5 0.1 0.5 0.5\n", names="[cat, dog]"))
    first, second = data.images[0].objects
    assert first.score == 0.75 and first.box_xyxy == (15, 10, 45, 30) and second.mask.polygons == ((6, 4, 30, 4, 30, 20),)
    with pytest.raises(ValueError, match="no picture"):
        read_annotations(_yolo(tmp_path / "b", "", label="other"))
    with pytest.raises(ValueError, match="numbered 0, 1"):
        read_annotations(_yolo(tmp_path / "c", "", names="{1: cat, 2: dog}"))


def test_yolo__a_rotated_picture_has_its_upright_size(tmp_path):
    folder = _yolo(tmp_path, "0 0.5 0.5 1 1\n")
    picture = Image.new("RGB", (60, 40))
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(folder / "images/train/a.jpg", exif=exif)
    assert read_annotations(folder).images[0].objects[0].box_xyxy == (0, 0, 40, 60)


def test_formats__are_recognised_or_asked_for(tmp_path):
    for form in ("coco", "cvat", "labelme", "voc", "yolo"):
        place = tmp_path / form / {"coco": "a.json", "cvat": "a.xml"}.get(form, "")
        write_annotations(_set(_thing()), place, form)
        assert guess_format(place) == form
    with pytest.raises(ValueError, match="did you mean 'labelme'"):
        read_annotations(tmp_path, "label-me")
    with pytest.raises(ValueError, match="none of them"):
        (tmp_path / "x.txt").write_text("")
        guess_format(tmp_path / "x.txt")
    with pytest.raises(ValueError, match="options must be among split, masks"):
        write_annotations(_set(), tmp_path / "y", "yolo", mask=True)


def test_results__as_records():
    results = Results(boxes_xyxy=torch.tensor([[1.0, 2, 11, 12], [3, 3, 3, 9]]), scores=torch.tensor([0.9, 0.8]), labels=torch.tensor([1, 0]),
                      names=("cat", "red dog"), size_hw=SIZE, masks_NHW=torch.from_numpy(np.stack([_ring(), _ring()])))
    record = record_of_results(results, "a.jpg")
    assert [(o.name, o.box_xyxy) for o in record.objects] == [("red dog", (1, 2, 11, 12))]  # the box without area is left out
    assert np.array_equal(record.objects[0].mask.to_array(), _ring()) and record.objects[0].score == pytest.approx(0.9)
    shape = to_labelme(record)["shapes"][0]
    assert (shape["label"], shape["shape_type"]) == ("red dog", "mask") and shape["score"] == pytest.approx(0.9)
    label_HW = torch.zeros(SIZE, dtype=torch.int64)
    label_HW[3:9, 4:20] = 1
    (region,) = record_of_results(Results.of_label_map(label_HW, ["background", "sofa"])).objects
    assert region.stuff and region.name == "sofa" and region.box_xyxy == (4, 3, 20, 9)
