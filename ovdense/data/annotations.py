"""Annotation files -> one checked table of numpy arrays (COCO and LVIS JSON, Pascal VOC XML).

Each error names the file and the entry. The raw JSON is not kept: a table of all of LVIS train (1.27 M boxes) takes
about 60 MB, in a few arrays that data-loader workers share without copying.
"""
import difflib
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from xml.etree.ElementTree import Element

import numpy as np

from ovdense.compat.entry_checks import check_annotations, check_categories, check_images
from ovdense.compat.json_text import loads
from ovdense.compat.segmentations import encode_segmentation
from ovdense.compat.voc import box_xyxy, image_ids, split_names
from ovdense.compat.xml import read_xml
from ovdense.structures import ClassEntry
from ovdense.text.vocabulary import category_entry, plain

InvalidBoxes = Literal["raise", "drop"]


@dataclass(frozen=True, kw_only=True)
class AnnotationTable:
    """All boxes of one annotation file. Boxes of image i are rows `starts[i]:starts[i + 1]`.

    `boxes_xyxy` (M, 4) float32 in pixels of the files, x2 = x1 + width; `category_ids` (M,) are the file's own ids, as
    are `negative_ids[i]` (categories known to be absent from image i) and `not_exhaustive_ids[i]` (present, but not
    every instance has a box): both of LVIS, empty elsewhere. `difficult` is VOC's flag, `crowd` COCO's.
    `file_names[i]` is relative to the folder of images. `segmentations` (M,) are compressed RLEs (bytes), where they were asked for.
    """

    path: Path
    categories: dict[int, ClassEntry]
    image_ids: np.ndarray
    file_names: tuple[str, ...]
    sizes_hw: np.ndarray
    starts: np.ndarray
    boxes_xyxy: np.ndarray
    category_ids: np.ndarray
    crowd: np.ndarray
    difficult: np.ndarray
    negative_ids: tuple[np.ndarray, ...]
    not_exhaustive_ids: tuple[np.ndarray, ...]
    segmentations: np.ndarray | None = None


def near(name: str, known: Sequence[str]) -> str:
    """Return " (near: 'a', 'b')" with the names of `known` that look like `name`; empty if none does."""
    simple = {plain(k): k for k in known}
    found = difflib.get_close_matches(plain(name), simple, n=3)
    return f" (near: {', '.join(repr(simple[f]) for f in found)})" if found else ""


def read_json(path: Path) -> object:
    """Return the content of a JSON file; ValueError with line and column when it is broken."""
    try:
        return loads(Path(path).read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: must be JSON, broken at line {error.lineno} column {error.colno}: {error.msg}; is the file cut short?") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: must be JSON in UTF-8, byte {error.start} is not: {error.reason}") from None


def entries_of(content: object, key: str, path: Path, required: Sequence[str]) -> list[dict]:
    """Return the list `key` of a COCO file's content; ValueError names an entry without one of the `required` fields."""
    if not isinstance(content, dict) or not isinstance(content.get(key), list):
        got = sorted(content) if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"{path}: must be a JSON object with the lists images, annotations, categories; {key!r} is missing, got {got}")
    for n, entry in enumerate(content[key]):
        missing = [f for f in required if f not in entry] if isinstance(entry, dict) else list(required)
        if missing:
            name = entry.get("id", f"number {n}") if isinstance(entry, dict) else f"number {n}"
            raise ValueError(f"{path}: {key}, entry {name}: must have {', '.join(missing)}")
    return content[key]


def unique_ids(entries: list[dict], key: str, path: Path) -> np.ndarray:
    """Return the integer ids of the entries; ValueError for one that is none, or is there twice."""
    seen: set = set()
    for entry in entries:
        number = isinstance(entry["id"], int) and not isinstance(entry["id"], bool) and abs(entry["id"]) < 2**63
        if not number or entry["id"] in seen:
            what = "is there twice" if number else "must be an integer"
            raise ValueError(f"{path}: {key}: id {repr(entry['id'])[:40]} {what}; the ids of {key} must be unique integers")
        seen.add(entry["id"])
    return np.array([e["id"] for e in entries], dtype=np.int64)


