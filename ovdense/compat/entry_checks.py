"""What entries of COCO and LVIS files must be, said with the file and the entry: numbers where numbers belong, lists where lists do."""
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

MOST_PIXELS = 2**31  # of an image: more is a slip of the file, and would fill the memory


def _integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _require(good: bool, path: Path, what: str, must: str, got: object) -> None:
    if not good:
        raise ValueError(f"{path}: {what} must be {must}, got {repr(got)[:80]}")


def check_images(images: Sequence[Mapping[str, Any]], categories: Mapping[int, Any], path: Path) -> None:
    """Raise ValueError for an image whose size is no size, whose name is no text, or that names categories which the file does not have."""
    for image in images:
        where = f"image {image['id']}"
        size = image["height"], image["width"]
        _require(all(_integer(v) and v > 0 for v in size) and size[0] * size[1] <= MOST_PIXELS, path, f"{where}: height and width", "positive integers", size)
        for key in ("file_name", "coco_url"):
            name = image.get(key)
            _require(name is None or (isinstance(name, str) and "\0" not in name), path, f"{where}: {key}", "text", name)
        for key in ("neg_category_ids", "not_exhaustive_category_ids"):
            ids = image.get(key, [])
            _require(isinstance(ids, list) and all(_integer(c) for c in ids), path, f"{where}: {key}", "a list of integers", ids)
            unknown = [c for c in ids if c not in categories]
            if unknown:
                raise ValueError(f"{path}: {where}: {key} names the unknown category {unknown[0]!r}")


def check_annotations(annotations: Sequence[Mapping[str, Any]], rows: Mapping[int, int], categories: Mapping[int, Any], path: Path) -> None:
    """Raise ValueError for an annotation of an unknown image or category, or whose crowd flag is no flag."""
    for a in annotations:
        for key, known, listed in (("category_id", categories, "categories"), ("image_id", rows, "images")):
            if not _integer(a[key]) or a[key] not in known:
                raise ValueError(f"{path}: annotation {str(a['id'])[:40]}: {key} {repr(a[key])[:40]} is not among the {len(known)} {listed} of the file")
        _require(a.get("iscrowd", 0) in (0, 1), path, f"annotation {str(a['id'])[:40]}: iscrowd", "0 or 1", a.get("iscrowd"))


def check_categories(categories: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Raise ValueError for a category whose name is no text."""
    for category in categories:
        name = category["name"]
        _require(isinstance(name, str) and bool(name.strip()), path, f"category {category['id']}: name", "non-empty text", name)
