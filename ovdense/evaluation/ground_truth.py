"""Annotation files as the evaluators read them, and the checks that keep a wrong set-up from becoming a low AP.

Classes are matched to the file's categories by name, images by id; what does not match is an error that names it.
"""
import difflib
import hashlib
from array import array
from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ovdense.compat.entry_checks import check_categories, check_category_lists, check_known, check_numbers, check_size, entry_place
from ovdense.compat.json_text import loads
from ovdense.compat.paths import data_path, describe_data_root
from ovdense.compat.voc import box_xyxy, image_ids, split_names
from ovdense.compat.xml import read_xml
from ovdense.evaluation.masks import encode_segmentation


@dataclass(frozen=True, kw_only=True)
class GroundTruth:
    """The lists of one COCO or LVIS file, and its fingerprint (the first 12 hex digits of the file's SHA-256)."""

    path: Path
    sha256: str
    images: tuple[dict, ...]
    annotations: tuple[dict, ...]
    categories: tuple[dict, ...]


@dataclass(frozen=True, kw_only=True)
class VocTruth:
    """One VOC split. Box m belongs to image `image_row[m]`; boxes are as `compat.voc.box_xyxy` gives them, so x2 = x1 + width."""

    path: Path
    sha256: str
    names: tuple[str, ...]
    image_ids: tuple[int, ...]
    image_row: np.ndarray
    boxes_xyxy: np.ndarray
    class_names: tuple[str, ...]
    difficult: np.ndarray


def annotation_path(ann_file: str | Path | None, data_root: str | Path | None, dataset_meta: dict | None) -> Path:
    """Return the annotation file: the argument under the data root, else what the dataset calls `ann_file` in its metainfo."""
    chosen = ann_file if ann_file is not None else (dataset_meta or {}).get("ann_file")
    if chosen is None:
        raise ValueError("the metric must know its annotation file: pass ann_file, or give the dataset's metainfo the key 'ann_file'")
    path = data_path(chosen, data_root)
    if not path.is_file():
        looked = "" if Path(chosen).is_absolute() else f"; {str(chosen)!r} is relative to {describe_data_root(data_root)}"
        raise FileNotFoundError(f"annotation file {path} does not exist; check ann_file and data_root (or OVDENSE_DATA){looked}")
    return path


def fingerprint(paths: Sequence[Path]) -> str:
    """Return the first 12 hex digits of the SHA-256 of the files' bytes, one after the other."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def load_ground_truth(path: Path, *, federated: bool, masks: bool = False) -> GroundTruth:
    """Return the content of a COCO file, or with `federated` of an LVIS v1 file; ValueError names file and entry.

    `masks`: the segmentations become RLEs, and are required; without it they are dropped while the file is read.
    """
    raw = path.read_bytes()
    try:
        content = loads(raw, object_hook=_compact if masks else _without_segmentation)
    except ValueError as error:
        raise ValueError(f"{path}: must be JSON, is broken: {error}; is the file cut short?") from None
    image_fields = ("id", "neg_category_ids", "not_exhaustive_category_ids") if federated else ("id",)
    needed = {"images": image_fields, "annotations": ("image_id", "category_id", "bbox"), "categories": ("id", "name")}
    lists = {}
    for key, fields in needed.items():
        entries = content.get(key) if isinstance(content, dict) else None
        if not isinstance(entries, list):
            raise ValueError(f"{path}: must be a JSON object with the list {key!r}")
        for n, entry in enumerate(entries):
            missing = [f for f in fields if f not in entry] if isinstance(entry, dict) else list(fields)
            if missing:
                form, where = "LVIS v1" if federated else "COCO", entry_place(key, n, entry if isinstance(entry, dict) else {})
                raise ValueError(f"{path}: {where}: must have {', '.join(missing)} in {form} form, got {repr(entry)[:80]}")
        lists[key] = tuple(entries)
    _check_references(lists, path)
    check_categories(lists["categories"], path)
    for image in lists["images"] if federated else ():
        check_category_lists(image, path)
    check_numbers(lists["annotations"], path)
    if masks:
        _encode_segmentations(lists, path)
    return GroundTruth(path=path, sha256=hashlib.sha256(raw).hexdigest()[:12], **lists)


def _without_segmentation(entry: dict) -> dict:
    """Polygons are most of an LVIS file, and boxes need none of them: they are dropped one object at a time."""
    entry.pop("segmentation", None)
    return entry


def _compact(entry: dict) -> dict:
    """Hold polygons in 8 bytes a number until all images' sizes are known."""
    polygons = entry.get("segmentation")
    if isinstance(polygons, list) and all(isinstance(p, list) for p in polygons):
        with suppress(TypeError, OverflowError):  # what is no number stays, to be named
            entry["segmentation"] = [array("d", p) for p in polygons]
    return entry


def _check_references(lists: dict[str, tuple[dict, ...]], path: Path) -> None:
    """Raise ValueError for ids that are there twice, and for annotations of unknown images or categories."""
    for key in ("images", "categories"):
        strange = [e["id"] for e in lists[key] if not isinstance(e["id"], int) or isinstance(e["id"], bool) or abs(e["id"]) >= 2**63]
        if strange:
            raise ValueError(f"{path}: {key}: ids must be integers of at most 63 bits, {len(strange)} are not, such as {strange[0]!r:.60}")
        twice = [i for i, count in Counter(e["id"] for e in lists[key]).items() if count > 1]
        if twice:
            raise ValueError(f"{path}: {key}: ids must be unique, {len(twice)} are there twice, such as {twice[0]!r}")
    for field, key in (("image_id", "images"), ("category_id", "categories")):
        check_known(lists["annotations"], field, {e["id"] for e in lists[key]}, key, path)


