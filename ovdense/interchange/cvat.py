"""CVAT for images 1.1 (XML): box, polygon, mask (run lengths along the rows of its box), ellipse; labels with their attributes in the head.

Score, id, crowd and the like are attributes of their label: CVAT shows and keeps them.
"""
import contextlib
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, SubElement, indent

import numpy as np

from ovdense.compat.atomic import replace_file
from ovdense.compat.xml import read_xml, xml_bytes
from ovdense.interchange.files import ellipse, numbers, text_of
from ovdense.interchange.outlines import runs
from ovdense.interchange.parts import BOXES, FLAGS, Shape, Unknown, objects_of, shapes_of, without_unknown
from ovdense.interchange.records import AnnotatedImage, AnnotationSet, Mask, classes_in_order, unique_ids

_RENAMED = {"id": "object_id"}  # fact -> attribute
_FACTS = {"score": "score", "object_id": "id", **{flag: flag for flag in FLAGS}}
MOST_MASKED = 2**28  # pixels of a mask's box
_ATTRIBUTES = ("label", "occluded", "source", "z_order", "group_id", "xtl", "ytl", "xbr", "ybr", "points", "rle", "left", "top", "width", "height", "cx", "cy",
               "rx", "ry", "rotation")


def read(path: Path, *, unknown: Unknown = "raise") -> AnnotationSet:
    """Return the annotations of a file (or FOLDER/annotations.xml) of "CVAT for images 1.1"; the labels are in the order of its head.

    `unknown`: what to do with points, polylines, skeletons, cuboids and rotated boxes: "raise", or "drop" with a warning. Tags of whole images are left
    out with a warning. Attributes named as what `write` says of an object (score, object_id, truncated, ...) are that if they can be, else the user's own.
    """
    path = path / "annotations.xml" if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"a CVAT file must exist, got {path}")
    root = read_xml(path)
    if root.tag != "annotations" or root.find("track") is not None:
        got = "tracks of a video; export the task as 'CVAT for images 1.1'" if root.tag == "annotations" else f"<{root.tag}>"
        raise ValueError(f"{path}: must be <annotations> of CVAT for images 1.1, got {got}")
    types = {((label.findtext("name") or "").strip(), (a.findtext("name") or "").strip()): (a.findtext("input_type") or "").strip()
             for label in root.iterfind(".//labels/label") for a in label.iterfind("attributes/attribute")}
    names = [(label.findtext("name") or "").strip() for label in root.iterfind(".//labels/label")]
    images = tuple(_image(node, types, unknown, path) for node in root.iterfind("image"))
    tags = [tag.get("label") or "" for tag in root.iterfind("image/tag")]
    if tags:
        warnings.warn(f"{path}: left out {len(tags)} tags of whole images ({', '.join(sorted(set(tags)))[:80]})", stacklevel=2)
    seen = [o.name for image in images for o in image.objects]
    names = [n for n in names if n]
    return AnnotationSet(classes=classes_in_order(names + sorted(set(seen) - set(names)) if names else [], seen, str(path)), images=images)


def _image(node: Element, types: Mapping[tuple[str, str], str], unknown: Unknown, path: Path) -> AnnotatedImage:
    name = node.get("name") or ""
    where = f"{path}: image {name[:80]!r}"
    height, width = (int(v) for v in numbers([node.get("height"), node.get("width")], f"{where}: height and width"))
    if not name or not 0 < height < 2**20 or not 0 < width < 2**20:
        raise ValueError(f"{where}: must have a name, and positive height and width, got {height} x {width}")
    shapes = without_unknown((_shape(child, types, (height, width), where) for child in node if child.tag != "tag"), unknown, where)
    number = node.get("id") or ""
    return AnnotatedImage(file_name=name, size_hw=(height, width), id=int(number) if number.isascii() and number.isdigit() and len(number) < 19 else None,
                          objects=objects_of(shapes, (height, width), where),
                          extra={"cvat": {k: v for k, v in node.attrib.items() if k not in ("id", "name", "width", "height")}})