def categories_of(content: object, path: Path) -> dict[int, ClassEntry]:
    """Return id -> class of a COCO or LVIS file's content, by id."""
    raw = entries_of(content, "categories", path, ("id", "name"))
    if not raw:
        raise ValueError(f"{path}: must list at least one category, got none")
    ids = unique_ids(raw, "categories", path)
    check_categories(raw, path)
    names: dict[str, int] = {}
    for category in raw:
        if category["name"] in names:
            raise ValueError(f"{path}: category name {category['name']!r} is there twice (ids {names[category['name']]} and {category['id']}); rename one")
        names[category["name"]] = category["id"]
    return {int(ids[n]): category_entry(raw[n], path) for n in np.argsort(ids)}


def image_name(image: dict, path: Path) -> str:
    """Return the file name; LVIS v1 as published has none: then the last two parts of coco_url (train2017/0...1.jpg)."""
    if image.get("file_name"):
        return image["file_name"]
    if image.get("coco_url"):
        return "/".join(image["coco_url"].split("/")[-2:])
    raise ValueError(f"{path}: image {image['id']}: must have file_name or coco_url")


def check_boxes(boxes: np.ndarray, names: Sequence[str], path: Path, invalid_boxes: InvalidBoxes) -> np.ndarray:
    """Return (M,) bool, True where a box (x1, y1, x2, y2) is finite with positive width and height.

    "raise": ValueError names the first one that is not, as `names[m]`; "drop": a warning counts them.
    """
    if invalid_boxes not in ("raise", "drop"):
        raise ValueError(f"invalid_boxes must be 'raise' or 'drop', got {invalid_boxes!r}")
    good = np.isfinite(boxes).all(1) & (boxes[:, 2:] > boxes[:, :2]).all(1)
    if good.all():
        return good
    bad = np.flatnonzero(~good)
    x1, y1, x2, y2 = boxes[bad[0]].tolist()
    message = f"{path}: {names[bad[0]]}: a box must be finite with positive width and height, got x {x1:g}, y {y1:g}, width {x2 - x1:g}, height {y2 - y1:g}"
    if invalid_boxes == "raise":
        raise ValueError(f"{message} ({len(bad)} such of {len(boxes)}); repair the file or pass invalid_boxes='drop'")
    warnings.warn(f"{message}; dropped it and {len(bad) - 1} more (invalid_boxes='drop')", stacklevel=2)
    return good


def boxes_xywh(annotations: list[dict], path: Path) -> np.ndarray:
    """Return (M, 4) float64 of the annotations' `bbox`; ValueError names one that is not four numbers."""
    try:
        boxes = np.array([a["bbox"] for a in annotations], dtype=np.float64)
        if boxes.shape == (len(annotations), 4):
            return boxes
    except (TypeError, ValueError):
        pass
    for a in annotations:
        box = a["bbox"]
        if not isinstance(box, list) or len(box) != 4 or not all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in box):
            raise ValueError(f"{path}: annotation {str(a['id'])[:40]}: bbox must be four numbers (x, y, width, height), got {str(box)[:80]}")
    return np.zeros((0, 4))


def read_coco(path: Path, *, invalid_boxes: InvalidBoxes = "raise", with_masks: bool = False) -> AnnotationTable:
    """Return the table of a COCO or LVIS v1 file of boxes; ValueError names the entry that breaks it.

    `invalid_boxes`: what to do with a box of no size: "raise", or "drop" with a warning (COCO train2017 has some).
    """
    content = read_json(path)
    categories = categories_of(content, path)
    images = entries_of(content, "images", path, ("id", "height", "width"))
    image_ids = unique_ids(images, "images", path)
    annotations = entries_of(content, "annotations", path, ("id", "image_id", "category_id", "bbox", *(("segmentation",) if with_masks else ())))
    unique_ids(annotations, "annotations", path)  # the official tools would measure with one of the two
    row = {int(i): n for n, i in enumerate(image_ids)}
    check_images(images, categories, path)
    check_annotations(annotations, row, categories, path)
    xywh = boxes_xywh(annotations, path)
    boxes = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
    good = check_boxes(boxes, [f"annotation {a['id']}" for a in annotations], path, invalid_boxes)
    image_row = np.array([row[a["image_id"]] for a in annotations], dtype=np.int64)
    order = np.argsort(image_row, kind="stable")
    order = order[good[order]]
    keys = ("neg_category_ids", "not_exhaustive_category_ids")
    lists = {key: tuple(np.array(image.get(key, ()), dtype=np.int64) for image in images) for key in keys}
    return AnnotationTable(
        path=path,
        categories=categories,
        image_ids=image_ids,
        file_names=tuple(image_name(i, path) for i in images),
        sizes_hw=np.array([(i["height"], i["width"]) for i in images], dtype=np.int64).reshape(-1, 2),
        starts=np.searchsorted(image_row[order], np.arange(len(images) + 1)),
        boxes_xyxy=boxes[order].astype(np.float32),
        category_ids=np.array([a["category_id"] for a in annotations], dtype=np.int64)[order],
        crowd=np.array([bool(a.get("iscrowd", 0)) for a in annotations], dtype=bool)[order],
        difficult=np.zeros(len(order), dtype=bool),
        negative_ids=lists["neg_category_ids"],
        not_exhaustive_ids=lists["not_exhaustive_category_ids"],
        segmentations=_segmentations([annotations[n] for n in order], images, row, path) if with_masks else None,
    )