def _encode_segmentations(lists: dict[str, tuple[dict, ...]], path: Path) -> None:
    sizes = {}
    for image in lists["images"]:
        if "height" not in image or "width" not in image:
            raise ValueError(f"{path}: images, entry {image['id']}: must have height and width to measure masks")
        check_size(image, path)
        sizes[image["id"]] = image["height"], image["width"]
    for n, a in enumerate(lists["annotations"]):
        a["segmentation"] = encode_segmentation(a.get("segmentation"), sizes[a["image_id"]], f"{path}: {entry_place('annotations', n, a)}")


def area_of(annotation: dict) -> float:
    """Return an annotation's area: its own, else its mask's, else its box's."""
    if "area" in annotation:
        return annotation["area"]
    if "segmentation" in annotation:
        import hotcoco

        return float(hotcoco.mask.area(annotation["segmentation"]))
    return annotation["bbox"][2] * annotation["bbox"][3]


def has_area(annotation: dict) -> bool:
    """Return whether LVIS evaluates an annotation: the official tool takes those of positive, finite area alone."""
    return 0 < area_of(annotation) < float("inf")


def load_voc_truth(split_file: Path) -> VocTruth:
    """Return a split of VOC: `split_file` is .../ImageSets/Main/NAME.txt, the XML files are in .../Annotations."""
    names = split_names(split_file)
    folder = split_file.absolute().parents[2] / "Annotations"
    rows, boxes, classes, difficult = [], [], [], []
    for n, name in enumerate(names):
        path = folder / f"{name}.xml"
        try:
            for thing in read_xml(path).findall("object"):
                boxes.append(box_xyxy(*(float(thing.find("bndbox").findtext(f)) for f in ("xmin", "ymin", "xmax", "ymax"))))
                if not np.isfinite(boxes[-1]).all():
                    raise ValueError(f"{boxes[-1]} is not finite")
                rows.append(n)
                classes.append(thing.findtext("name").strip())
                difficult.append((thing.findtext("difficult") or "0").strip() == "1")
        except FileNotFoundError:
            raise FileNotFoundError(f"{split_file}: image {name!r} has no annotation, {path} is missing") from None
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: every object must have a name and a bndbox of four numbers in valid XML: {error}") from None
    return VocTruth(
        path=split_file,
        sha256=fingerprint([split_file, *(folder / f"{n}.xml" for n in names)]),
        names=names,
        image_ids=image_ids(names),
        image_row=np.array(rows, dtype=np.int64),
        boxes_xyxy=np.array(boxes, dtype=np.float64).reshape(-1, 4),
        class_names=tuple(classes),
        difficult=np.array(difficult, dtype=bool),
    )


def class_names_of(class_names: Sequence[str] | None, dataset_meta: dict | None) -> tuple[str, ...]:
    """Return the class of each label: the argument, else the dataset's metainfo['classes']."""
    names = class_names if class_names is not None else (dataset_meta or {}).get("classes")
    if names is None:
        raise ValueError("the metric must know the class of each label: pass class_names, or give the dataset's metainfo the key 'classes'")
    if isinstance(names, str) or len(set(names)) < len(names):
        raise ValueError(f"class names must be a sequence of different names, got {names if isinstance(names, str) else 'repeated ones'!r}")
    return tuple(names)


def require_known(names: Sequence[str], known: Collection[str], path: Path) -> None:
    """Raise KeyError for the `names` that are not in `known`, each with its nearest known name."""
    unknown = [n for n in names if n not in known]
    if unknown:
        near = [(n, difflib.get_close_matches(n, known, n=1)) for n in unknown[:5]]
        shown = ", ".join(f"{n!r}" + (f" (near {m[0]!r})" if m else "") for n, m in near)
        raise KeyError(
            f"every class must be a category of {path}; {len(unknown)} of {len(names)} are not: {shown}"
            f"{', ...' if len(unknown) > 5 else ''}; use the file's names, or evaluate only the classes that it has"
        )


def require_coverage(processed: Sequence[int], expected: Sequence[int], path: Path, *, allow_partial: bool) -> None:
    """Raise ValueError unless each expected image was processed exactly once (with `allow_partial`: at most once)."""
    if len(set(processed)) < len(processed):
        twice = [i for i, count in Counter(processed).items() if count > 1][:5]
        raise ValueError(f"each image must be processed once, got {len(processed)} records of {len(set(processed))} images, again: {twice}")
    if not processed:
        raise ValueError(f"predictions must be processed before the metric is computed, got none for the {len(expected)} images of {path}")
    missing = sorted(set(expected) - set(processed))
    if missing and not allow_partial:
        raise ValueError(
            f"predictions must cover all {len(expected)} images of {path}, {len(missing)} have none (ids {missing[:5]}"
            f"{', ...' if len(missing) > 5 else ''}); run on all of them, or pass allow_partial=True to evaluate "
            f"the {len(processed)} processed ones only"
        )