def _shape(node: Element, types: Mapping[tuple[str, str], str], size_hw: tuple[int, int], where: str) -> Shape | str:
    name = (node.get("label") or "").strip()
    where = f"{where}: {node.tag[:20]} {name[:40]!r}"
    if not name:
        raise ValueError(f"{where}: must have a label")
    facts, attributes = _said(node, name, types, where)
    group = node.get("group_id") or "0"
    if not re.fullmatch(r"-?[0-9]{1,18}", group):
        raise ValueError(f"{where}: group_id must be an integer, got {group[:40]!r}")
    common = dict(name=name, group=int(group) or None, facts=facts, attributes=attributes,
                  extra={"cvat": {k: v for k, v in node.attrib.items() if k in ("source", "z_order")}})
    turned = float(numbers([node.get("rotation") or 0], f"{where}: rotation")[0])
    if node.tag == "box" and not turned:
        x1, y1, x2, y2 = numbers([node.get(k) for k in ("xtl", "ytl", "xbr", "ybr")], f"{where}: xtl, ytl, xbr, ybr")
        return Shape(kind="box", box_xyxy=(x1, y1, x2, y2), **common)
    if node.tag == "polygon":
        points = [p.split(",") for p in (node.get("points") or "").split(";") if p.strip()]
        if len(points) < 3 or any(len(p) != 2 for p in points):
            raise ValueError(f"{where}: a polygon must be at least three points x,y;x,y;..., got {(node.get('points') or '')[:80]!r}")
        return Shape(kind="polygon", polygon=tuple(numbers([v for p in points for v in p], f"{where}: points")), **common)
    if node.tag == "ellipse" and not turned:
        return Shape(kind="polygon", polygon=ellipse(*numbers([node.get(k) for k in ("cx", "cy", "rx", "ry")], f"{where}: cx, cy, rx, ry")), **common)
    if node.tag == "mask":
        return Shape(kind="mask", mask=_mask(node, size_hw, where), **common)
    return f"a rotated {node.tag}" if turned else node.tag


def _said(node: Element, label: str, types: Mapping[tuple[str, str], str], where: str) -> tuple[dict[str, Any], dict[str, Any]]:
    facts, attributes = {"occluded": True} if node.get("occluded") == "1" else {}, {}
    for child in node.iterfind("attribute"):
        key, text = child.get("name") or "", (child.text or "").strip()
        kind = types.get((label, key), "text")
        if key in BOXES:
            facts[key] = numbers(text.split(","), f"{where}: {key}")
            if len(facts[key]) != 4:
                raise ValueError(f"{where}: {key} must be four numbers, got {text[:80]!r}")
        elif (fact := _fact(key, text)) is not None:
            facts[_FACTS[key]] = fact
        elif kind == "checkbox":
            attributes[key] = text == "true"
        elif kind == "number" and not text:
            continue  # nobody filled it in
        elif kind == "number":
            value = numbers([text], f"{where}: {key}")[0]
            attributes[key] = int(value) if value == int(value) and "." not in text else value
        else:
            attributes[key] = text
    return facts, attributes


def _fact(key: str, text: str) -> Any:
    """Return what an attribute says of its object if it has one of our names and a value of its kind; None: it is the user's own."""
    if key in FLAGS:
        return {"true": True, "false": False}.get(text)
    if key == "object_id":
        return int(text) if re.fullmatch(r"-?[0-9]{1,18}", text) else None
    if key == "score" and re.fullmatch(r"[-+0-9.eE]{1,40}", text):
        with contextlib.suppress(ValueError):
            return numbers([text], key)[0]
    return None


def _mask(node: Element, size_hw: tuple[int, int], where: str) -> Mask:
    """Return the mask of run lengths: 0s and 1s in turns along the rows of its box."""
    left, top, width, height = (int(v) for v in numbers([node.get(k) for k in ("left", "top", "width", "height")], f"{where}: left, top, width, height"))
    lengths = [int(v) for v in numbers((node.get("rle") or "").split(","), f"{where}: rle")]
    good = left >= 0 and top >= 0 and width > 0 and height > 0 and left + width <= size_hw[1] and top + height <= size_hw[0]
    if not good or min(lengths) < 0 or sum(lengths) > width * height:
        raise ValueError(f"{where}: rle must fill a box inside the image {size_hw}, got {len(lengths)} runs for {height} x {width} at x {left}, y {top}")
    if width * height > MOST_MASKED:
        raise ValueError(f"{where}: a mask's box must have {MOST_MASKED} pixels at most, got {height} x {width}")
    inside = [n % 2 == 1 for n in range(len(lengths))] + [False]
    flat = np.repeat(inside, [*lengths, width * height - sum(lengths)])
    return Mask.of_part(flat.reshape(height, width), (left, top), size_hw)


