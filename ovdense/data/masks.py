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
            if not _is_polygon(polygon):
                raise ValueError(f"{where}: a polygon must be at least three points x, y, ... of finite numbers, got {str(polygon)[:80]}")
        if not segmentation:
            raise ValueError(f"{where}: segmentation must have at least one polygon, got none")
        return coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))["counts"]
    if not isinstance(segmentation, dict) or "counts" not in segmentation or segmentation.get("size") not in ([height, width], (height, width)):
        got = str(segmentation.get("size"))[:80] if isinstance(segmentation, dict) else type(segmentation).__name__
        raise ValueError(f"{where}: segmentation must be polygons, or an RLE of counts and size [{height}, {width}], got {got}")
    counts = segmentation["counts"]
    if isinstance(counts, list):
        if not all(isinstance(c, int) and c >= 0 for c in counts) or sum(counts) != height * width:
            raise ValueError(f"{where}: the RLE's counts must be whole numbers that add up to {height} x {width} pixels, got {str(counts)[:80]}")
        return coco_mask.frPyObjects({"counts": counts, "size": [height, width]}, height, width)["counts"]
    written = counts.encode("ascii", "replace") if isinstance(counts, str) else counts
    runs = run_lengths(written) if isinstance(written, bytes) else None
    if runs is None or (runs < 0).any() or runs.sum() != height * width:  # the decoder would write past the mask
        raise ValueError(f"{where}: the RLE's counts must be text of runs that add up to {height} x {width} pixels, got {str(counts)[:80]!r}")
    return written


FARTHEST = 1e6  # pixels from the image at which a polygon's point is a slip; the painter's own numbers end at 2**31


def _is_polygon(given: object) -> bool:
    """Return whether something is [x, y, x, y, x, y, ...] of numbers that can be pixels."""
    numbers = isinstance(given, list) and len(given) >= 6 and len(given) % 2 == 0 and all(isinstance(v, int | float) and not isinstance(v, bool) for v in given)
    return bool(numbers) and all(-FARTHEST <= v <= FARTHEST for v in given)


def run_lengths(counts: bytes) -> np.ndarray | None:
    """Return the run lengths (int64) of COCO's compressed RLE, None for other text.

    Five bits a character, from 48 on, the sixth says that more follow; numbers are signed, from the fourth on differences to the run before the last.
    """
    digits = np.frombuffer(counts, dtype=np.uint8).astype(np.int64) - 48
    if not len(digits) or digits.min() < 0 or digits.max() > 63 or digits[-1] & 32:
        return None
    last = np.flatnonzero((digits & 32) == 0)
    first = np.concatenate([[0], last[:-1] + 1])
    place = np.arange(len(digits)) - np.repeat(first, last - first + 1)
    if place.max() > 11:
        return None
    value = np.add.reduceat((digits & 31) << (5 * place), first)
    value = np.where(digits[last] & 16, value - (np.int64(1) << (5 * (last - first + 1))), value)
    value[1::2], value[2::2] = value[1::2].cumsum(), value[2::2].cumsum()
    return value


def decode_masks(counts: Sequence[bytes], size_hw: tuple[int, int]) -> np.ndarray:
    """Return (N, H, W) bool of compressed RLEs."""
    height, width = (int(v) for v in size_hw)
    if not len(counts):
        return np.zeros((0, height, width), dtype=bool)
    masks = coco_mask.decode([{"counts": c, "size": [height, width]} for c in counts])
    return np.ascontiguousarray(masks.transpose(2, 0, 1)).astype(bool)


def paint(masks: np.ndarray, values: Sequence[int], size_hw: tuple[int, int], ground: int, dtype: type = np.uint8) -> np.ndarray:
    """Return (H, W): each mask's value, small masks over large ones, `ground` where there is none."""
    picture = np.full(size_hw, ground, dtype=dtype)
    for n in np.argsort(-masks.sum((1, 2)), kind="stable"):
        picture[masks[n]] = values[n]
    return picture
