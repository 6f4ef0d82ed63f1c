"""Small things that a conversion must not change: 0, false, the user's own words, ids; and what is there twice."""
import json

import pytest

from ovdense.interchange import read_annotations, write_annotations
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