def write(data: AnnotationSet, path: Path) -> None:
    """Write one XML file that CVAT imports as "CVAT 1.1"."""
    shapes = [list(shapes_of(image.objects)) for image in data.images]
    root = Element("annotations")
    SubElement(root, "version").text = "1.1"
    _head(root, data, [s for found in shapes for s in found])
    for number, image, found in zip(unique_ids([image.id for image in data.images], 0), data.images, shapes):
        node = SubElement(root, "image", {"id": str(number), "name": image.file_name, "width": str(image.size_hw[1]), "height": str(image.size_hw[0]),
                                          **{k: str(v) for k, v in image.extra.get("cvat", {}).items()}})
        free = 1 + max((s.group or 0 for s in found), default=0)
        for shape in found:
            _entry(node, shape, free if shape.group == 0 else shape.group)  # 0 is no group in CVAT
    indent(root)
    replace_file(path, xml_bytes(root, declaration=True))


def _head(root: Element, data: AnnotationSet, shapes: list[Shape]) -> None:
    labels = SubElement(SubElement(SubElement(root, "meta"), "task"), "labels")
    used: dict[str, dict[str, set[str]]] = {name: {} for name in data.classes.names}
    for shape in shapes:
        for key, value in _attributes(shape).items():
            used[shape.name].setdefault(key, set()).add(_kind(value))
    for name, attributes in used.items():
        label = SubElement(labels, "label")
        SubElement(label, "name").text = name
        node = SubElement(label, "attributes")
        for key, kinds in sorted(attributes.items()):
            kind = next(iter(kinds)) if len(kinds) == 1 else "text"
            one = SubElement(node, "attribute")
            empty = "false" if kind == "checkbox" else ""
            for tag, text in (("name", key), ("mutable", "False"), ("input_type", kind), ("default_value", empty), ("values", "")):
                SubElement(one, tag).text = text


def _kind(value: Any) -> str:
    return "checkbox" if isinstance(value, bool) else "number" if isinstance(value, int | float) else "text"


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return ",".join(map(_text, value))
    return repr(value) if isinstance(value, int | float) else str(value)


def _attributes(shape: Shape) -> dict[str, Any]:
    return {**{_RENAMED.get(k, k): v for k, v in shape.facts.items() if k != "occluded"}, **shape.attributes}


def _entry(parent: Element, shape: Shape, group: int | None) -> None:
    about = {"label": shape.name, "source": "manual", "occluded": str(int(shape.facts.get("occluded", False))), "z_order": "0",
             **({"group_id": str(group)} if group else {}), **{k: str(v) for k, v in shape.extra.get("cvat", {}).items()}}
    if shape.kind == "box":
        about |= dict(zip(("xtl", "ytl", "xbr", "ybr"), map(text_of, shape.box_xyxy)))
    elif shape.kind == "polygon":
        about["points"] = ";".join(f"{text_of(x)},{text_of(y)}" for x, y in zip(shape.polygon[::2], shape.polygon[1::2]))
    else:
        x1, y1, x2, y2 = map(int, shape.mask.box_xyxy() or (0, 0, 1, 1))
        lengths = runs(shape.mask.to_array()[y1:y2, x1:x2].ravel())
        about |= {"rle": ", ".join(map(str, lengths)), "left": str(x1), "top": str(y1), "width": str(x2 - x1), "height": str(y2 - y1)}
    node = SubElement(parent, shape.kind, about)
    for key, value in _attributes(shape).items():
        SubElement(node, "attribute", name=key).text = _text(value)
