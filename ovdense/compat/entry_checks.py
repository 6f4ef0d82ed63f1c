"""What entries of COCO and LVIS files must be, said with the file and the entry: numbers where numbers belong, lists where lists do."""
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

CATEGORY_LISTS = ("neg_category_ids", "not_exhaustive_category_ids")
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
        check_size(image, path)
        for key in ("file_name", "coco_url"):
            name = image.get(key)
            _require(name is None or (isinstance(name, str) and "\0" not in name), path, f"{where}: {key}", "text", name)
        check_category_lists(image, path)
        for key in CATEGORY_LISTS:
            unknown = [c for c in image.get(key, ()) if c not in categories]
            if unknown:
                raise ValueError(f"{path}: {where}: {key} names the unknown category {unknown[0]!r}")


def check_size(image: Mapping[str, Any], path: Path) -> None:
    """Raise ValueError for an image whose height and width are no numbers of pixels."""
    size = image["height"], image["width"]
    good = all(_integer(v) and v > 0 for v in size) and size[0] * size[1] <= MOST_PIXELS
    _require(good, path, f"image {image['id']}: height and width", "positive integers", size)


def check_category_lists(image: Mapping[str, Any], path: Path) -> None:
    """Raise ValueError where an image's lists of categories (LVIS) are no lists of integers."""
    for key in CATEGORY_LISTS:
        ids = image.get(key, [])
        _require(isinstance(ids, list) and all(_integer(c) for c in ids), path, f"image {image['id']}: {key}", "a list of integers", ids)


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


def entry_place(key: str, n: int, entry: Mapping[str, Any]) -> str:
    """Return how errors name entry `n` of a list of a file."""
    return f"{key}, entry {n} (id {repr(entry.get('id'))[:40]})"


def _fit(values: Sequence[Any], width: int, accept: Callable[[np.ndarray], np.ndarray]) -> bool:
    """Return whether all values are numbers (of a file of JSON) that `accept` takes, or with a `width` lists of so many."""
    if width and (set(map(type, values)) - {list} or set(map(len, values)) - {width}):
        return False
    flat = [*chain.from_iterable(values)] if width else values
    if set(map(type, flat)) - {int, float, bool}:
        return False
    found = np.array(flat)
    return found.dtype.kind in "biuf" and bool(accept(found).all())


COLUMNS = (  # field, what stands for one that is missing, how many numbers (0: one, no list), what is taken, in words
    ("bbox", None, 4, np.isfinite, "four finite numbers (x, y, width, height)"),
    ("area", 0, 0, lambda x: np.isfinite(x) & (x >= 0), "a finite number of square pixels, at least 0; leave it out where it is not known"),
    ("iscrowd", 0, 0, lambda x: (x == 0) | (x == 1), "0 or 1"),
    ("ignore", 0, 0, lambda x: (x == 0) | (x == 1), "0 or 1"),
)


def check_numbers(annotations: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Raise ValueError for the first annotation whose box, area or flags are none: whole columns at once, one by one only to name it."""
    for field, missing, width, accept, must in COLUMNS:
        values = [a.get(field, missing) for a in annotations]
        if not _fit(values, width, accept):
            n = next((n for n, v in enumerate(values) if not _fit([v], width, accept)), 0)
            _require(False, path, f"{entry_place('annotations', n, annotations[n])}: {field}", must, values[n])


def check_known(annotations: Sequence[Mapping[str, Any]], field: str, known: Collection[int], key: str, path: Path) -> None:
    """Raise ValueError where `field` of an annotation is not one of the `known` ids of the list `key`."""
    values, ids = [a[field] for a in annotations], np.array(list(known), dtype=np.int64)
    if not _fit(values, 0, lambda x: np.isin(x, ids) & (x.dtype.kind == "i")):
        lost = [n for n, v in enumerate(values) if not _integer(v) or v not in known]
        n = lost[0]
        got = f"entry {n} (id {repr(annotations[n].get('id'))[:40]}) has {repr(values[n])[:40]}"
        raise ValueError(f"{path}: annotations: each {field} must be an id of {key}, {len(lost)} are not: {got}; was the file cut to a part of its {key}?")
