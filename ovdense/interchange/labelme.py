"""LabelMe: one JSON an image with shapes (rectangle, polygon, mask, circle), groups and flags; labels.txt keeps the order of the classes.

What LabelMe has no place for (score, attributes, a box that is not its polygon's extent) is in keys of the shape that LabelMe keeps as they are.
"""
import base64
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ovdense.compat.atomic import replace_file
from ovdense.data.annotations import read_json
from ovdense.interchange.files import ellipse, numbers, places, read_text
from ovdense.interchange.parts import BOXES, FLAGS, Shape, Unknown, objects_of, shapes_of, without_unknown
from ovdense.interchange.records import AnnotatedImage, AnnotationSet, Mask, classes_in_order

VERSION = "5.5.0"  # of LabelMe, whose form this is
_OUR_FLAGS = (*FLAGS, "occluded")
_SHAPE = ("label", "points", "group_id", "shape_type", "flags", "mask", "score", "attributes", "object_id", "box_xyxy", "extent_xyxy")
_IMAGE = ("shapes", "imagePath", "imageHeight", "imageWidth", "imageData")
_NO_CLASS = ("__ignore__", "_background_")


def read(path: Path, *, unknown: Unknown = "raise") -> AnnotationSet:
    """Return the annotations of a LabelMe JSON, or of all below a folder; the classes as labels.txt beside them orders them, else sorted.

    `unknown`: what to do with points and lines, which have no area: "raise", or "drop" with a warning.
    """
    root = path if path.is_dir() else path.parent
    files = sorted(root.rglob("*.json")) if path.is_dir() else [path]
    if not files:
        raise ValueError(f"{path}: must hold LabelMe's JSON files, it has none")
    images = tuple(_image(read_json(f), f, root, unknown) for f in files)
    first: dict[str, Path] = {}
    for file, image in zip(files, images):
        if first.setdefault(image.file_name, file) != file:
            raise ValueError(f"{file}: the imagePath {image.file_name[:80]!r} is that of {first[image.file_name].name}, too; an image must have one JSON: "
                             "join or remove one")
    listed = root / "labels.txt"
    names = [n.strip() for n in read_text(listed).splitlines()] if listed.is_file() else []
    seen = [o.name for image in images for o in image.objects]
    names = [n for n in names if n and n not in _NO_CLASS]
    if names:
        names += sorted(set(seen) - set(names))
    return AnnotationSet(classes=classes_in_order(names, seen, str(path)), images=images)


def _image(content: Any, path: Path, root: Path, unknown: Unknown) -> AnnotatedImage:
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list) or not isinstance(content.get("imagePath"), str):
        got = sorted(content)[:8] if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"{path}: must be LabelMe's JSON with shapes (a list) and imagePath, got {got}")
    size_hw = content.get("imageHeight"), content.get("imageWidth")
    if not all(isinstance(v, int) and not isinstance(v, bool) and 0 < v < 2**20 for v in size_hw):
        raise ValueError(f"{path}: imageHeight and imageWidth must be positive integers, got {size_hw}; open and save the file in LabelMe")
    shapes = without_unknown((_shape(s, size_hw, f"{path}: shape {n}") for n, s in enumerate(content["shapes"])), unknown, str(path))
    name = content["imagePath"].replace("\\", "/").split("/")[-1]
    if name in ("", ".", ".."):
        raise ValueError(f"{path}: imagePath must name the image's file, got {content['imagePath'][:80]!r}")
    extra = {k: v for k, v in content.items() if k not in _IMAGE}
    return AnnotatedImage(file_name=(path.parent.relative_to(root) / name).as_posix(), size_hw=size_hw, objects=objects_of(shapes, size_hw, str(path)),
                          extra={"labelme": extra})


def _shape(shape: Any, size_hw: tuple[int, int], where: str) -> Shape | str:
    if not isinstance(shape, dict) or not isinstance(shape.get("label"), str) or not shape["label"].strip() or not isinstance(shape.get("points"), list):
        raise ValueError(f"{where}: must have a label (text) and points (a list), got {str(shape)[:80]}")
    kind = str(shape.get("shape_type", "polygon"))
    points = [_point(p, where) for p in shape["points"]]
    flags, attributes = shape.get("flags") or {}, shape.get("attributes") or {}
    if not isinstance(flags, dict) or not isinstance(attributes, dict):
        raise ValueError(f"{where}: flags and attributes must be objects, got {str(flags)[:40]}, {str(attributes)[:40]}")
    facts = {flag: bool(flags[flag]) for flag in _OUR_FLAGS if flag in flags} | ({"difficult": True} if shape.get("difficult") is True else {})
    for key, fact in (("score", "score"), ("object_id", "id")):
        if shape.get(key) is not None:
            facts[fact] = numbers([shape[key]], f"{where}: {key}")[0] if fact == "score" else int(numbers([shape[key]], f"{where}: {key}")[0])
    facts |= {key: _four(shape[key], f"{where}: {key}") for key in BOXES if shape.get(key)}
    group = shape.get("group_id")
    if group is not None and (isinstance(group, bool) or not isinstance(group, int)):
        raise ValueError(f"{where}: group_id must be an integer or null, got {str(group)[:40]}")
    said = {**attributes, **{k: bool(v) for k, v in flags.items() if k not in _OUR_FLAGS}}
    common = dict(name=shape["label"].strip(), group=group, facts=facts, attributes=said,
                  extra={"labelme": {k: v for k, v in shape.items() if k not in _SHAPE and k != "difficult"}})
    return _drawn(kind, points, shape.get("mask"), size_hw, where, common)


