"""Small things that a conversion must not change: 0, false, the user's own words, ids; and what is there twice."""
import json
import re
from dataclasses import replace

import pytest
from PIL import Image

from ovdense.interchange import AnnotationSet, Mask, read_annotations, write_annotations
from ovdense.interchange.records import unique_ids
from ovdense.structures import Vocabulary
from tests.interchange.test_formats import CVAT, _back, _labelme, _set, _thing


def _coco(folder, *attributes, ids=None):
    """A COCO file of one image, with an annotation for each `attributes`."""
    given = ids or range(1, len(attributes) + 1)
    annotations = [{"id": n, "image_id": 1, "category_id": 1, "bbox": [1, 2, 10, 12], "attributes": a} for n, a in zip(given, attributes)]
    content = {"images": [{"id": 1, "file_name": "a.jpg", "height": 40, "width": 60}], "categories": [{"id": 1, "name": "cat"}], "annotations": annotations}
    (folder / "given.json").write_text(json.dumps(content))
    return folder / "given.json"


@pytest.mark.parametrize("form", ["coco", "cvat", "labelme"])
def test_formats__zero_is_an_id_and_a_score(form, tmp_path):
    things = [_thing(id=n, score=score) for n, score in enumerate((0.0, 0.5, 1.0))]
    assert [(o.id, o.score) for o in _back(_set(*things), form, tmp_path).objects()] == [(0, 0.0), (1, 0.5), (2, 1.0)]


@pytest.mark.parametrize("attributes, flags", [
    ({"truncated": "no"}, ()), ({"occluded": "partly"}, ()), ({"difficult": 2}, ()), ({"stuff": None}, ()), ({"stuff": []}, ()),
    ({"occluded": False, "rotation": 0.0}, ()), ({"occluded": True}, ("occluded",)), ({"truncated": 1, "difficult": 0}, ("truncated",)),
    ({"stuff": True, "age": 3}, ("stuff",)),
])
def test_coco__attributes_come_back_as_they_were(attributes, flags, tmp_path):
    data = read_annotations(_coco(tmp_path, attributes))
    (thing,) = data.objects()
    assert tuple(f for f in ("difficult", "truncated", "occluded", "stuff") if getattr(thing, f)) == flags
    write_annotations(data, tmp_path / "back.json", "coco")
    (entry,) = json.loads((tmp_path / "back.json").read_text())["annotations"]
    assert entry["attributes"] == attributes and all(type(entry["attributes"][k]) is type(v) for k, v in attributes.items())


def test_coco__an_id_that_is_there_twice(tmp_path):
    with pytest.raises(ValueError, match="given.json: annotations: id 5 is there twice"):
        read_annotations(_coco(tmp_path, {}, {}, ids=[5, 5]))


def test_labelme__two_files_of_one_image(tmp_path):
    for name in ("a.json", "b.json"):
        (tmp_path / name).write_text(json.dumps(_labelme()))
    with pytest.raises(ValueError, match="b.json: the imagePath 'a.jpg' is that of a.json, too"):
        read_annotations(tmp_path)


def _cvat(folder, inner, *kinds):
    """A CVAT file of one image; `kinds`: (attribute, its input_type) of the label."""
    said = "".join(f"<attribute><name>{name}</name><input_type>{kind}</input_type></attribute>" for name, kind in kinds)
    head = f"<annotations><meta><task><labels><label><name>cat</name><attributes>{said}</attributes></label></labels></task></meta>"
    (folder / "given.xml").write_text(CVAT.format(inner).replace("<annotations>", head))
    return folder / "given.xml"


@pytest.mark.parametrize("name, kind, text, fact, attribute", [
    ("truncated", "select", "partial", False, "partial"), ("difficult", "radio", "yes", False, "yes"), ("crowd", "select", "", False, ""),
    ("truncated", "checkbox", "true", True, None), ("truncated", "checkbox", "false", False, None),
    ("score", "select", "high", None, "high"), ("score", "number", "0.25", 0.25, None), ("score", "number", "", None, None),
    ("object_id", "text", "A-7", None, "A-7"), ("object_id", "number", "7", 7, None), ("object_id", "number", "7.5", None, 7.5),
    ("age", "number", "", None, None), ("age", "number", "3", None, 3),
])
def test_cvat__attributes_of_our_names_are_ours_only_if_they_can_be(name, kind, text, fact, attribute, tmp_path):
    box = f"<box label='cat' xtl='1' ytl='2' xbr='9' ybr='9'><attribute name='{name}'>{text}</attribute></box>"
    data = read_annotations(_cvat(tmp_path, box, (name, kind)))
    write_annotations(data, tmp_path / "back.xml", "cvat")
    for (thing,) in (data.objects(), read_annotations(tmp_path / "back.xml").objects()):
        assert getattr(thing, {"object_id": "id"}.get(name, name), None) == fact
        assert thing.attributes == ({} if attribute is None else {name: attribute})


def test_cvat__tags_of_images_are_left_out_with_a_warning(tmp_path):
    path = _cvat(tmp_path, "<tag label='night'/><tag label='blurred'/><box label='cat' xtl='1' ytl='2' xbr='9' ybr='9'/>")
    with pytest.warns(UserWarning, match=r"given.xml: left out 2 tags of whole images \(blurred, night\)"):
        assert len(list(read_annotations(path).objects())) == 1


