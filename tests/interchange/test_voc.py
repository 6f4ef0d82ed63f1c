"""VOC's files give back the names that were written, and what they cannot hold is said; so it is for the ids, boxes and groups of the other formats."""
import json
import warnings
from dataclasses import replace

import numpy as np
import pytest

from ovdense.compat.voc import split_names
from ovdense.interchange import AnnotatedImage, AnnotationSet, Mask, read_annotations, write_annotations
from ovdense.interchange.formats import lost_in
from ovdense.structures import Vocabulary
from tests.interchange.test_formats import SIZE, _back, _set, _thing


def _box_mask(x1, y1, x2, y2):
    mask = np.zeros(SIZE, dtype=bool)
    mask[y1:y2, x1:x2] = True
    return Mask.of_array(mask)


CAT, GRASS = (5.0, 6.0, 20.0, 30.0), (30.0, 2.0, 50.0, 20.0)


@pytest.mark.parametrize("names", [("my photo.jpg",), ("my photo 1.jpg", "my photo 2.jpg"), ("photo 0.jpg", "photo 1.jpg"), ("photo 1.jpg",),
                                   ("a/b c.jpg",), ("background.jpg",)])
def test_voc__names_of_images_with_blanks(names, tmp_path):
    data = AnnotationSet(classes=Vocabulary.of(["cat"]), images=tuple(AnnotatedImage(file_name=n, size_hw=SIZE, objects=(_thing(),)) for n in names))
    write_annotations(data, tmp_path, "voc", split="val")
    assert tuple(i.file_name for i in read_annotations(tmp_path, split="val").images) == names


def test_voc__lists_of_one_class(tmp_path):
    (tmp_path / "cat_val.txt").write_text("2007_000027 -1\n2007_000032  1\n2007_000033  0\n")
    assert split_names(tmp_path / "cat_val.txt") == ("2007_000027", "2007_000032", "2007_000033")


@pytest.mark.parametrize("names", [("ratio 1:2", "cat"), ("#1", "# 2:3", "cat"), ("a:", "b::1,2,3", "cat:1,2,3", "cat")])
def test_voc__names_of_classes(names, tmp_path):
    mask = _box_mask(5, 6, 20, 30)
    things = (_thing(name="cat", mask=mask, stuff=True, box_xyxy=CAT),)
    data = AnnotationSet(classes=Vocabulary.of(names), images=(AnnotatedImage(file_name="a.jpg", size_hw=SIZE, objects=things),))
    write_annotations(data, tmp_path, "voc")
    back = read_annotations(tmp_path)
    assert back.classes.names == names and [o.name for o in back.objects()] == ["cat"]


@pytest.mark.parametrize("lines, names", [
    ("# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:128,0,0:head,tail:run\nvoid:1,1,1::\n", ("cat",)),
    ("# mine\ncat\nred dog:\n\nsofa:1, 2, 3\n", ("cat", "red dog", "sofa")), ("cat: 1,2,3::\ncow:4,5,6 ::\n", ("cat", "cow")),
])
def test_voc__labelmaps_of_others(lines, names, tmp_path):
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "labelmap.txt").write_text(lines)
    assert read_annotations(tmp_path, "voc").classes.names == names


@pytest.mark.parametrize("name, image, words", [
    ("void", "a.jpg", "class cannot be named 'void': it would not be read as that name"), ("background", "a.jpg", "class cannot be named 'background'"),
    ("cat\u2028dog", "a.jpg", "class cannot be named 'cat.*dog'"), ("cat", "a -1.jpg", "image cannot be named 'a -1'"),
    ("cat", "a .jpg", "image cannot be named 'a '"), ("cat", "a\u202eb.jpg", "image cannot be named"),
])
def test_voc__names_that_would_not_come_back_are_refused(name, image, words, tmp_path):
    data = AnnotationSet(classes=Vocabulary.of([name]), images=(AnnotatedImage(file_name=image, size_hw=SIZE, objects=(_thing(name=name),)),))
    with pytest.raises(ValueError, match=words):
        write_annotations(data, tmp_path / "out", "voc")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("others, lost", [
    ((), 0),
    ((_thing(),), 0),  # a box leaves the label map alone
    ((_thing(mask=_box_mask(5, 6, 20, 30), box_xyxy=CAT),), 1),
    ((_thing(name="red dog", stuff=True),), 1),
])
def test_voc__stuff_that_is_lost_is_said(others, lost, tmp_path):
    grass = _thing(name="red dog", stuff=True, mask=_box_mask(30, 2, 50, 20), box_xyxy=GRASS)
    data = _set(*others, grass)
    assert sum(lost_in(data, "voc").values()) == lost
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", UserWarning)
        back = _back(data, "voc", tmp_path)
    assert len(back.images[0].objects) == len(data.images[0].objects) - lost
    assert [str(w.message).partition(":")[0] for w in said] == ["voc has no place for stuff without a mask, or beside masks of objects (1)"][:lost]


