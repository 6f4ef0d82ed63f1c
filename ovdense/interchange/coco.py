"""COCO and LVIS v1 (JSON): the form that holds most. Boxes, polygons, run lengths, crowds, LVIS's lists; what else a file says is written back."""
import json
from pathlib import Path
from typing import Any

from pycocotools import mask as coco_mask

from ovdense.compat.atomic import replace_file
from ovdense.compat.entry_checks import check_annotations, check_images
from ovdense.compat.segmentations import encode_segmentation
from ovdense.data.annotations import InvalidBoxes, boxes_xywh, categories_of, check_boxes, entries_of, image_name, read_json
from ovdense.data.annotations import unique_ids as ids_of
from ovdense.interchange.records import AnnotatedImage, AnnotatedObject, AnnotationSet, Mask, unique_ids
from ovdense.structures import Vocabulary

_LISTS = ("images", "annotations", "categories")
_IMAGE = ("id", "file_name", "height", "width", "neg_category_ids", "not_exhaustive_category_ids")
_OBJECT = ("id", "image_id", "category_id", "bbox", "segmentation", "iscrowd", "score", "attributes")
FLAGS = ("difficult", "truncated", "occluded", "stuff")


def read(path: Path, *, invalid_boxes: InvalidBoxes = "raise") -> AnnotationSet:
    """Return the annotations of a COCO or LVIS v1 file; ValueError names the entry that breaks it.

    `segmentation` may be missing or empty. COCO's "attributes" are read; "difficult", "truncated", "occluded", "stuff" among them as what they are where
    they are true, false, 1 or 0; with any other value ("partly") they are the user's own attributes.
    """
    content = read_json(path)
    categories = categories_of(content, path)
    images = entries_of(content, "images", path, ("id", "height", "width"))
    rows = {int(i): n for n, i in enumerate(ids_of(images, "images", path))}
    annotations = entries_of(content, "annotations", path, ("id", "image_id", "category_id", "bbox"))
    ids_of(annotations, "annotations", path)
    check_images(images, categories, path)
    check_annotations(annotations, rows, categories, path)
    xywh = boxes_xywh(annotations, path).reshape(-1, 4)
    xywh[:, 2:] += xywh[:, :2]
    good = check_boxes(xywh, [f"annotation {a['id']}" for a in annotations], path, invalid_boxes)
    names = {k: entry.name for k, entry in categories.items()}
    things: list[list[AnnotatedObject]] = [[] for _ in images]
    for a, box, keep in zip(annotations, xywh.tolist(), good):
        if keep:
            row = rows[a["image_id"]]
            size_hw = images[row]["height"], images[row]["width"]
            things[row].append(_thing(a, names[a["category_id"]], tuple(box), size_hw, f"{path}: annotation {str(a['id'])[:40]}"))
    raw = {c["id"]: {k: v for k, v in c.items() if k not in ("id", "name")} for c in content["categories"]}
    return AnnotationSet(
        classes=Vocabulary(tuple(categories.values())), class_ids=tuple(categories), class_extra=tuple({"coco": raw[k]} for k in categories),
        images=tuple(_image(image, names, tuple(found), path) for image, found in zip(images, things)),
        extra={"coco": {k: v for k, v in content.items() if k not in _LISTS}})


def _image(image: dict, names: dict[int, str], things: tuple[AnnotatedObject, ...], path: Path) -> AnnotatedImage:
    extra = {k: v for k, v in image.items() if k not in _IMAGE}
    lists = {key: tuple(names[c] for c in image.get(f"{key}_category_ids") or ()) for key in ("neg", "not_exhaustive")}
    if "neg_category_ids" in image:
        extra["lvis"] = True
    return AnnotatedImage(file_name=image_name(image, path), size_hw=(image["height"], image["width"]), id=image["id"], objects=things,
                          negative=lists["neg"], not_exhaustive=lists["not_exhaustive"], extra={"coco": extra})


def _thing(a: dict, name: str, box: tuple, size_hw: tuple[int, int], where: str) -> AnnotatedObject:
    attributes = a.get("attributes") or {}
    if not isinstance(attributes, dict):
        raise ValueError(f"{where}: attributes must be an object, got {str(attributes)[:80]}")
    score = a.get("score")
    if score is not None and (isinstance(score, bool) or not isinstance(score, (int, float))):
        raise ValueError(f"{where}: score must be a number, got {str(score)[:40]}")
    stated = {flag: attributes[flag] for flag in FLAGS if isinstance(attributes.get(flag), bool | int | float) and attributes[flag] in (0, 1)}
    extra = {k: v for k, v in a.items() if k not in _OBJECT} | ({} if "iscrowd" in a else {"no iscrowd": True})
    return AnnotatedObject(
        name=name, box_xyxy=box, mask=_mask(a.get("segmentation"), size_hw, where), id=a["id"], crowd=bool(a.get("iscrowd", 0)), score=score,
        attributes={k: v for k, v in attributes.items() if k not in stated}, **{flag: bool(value) for flag, value in stated.items()},
        extra={"coco": extra, "coco flags": stated})


