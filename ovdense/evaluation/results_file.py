"""Detections as files in COCO's result form, which the official tools read back to the very same numbers."""
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ovdense.compat.atomic import atomic_write
from ovdense.evaluation.masks import Rle
from ovdense.evaluation.reference import as_results

_AT_ONCE = 50_000


def write_detections(path: str | Path, detections: np.ndarray, rles: Sequence[Rle] | None, iou_types: Sequence[str]) -> list[Path]:
    """Write `detections` (N, 7: image id, x, y, width, height, score, category id), numbers as they are; return the files.

    Without masks FILE.json; with them FILE.bbox.json and FILE.segm.json, as many as `iou_types` has.
    """
    path = Path(path)
    written = []
    for kind in iou_types:
        target = path if rles is None else path.with_suffix(f".{kind}.json")
        write_rows(target, detections, rles if kind == "segm" else None, boxes=kind == "bbox")
        written.append(target)
    return written


def write_rows(path: Path, detections: np.ndarray, rles: Sequence[Rle] | None, *, boxes: bool, names: Mapping[int, str] | None = None) -> None:
    """Write the list a part at a time, whole or not at all; `names`, by category id, add a category_name to each row."""
    with atomic_write(path, "w") as file:
        file.write("[")
        for start in range(0, len(detections), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            rows = as_results(detections[part], None if rles is None else rles[part], boxes=boxes)
            named = rows if names is None else [row | {"category_name": names[row["category_id"]]} for row in rows]
            file.write((",\n" if start else "") + ",\n".join(json.dumps(row, ensure_ascii=False) for row in named))
        file.write("]\n")
