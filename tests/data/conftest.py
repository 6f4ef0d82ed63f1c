"""A small annotation file with photos of one colour each, to break on purpose."""
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

CATEGORIES = [
    {"id": 7, "name": "cup", "frequency": "f", "synonyms": ["cup", "drinking_cup"], "def": "a small open container"},
    {"id": 3, "name": "bow_(weapon)", "frequency": "r", "synonyms": ["bow"], "def": "a weapon for shooting arrows"},
    {"id": 5, "name": "bow_(decoration)", "frequency": "c", "synonyms": ["bow"], "def": "a knot with two loops"},
]


def small_content() -> dict:
    """Return an LVIS-like file of 3 images (40 x 60) with 4 boxes, the last one a crowd."""
    images = [
        {"id": i, "file_name": f"{i}.png", "height": 40, "width": 60, "neg_category_ids": absent, "not_exhaustive_category_ids": partly}
        for i, absent, partly in ((1, [3], []), (2, [], [7]), (3, [], []))
    ]
    boxes = [(11, 1, 7, [10, 5, 20, 10]), (12, 1, 5, [0, 0, 8, 8]), (13, 2, 7, [30, 20, 10.5, 10]), (14, 3, 3, [5, 5, 5, 5])]
    annotations = [{"id": i, "image_id": m, "category_id": c, "bbox": b, "iscrowd": int(i == 14)} for i, m, c, b in boxes]
    return {"images": images, "annotations": annotations, "categories": [dict(c) for c in CATEGORIES]}


def write_dataset(folder: Path, content: dict) -> Path:
    """Write ann.json and images/*.png for `content`; return the folder."""
    (folder / "images").mkdir(exist_ok=True)
    (folder / "ann.json").write_text(json.dumps(content))
    for image in content["images"]:
        pixels = np.arange(40 * 60 * 3, dtype=np.int64).reshape(40, 60, 3) * (image["id"] + 1) % 251
        Image.fromarray(pixels.astype(np.uint8)).save(folder / "images" / f"{image['id']}.png")
    return folder


@pytest.fixture
def small(tmp_path) -> Path:
    """Folder of the small data set."""
    return write_dataset(tmp_path, small_content())