def test_voc__a_mask_under_another_is_said(tmp_path):
    thing = _thing(mask=_box_mask(5, 6, 20, 30), box_xyxy=CAT)
    with pytest.warns(UserWarning, match="one object a pixel: 1 masks have none left"):
        first, second = _back(_set(thing, thing), "voc", tmp_path).objects()
    assert first.mask is None and second.mask is not None


def test_voc__a_pose_is_kept(tmp_path):
    data = _set(_thing(attributes={"pose": "Left"}))
    assert lost_in(data, "voc") == {} and next(_back(data, "voc", tmp_path).objects()).attributes == {"pose": "Left"}


@pytest.mark.parametrize("box, lost", [((5.0, 5.0, 40.0, 39.0), 1), ((10.0, 10.0, 30.0, 20.0), 0), ((10.4, 9.6, 30.3, 20.0), 0)])
def test_yolo__a_box_beside_its_run_length_is_said(box, lost, tmp_path):
    data = _set(_thing(mask=_box_mask(10, 10, 30, 20), box_xyxy=box))
    assert lost_in(data, "yolo") == ({"boxes beside their masks": 1} if lost else {})
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        write_annotations(data, tmp_path, "yolo", masks=False)  # the boxes are written


def test_coco__a_flag_beside_an_attribute_of_its_name_is_said(tmp_path):
    data = _set(_thing(occluded=True, attributes={"occluded": "partly"}), _thing(occluded=True))
    with pytest.warns(UserWarning, match=r"coco has no place for flags beside attributes of their name \(1\)"):
        first, second = _back(data, "coco", tmp_path).objects()
    assert first.attributes == {"occluded": "partly"} and second.occluded


def test_cvat__a_group_0_stays_a_group(tmp_path):
    things = (_thing(group=0), _thing(name="red dog", group=0), _thing(group=3), _thing())
    groups = [o.group for o in _back(_set(*things), "cvat", tmp_path).objects()]
    assert groups[0] == groups[1] not in (None, 0, 3) and groups[2:] == [3, None]


@pytest.mark.parametrize("form, image, thing, classes", [("coco", 139, 17, [3, 90]), ("cvat", 139, 17, [1, 2]), ("labelme", 1, 17, [1, 2]),
                                                         ("voc", 1, 1, [1, 2]), ("yolo", 1, 1, [0, 1])])
def test_formats__ids_that_come_back_are_those_of_the_guide(form, image, thing, classes, tmp_path):
    data = replace(_set(_thing(id=17), id=139), class_ids=(3, 90))
    write_annotations(_back(data, form, tmp_path), tmp_path / "back.json", "coco")
    content = json.loads((tmp_path / "back.json").read_text())
    assert (content["images"][0]["id"], content["annotations"][0]["id"]) == (image, thing) and [c["id"] for c in content["categories"]] == classes


def test_voc__a_background_class_that_no_object_has_is_vocs_own(tmp_path):
    """As a segmenter's predictions list it."""
    region = _thing(mask=_box_mask(5, 6, 20, 30), box_xyxy=CAT, stuff=True)
    data = AnnotationSet(classes=Vocabulary.of(["background", "cat"]), images=(AnnotatedImage(file_name="a.jpg", size_hw=SIZE, objects=(region,)),))
    write_annotations(data, tmp_path / "a", "voc")
    back = read_annotations(tmp_path / "a")
    assert back.classes.names == ("cat",) and [(o.name, o.stuff) for o in back.objects()] == [("cat", True)]
    data = AnnotationSet(classes=data.classes, images=(AnnotatedImage(file_name="a.jpg", size_hw=SIZE, objects=(_thing(name="background"),)),))
    with pytest.raises(ValueError, match="cannot be named 'background'"):
        write_annotations(data, tmp_path / "b", "voc")