def _drawn(kind: str, points: list, mask: Any, size_hw: tuple[int, int], where: str, common: dict) -> Shape | str:
    wanted = {"rectangle": 2, "circle": 2, "mask": 2}.get(kind)
    if kind == "rectangle" and len(points) == 4 and all(len(set(side)) == 2 for side in zip(*points)) and len(set(points)) == 4:
        points = [min(points), max(points)]  # X-AnyLabeling writes all four corners
    if wanted and len(points) != wanted or kind == "polygon" and len(points) < 3:
        raise ValueError(f"{where}: a {kind} must have {wanted or 'at least 3'} points, got {len(points)}")
    if kind == "rectangle":
        (xa, ya), (xb, yb) = points
        return Shape(kind="box", box_xyxy=(min(xa, xb), min(ya, yb), max(xa, xb), max(ya, yb)), **common)
    if kind == "polygon":
        return Shape(kind="polygon", polygon=tuple(v for p in points for v in p), **common)
    if kind == "circle":
        radius = math.dist(*points)
        return Shape(kind="polygon", polygon=ellipse(*points[0], radius, radius), **common)
    if kind == "mask":
        return Shape(kind="mask", mask=_placed(mask, points[0], size_hw, where), **common)
    return kind


def _point(point: Any, where: str) -> tuple[float, float]:
    if not isinstance(point, list) or len(point) != 2:
        raise ValueError(f"{where}: a point must be [x, y], got {str(point)[:40]}")
    return tuple(numbers(point, f"{where}: a point"))


def _four(box: Any, where: str) -> list[float]:
    if not isinstance(box, list) or len(box) != 4:
        raise ValueError(f"{where}: must be four numbers, got {str(box)[:80]}")
    return numbers(box, where)


def _placed(text: Any, corner: tuple[float, float], size_hw: tuple[int, int], where: str) -> Mask:
    """Return the mask of a shape's PNG, whose first pixel lies at `corner`."""
    try:
        with Image.open(io.BytesIO(base64.b64decode(text, validate=True)), formats=["PNG"]) as png:
            if png.width > size_hw[1] or png.height > size_hw[0]:
                raise ValueError(f"it is {png.height} x {png.width}, larger than the image")
            part = np.asarray(png.convert("L")) > 0
    except (TypeError, ValueError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{where}: mask must be a PNG in base64: {error}") from None
    x, y = round(corner[0]), round(corner[1])
    if x < 0 or y < 0 or y + part.shape[0] > size_hw[0] or x + part.shape[1] > size_hw[1]:
        raise ValueError(f"{where}: a mask of {part.shape} at x {x}, y {y} must lie inside the image {size_hw}")
    return Mask.of_part(part, (x, y), size_hw)


def files(data: AnnotationSet, folder: Path) -> list[Path]:
    """Return the JSON file of each image."""
    return places(data.images, folder, ".json")


def write(data: AnnotationSet, folder: Path) -> None:
    """Write NAME.json of each image (put them beside the pictures) and labels.txt; the pictures themselves are not embedded."""
    for file, image in zip(files(data, folder), data.images):
        replace_file(file, json.dumps(to_labelme(image), ensure_ascii=False, indent=1), durable=False)
    replace_file(folder / "labels.txt", "".join(f"{n}\n" for n in (*_NO_CLASS, *data.classes.names) if len(n.splitlines()) == 1))


def to_labelme(image: AnnotatedImage) -> dict[str, Any]:
    """Return the content of an image's LabelMe JSON."""
    head = {"version": VERSION, "flags": {}} | dict(image.extra.get("labelme", {}))
    return {**head, "shapes": [_entry(s) for s in shapes_of(image.objects)], "imagePath": image.file_name.split("/")[-1], "imageData": None,
            "imageHeight": image.size_hw[0], "imageWidth": image.size_hw[1]}


def _entry(shape: Shape) -> dict[str, Any]:
    facts = dict(shape.facts)
    flags = {flag: True for flag in _OUR_FLAGS if facts.pop(flag, False)} | {k: v for k, v in shape.attributes.items() if isinstance(v, bool)}
    entry: dict[str, Any] = {"label": shape.name, "points": [], "group_id": shape.group, "description": "", "shape_type": shape.kind, "flags": flags,
                             "mask": None}
    if shape.kind == "box":
        x1, y1, x2, y2 = shape.box_xyxy
        entry |= {"shape_type": "rectangle", "points": [[x1, y1], [x2, y2]]}
    elif shape.kind == "polygon":
        entry["points"] = [list(p) for p in zip(shape.polygon[::2], shape.polygon[1::2])]
    else:
        entry["points"], entry["mask"] = _png(shape.mask)
    said = {k: v for k, v in shape.attributes.items() if not isinstance(v, bool)}
    renamed = {"score": facts.get("score"), "object_id": facts.get("id"), "attributes": said or None} | {key: facts.get(key) for key in BOXES}
    return {**entry, **{k: v for k, v in renamed.items() if v is not None}, **shape.extra.get("labelme", {})}


def _png(mask: Mask) -> tuple[list[list[float]], str]:
    """Return the first and last pixel of the mask's extent (both inside, as LabelMe has them) and the PNG of it, 0 and 1, in base64."""
    array = mask.to_array()
    box = mask.box_xyxy() if mask.rle is None else Mask(rle=mask.counts, size_hw=mask.size_hw).box_xyxy()
    x1, y1, x2, y2 = map(int, box or (0, 0, 1, 1))
    file = io.BytesIO()
    Image.fromarray(array[y1:y2, x1:x2].astype(np.uint8)).save(file, "PNG")
    return [[x1, y1], [x2 - 1, y2 - 1]], base64.b64encode(file.getvalue()).decode("ascii")
