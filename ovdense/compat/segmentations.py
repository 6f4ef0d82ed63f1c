"""Instance masks of annotation files: polygons and RLE in COCO's forms, kept as compressed RLE bytes."""
import math
from array import array
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
        parts = coco_mask.frPyObjects(segmentation, height, width)
        return (parts[0] if len(parts) == 1 else coco_mask.merge(parts))["counts"]
    if not isinstance(segmentation, dict) or "counts" not in segmentation or segmentation.get("size") not in ([height, width], (height, width)):
        got = str(segmentation.get("size"))[:80] if isinstance(segmentation, dict) else type(segmentation).__name__
        raise ValueError(f"{where}: segmentation must be polygons, or an RLE of counts and size [{height}, {width}], got {got}")
    counts = segmentation["counts"]
    if isinstance(counts, list):
        if not all(isinstance(c, int) and c >= 0 for c in counts) or sum(counts) != height * width:
            raise ValueError(f"{where}: the RLE's counts must be whole numbers that add up to {height} x {width} pixels, got {str(counts)[:80]}")
        return coco_mask.frPyObjects({"counts": counts, "size": [height, width]}, height, width)["counts"]
    written = counts.encode("ascii", "replace") if isinstance(counts, str) else counts
    if not isinstance(written, bytes) or not all_fill([written], height * width):  # the decoder would write past the mask
        raise ValueError(f"{where}: the RLE's counts must be text of runs that add up to {height} x {width} pixels, got {str(counts)[:80]!r}")
    return written


FARTHEST = 1e6  # pixels from the image at which a polygon's point is a slip; the painter's own numbers end at 2**31


def _is_polygon(given: object) -> bool:
    """Return whether something is [x, y, x, y, x, y, ...] (a list, or an array of numbers) of numbers that can be pixels."""
    if not isinstance(given, array) and not (isinstance(given, list) and all(isinstance(v, int | float) and not isinstance(v, bool) for v in given)):
        return False
    # the sum tells what is no number, which the smallest and the largest do not
    return len(given) >= 6 and len(given) % 2 == 0 and -FARTHEST <= min(given) and max(given) <= FARTHEST and math.isfinite(sum(given))


def all_fill(counts: Sequence[bytes], num_pixels: int) -> bool:
    """Return whether each of the counts is COCO's compressed RLE whose runs add up to `num_pixels`; all masks at once, for speed.

    Five bits a character, from 48 on, the sixth says that more follow; numbers are signed, from the fourth on differences to the run before the last.
    """
    sizes = np.array([len(c) for c in counts], dtype=np.int64)
    if not len(sizes):
        return True
    digits = np.frombuffer(b"".join(counts), dtype=np.uint8).astype(np.int64) - 48
    ends = np.cumsum(sizes)
    if not sizes.all() or digits.min() < 0 or digits.max() > 63 or (digits[ends - 1] & 32).any():
        return False
    last = np.flatnonzero((digits & 32) == 0)
    first = np.concatenate([[0], last[:-1] + 1])
    place = np.arange(len(digits)) - np.repeat(first, last - first + 1)
    if place.max() > 11:
        return False
    value = np.add.reduceat((digits & 31) << (5 * place), first)
    value = np.where(digits[last] & 16, value - (np.int64(1) << (5 * (last - first + 1))), value)
    of_mask = np.searchsorted(ends, last, side="right")
    start = np.searchsorted(of_mask, np.arange(len(sizes)))
    turn = np.arange(len(value)) - start[of_mask]
    # the first run stands alone; the others are sums of the differences before them at odd, and at even places
    chain = 3 * of_mask + np.where(turn == 0, 0, 1 + turn % 2)
    order = np.argsort(chain, kind="stable")
    summed, begin = np.cumsum(value[order]), np.flatnonzero(np.diff(chain[order], prepend=-1))
    runs = summed - np.repeat(np.concatenate([[0], summed[begin[1:] - 1]]), np.diff(np.append(begin, len(value))))
    return bool((runs >= 0).all()) and bool((np.bincount(of_mask[order], runs, len(sizes)) == num_pixels).all())