EDITS = {  # what a person does to the shape of a cat, and the box that must come back
    "nothing": (lambda ps: ps, (9.5, 4.5, 30.5, 20.5)),
    "two decimals": (lambda ps: [[round(x, 2), round(y, 2)] for x, y in ps], (9.5, 4.5, 30.5, 20.5)),
    "larger": (lambda ps: [[2 * x, y] for x, y in ps], (20.25, 5.123456, 58.5, 20)),
    "moved": (lambda ps: [[x + 3, y + 1] for x, y in ps], (13.125, 6.123456, 32.25, 21)),
}


@pytest.mark.parametrize("form", ["labelme", "cvat"])
@pytest.mark.parametrize("edit, box", EDITS.values(), ids=EDITS)
def test_correcting_a_shape__its_box_follows(form, edit, box, tmp_path):
    """A box that is not the mask's extent is kept beside the shape, but not when the shape has become another."""
    polygon = (10.125, 5.123456, 29.25, 5.123456, 29.25, 20.0, 10.125, 20.0)
    mask = Mask(polygons=(polygon,), size_hw=(40, 60))
    place = tmp_path / {"labelme": "out", "cvat": "a.xml"}[form]
    write_annotations(_set(_thing(box_xyxy=(9.5, 4.5, 30.5, 20.5), mask=mask, id=7)), place, form)
    new = edit([[polygon[n], polygon[n + 1]] for n in range(0, 8, 2)])
    if form == "labelme":
        file = place / "photos" / "a.json"
        content = json.loads(file.read_text())
        content["shapes"][0]["points"] = new
        file.write_text(json.dumps(content))
    else:
        text, points = place.read_text(), ";".join(f"{x},{y}" for x, y in new)
        place.write_text(re.sub(r'points="[^"]*"', f'points="{points}"', text))
    (thing,) = read_annotations(place).objects()
    assert thing.box_xyxy == pytest.approx(box) and thing.id == 7 and thing.attributes == {}


def test_correcting_a_shape__a_part_that_is_removed_takes_the_box_along(tmp_path):
    mask = Mask(polygons=((1.0, 1, 9, 1, 9, 9), (20.0, 1, 30, 1, 30, 9)), size_hw=(40, 60))
    write_annotations(_set(_thing(box_xyxy=(0.0, 0, 31, 10), mask=mask)), tmp_path, "labelme")
    content = json.loads((tmp_path / "photos" / "a.json").read_text())
    content["shapes"].pop()
    (tmp_path / "photos" / "a.json").write_text(json.dumps(content))
    assert next(read_annotations(tmp_path).objects()).box_xyxy == (1, 1, 9, 9)


def test_coco__new_and_copied_objects_get_new_ids_and_the_others_keep_theirs(tmp_path):
    things = [_thing(id=n) for n in (7, 12, None, 12, 3)]
    write_annotations(_set(*things, id=5), tmp_path / "a.json", "coco")
    assert [a["id"] for a in json.loads((tmp_path / "a.json").read_text())["annotations"]] == [7, 12, 13, 14, 3]
    assert unique_ids([None, None]) == [1, 2] and unique_ids([None, 0, 0], 0) == [1, 0, 2] and unique_ids([]) == []


def test_cvat__images_of_predictions_have_ids_of_their_own(tmp_path):
    images = tuple(replace(_set(_thing()).images[0], id=0, file_name=f"{n}.jpg") for n in "ab")
    write_annotations(replace(_set(), images=images), tmp_path / "a.xml", "cvat")
    assert [i.id for i in read_annotations(tmp_path / "a.xml").images] == [0, 1]


def test_labelme__a_name_of_two_lines_is_one_class(tmp_path):
    data = AnnotationSet(classes=Vocabulary.of(["cat", "red\ndog"]), images=_set().images)
    data = replace(data, images=(replace(data.images[0], objects=(_thing(name="red\ndog"),)),))
    write_annotations(data, tmp_path, "labelme")
    assert read_annotations(tmp_path).classes.names == ("cat", "red\ndog")


def test_readers__take_files_that_begin_with_a_byte_order_mark(tmp_path):
    """As editors on Windows write them."""
    data = _set(_thing(), _thing(name="red dog"))
    for form, place in (("coco", "a.json"), ("labelme", "l"), ("voc", "v"), ("yolo", "y")):
        write_annotations(data, tmp_path / place, form)
    picture = tmp_path / "y/images/train/photos/a.jpg"
    picture.parent.mkdir(parents=True)
    Image.new("RGB", (60, 40)).save(picture)
    for file in [f for f in tmp_path.rglob("*") if f.suffix in (".json", ".txt", ".yaml", ".xml")]:
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    for place, options in (("a.json", {}), ("l", {}), ("v", {"split": "train"}), ("y", {})):
        found = read_annotations(tmp_path / place, **options)
        assert found.classes.names == ("cat", "red dog") and [o.name for o in found.objects()] == ["cat", "red dog"], place


@pytest.mark.parametrize("points, box", [
    ([[1, 2], [9, 2], [9, 12], [1, 12]], (1, 2, 9, 12)), ([[9, 12], [1, 12], [1, 2], [9, 2]], (1, 2, 9, 12)),
    ([[1, 2], [9, 3], [8, 12], [0, 11]], None), ([[1, 2], [9, 2], [9, 12], [9, 12]], None),
])
def test_labelme__a_rectangle_of_four_corners(points, box, tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(_labelme(points=points)))
    if box is None:
        with pytest.raises(ValueError, match="must have 2 points"):
            read_annotations(tmp_path)
    else:
        assert next(read_annotations(tmp_path).objects()).box_xyxy == box


@pytest.mark.parametrize("name", ["", "photos/", ".."])
def test_labelme__an_image_without_a_name(name, tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({**_labelme(), "imagePath": name}))
    with pytest.raises(ValueError, match="must name the image's file"):
        read_annotations(tmp_path)