def _segmentations(annotations: Sequence[dict], images: Sequence[dict], row: dict[int, int], path: Path) -> np.ndarray:
    counts = np.empty(len(annotations), dtype=object)
    for n, a in enumerate(annotations):
        image = images[row[a["image_id"]]]
        counts[n] = encode_segmentation(a["segmentation"], (image["height"], image["width"]), f"{path}: annotation {str(a['id'])[:40]}")
    return counts


def voc_numbers(node: Element | None, fields: Sequence[str], where: str) -> list[float]:
    """Return the numbers below a node of VOC's XML; ValueError, beginning with `where`, for one that is missing or none."""
    try:
        numbers = [float(node.findtext(f)) for f in fields]
        if np.isfinite(numbers).all():
            return numbers
    except (AttributeError, TypeError, ValueError):
        pass
    got = None if node is None else {child.tag: child.text for child in node}
    raise ValueError(f"{where}: must hold the numbers {', '.join(fields)}, got {str(got)[:200]}")


def _read_xml(path: Path, split_file: Path) -> Element:
    if not path.is_file():
        raise FileNotFoundError(f"{split_file}: image {path.stem!r} has no annotation: {path} is missing")
    return read_xml(path)


def read_voc(split_file: Path, class_names: Sequence[str], *, invalid_boxes: InvalidBoxes = "raise") -> AnnotationTable:
    """Return the table of a Pascal VOC split: `split_file` is .../ImageSets/Main/NAME.txt, the XML in .../Annotations.

    Category ids are 1, 2, ... in the order of `class_names`.
    """
    names = split_names(split_file)
    folder = split_file.parents[2] / "Annotations"
    id_of = {name: k + 1 for k, name in enumerate(class_names)}
    sizes, counts, boxes, labels, difficult, where = [], [], [], [], [], []
    for name in names:
        path = folder / f"{name}.xml"
        root = _read_xml(path, split_file)
        sizes.append(voc_numbers(root.find("size"), ("height", "width"), f"{path}: size"))
        objects = root.findall("object")
        counts.append(len(objects))
        for n, thing in enumerate(objects, 1):
            label = (thing.findtext("name") or "").strip()
            if label not in id_of:
                raise ValueError(
                    f"{path}: object {n}: the name {label!r} is not a known class{near(label, class_names)}; "
                    "repair it, or list the classes of this data as vocabulary"
                )
            boxes.append(box_xyxy(*voc_numbers(thing.find("bndbox"), ("xmin", "ymin", "xmax", "ymax"), f"{path}: object {n}: bndbox")))
            labels.append(id_of[label])
            difficult.append((thing.findtext("difficult") or "0").strip() == "1")
            where.append(f"object {n} of {path.name}")
    all_boxes = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    good = check_boxes(all_boxes, where, folder, invalid_boxes)
    image_row = np.repeat(np.arange(len(names)), counts)[good]
    none = tuple(np.zeros(0, dtype=np.int64) for _ in names)
    return AnnotationTable(
        path=split_file,
        categories={k: ClassEntry(name=name) for name, k in id_of.items()},
        image_ids=np.array(image_ids(names), dtype=np.int64),
        file_names=tuple(f"{n}.jpg" for n in names),
        sizes_hw=np.array(sizes, dtype=np.int64).reshape(-1, 2),
        starts=np.searchsorted(image_row, np.arange(len(names) + 1)),
        boxes_xyxy=all_boxes[good].astype(np.float32),
        category_ids=np.array(labels, dtype=np.int64)[good],
        crowd=np.zeros(int(good.sum()), dtype=bool),
        difficult=np.array(difficult, dtype=bool)[good],
        negative_ids=none,
        not_exhaustive_ids=none,
    )