def _mask(segmentation: Any, size_hw: tuple[int, int], where: str) -> Mask | None:
    if not segmentation:
        return None
    rle = encode_segmentation(segmentation, size_hw, where)
    if isinstance(segmentation, list):
        return Mask(polygons=tuple(tuple(float(v) for v in p) for p in segmentation), size_hw=size_hw)
    return Mask(rle=rle, size_hw=size_hw)


def write(data: AnnotationSet, path: Path) -> None:
    """Write one COCO JSON file; ids that are missing, or there already, are numbered on from the largest. Crowds have uncompressed run lengths, as COCO's."""
    replace_file(path, json.dumps(to_coco(data), ensure_ascii=False))


def to_coco(data: AnnotationSet) -> dict[str, Any]:
    """Return the content of a COCO file (LVIS's fields where the source had them)."""
    ids = data.ids()
    categories = [{"id": ids[entry.name], "name": entry.name, **(data.extra_of_class(k, "coco") or _said(entry))} for k, entry in enumerate(data.classes)]
    image_ids = unique_ids([image.id for image in data.images])
    object_ids = iter(unique_ids([thing.id for thing in data.objects()]))
    images, annotations = [], []
    for image_id, image in zip(image_ids, data.images):
        images.append(_image_entry(image, image_id, ids))
        annotations += [_entry(thing, next(object_ids), image_id, ids[thing.name]) for thing in image.objects]
    return {**data.extra.get("coco", {}), "images": images, "annotations": annotations, "categories": categories}


def _said(entry) -> dict[str, Any]:
    said = {"synonyms": list(entry.synonyms), "descriptions": list(entry.descriptions), "kind": entry.kind, "similar": list(entry.similar),
            "frequency": entry.frequency, "background": entry.is_background or None}
    return {k: v for k, v in said.items() if v}


def _image_entry(image: AnnotatedImage, image_id: int, ids: dict[str, int]) -> dict[str, Any]:
    extra = dict(image.extra.get("coco", {}))
    lvis = extra.pop("lvis", False) or image.negative or image.not_exhaustive
    lists = {"neg_category_ids": [ids[n] for n in image.negative], "not_exhaustive_category_ids": [ids[n] for n in image.not_exhaustive]} if lvis else {}
    return {"id": image_id, "file_name": image.file_name, "height": image.size_hw[0], "width": image.size_hw[1], **lists, **extra}


def _entry(thing: AnnotatedObject, object_id: int, image_id: int, class_id: int) -> dict[str, Any]:
    x1, y1, x2, y2 = thing.box_xyxy
    extra = dict(thing.extra.get("coco", {}))
    stated = thing.extra.get("coco flags", {})  # as the file had them: false is said, too
    entry = {"id": object_id, "image_id": image_id, "category_id": class_id, "bbox": [_short(v) for v in (x1, y1, x2 - x1, y2 - y1)]}
    if thing.mask is not None:
        entry["segmentation"] = _segmentation(thing)
    if not extra.pop("no iscrowd", False) or thing.crowd:
        entry["iscrowd"] = int(thing.crowd)
    if "area" not in extra:
        counts = thing.mask and {"counts": thing.mask.counts, "size": list(thing.mask.size_hw)}
        entry["area"] = float(coco_mask.area(counts)) if counts else _short((x2 - x1) * (y2 - y1))
    if thing.score is not None:
        entry["score"] = thing.score
    flags = {flag: True for flag in FLAGS if getattr(thing, flag)} | {flag: v for flag, v in stated.items() if v == getattr(thing, flag)}
    said = {**flags, **thing.attributes}
    return {**entry, **extra, **({"attributes": said} if said else {})}


def _segmentation(thing: AnnotatedObject) -> Any:
    if thing.mask.polygons:
        return [list(p) for p in thing.mask.polygons]
    counts = thing.mask.runs() if thing.crowd else thing.mask.counts.decode("ascii")
    return {"size": list(thing.mask.size_hw), "counts": counts}


def _short(value: float) -> float:
    """Return the number in twelve digits: what a sum of two decimals of a file was meant to be."""
    return float(f"{value:.12g}")
