"""Instance masks of annotation files: polygons and RLE in COCO's forms, kept as compressed RLE bytes, decoded when an image is served."""
from collections.abc import Sequence

import numpy as np
from pycocotools import mask as coco_mask


def encode_segmentation(segmentation: object, size_hw: tuple[int, int], where: str) -> bytes:
    """Return one annotation's `segmentation` (polygons [[x, y, ...]], RLE with counts as numbers or text) as compressed RLE of `size_hw`.

    ValueError, beginning with `where`, for polygons of fewer than three points or with numbers that are not finite, and for an RLE of another size.
    """
    height, width = (int(v) for v in size_hw)
    if isinstance(segmentation, list):
        for polygon in segmentation:
            if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2 or not np.isfinite(np.asarray(polygon, dtype=np.float64)).all():
                raise ValueError(f"{where}: a polygon must be at least three points x, y, ... of finite numbers, got {str(polygon)[:80]}")
        if not segmentation:
            raise ValueError(f"{where}: segmentation must have at least one polygon, got none")
        return coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))["counts"]
    if not isinstance(segmentation, dict) or "counts" not in segmentation or list(segmentation.get("size", ())) != [height, width]:
        got = segmentation.get("size") if isinstance(segmentation, dict) else type(segmentation).__name__
        raise ValueError(f"{where}: segmentation must be polygons, or an RLE of counts and size [{height}, {width}], got {got}")
    counts = segmentation["counts"]
    if isinstance(counts, list):
        if sum(counts) != height * width or min(counts, default=0) < 0:
            raise ValueError(f"{where}: the RLE's counts must add up to {height} x {width} pixels, got {sum(counts)}")
        return coco_mask.frPyObjects({"counts": counts, "size": [height, width]}, height, width)["counts"]
    return counts.encode("ascii") if isinstance(counts, str) else counts


def decode_masks(counts: Sequence[bytes], size_hw: tuple[int, int]) -> np.ndarray:
    """Return (N, H, W) bool of compressed RLEs."""
    height, width = (int(v) for v in size_hw)
    if not len(counts):
        return np.zeros((0, height, width), dtype=bool)
    masks = coco_mask.decode([{"counts": c, "size": [height, width]} for c in counts])
    return np.ascontiguousarray(masks.transpose(2, 0, 1)).astype(bool)


def paint(masks: np.ndarray, values: Sequence[int], size_hw: tuple[int, int], ground: int) -> np.ndarray:
    """Return (H, W) uint8: each mask's value, small masks over large ones, `ground` where there is none."""
    picture = np.full(size_hw, ground, dtype=np.uint8)
    for n in np.argsort(-masks.sum((1, 2)), kind="stable"):
        picture[masks[n]] = values[n]
    return picture
