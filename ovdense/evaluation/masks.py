"""Instance masks as the evaluators hold them: compressed run lengths (COCO's RLE), many in one array of bytes; and their overlaps.

An RLE is {"size": [H, W], "counts": bytes}, as in pycocotools; hotcoco's functions give the same bytes.
"""
from collections.abc import Sequence

import numpy as np

from ovdense.compat import segmentations

Rle = dict


def encode_masks(masks_NHW: np.ndarray) -> list[Rle]:
    """Return the RLE of each bool mask."""
    import hotcoco

    return [hotcoco.mask.encode(np.asfortranarray(mask.astype(bool).view(np.uint8))) for mask in masks_NHW]


def pack(rles: Sequence[Rle]) -> tuple[np.ndarray, np.ndarray]:
    """Return all counts as one uint8 array, and the number of bytes of each (N,) int32."""
    counts = [r["counts"] for r in rles]
    return np.frombuffer(b"".join(counts), dtype=np.uint8), np.array([len(c) for c in counts], dtype=np.int32)


def unpack(data: np.ndarray, lengths: np.ndarray, size_hw: Sequence[int]) -> list[Rle]:
    """Return the RLEs that `pack` packed, of images of one size."""
    raw, ends = data.tobytes(), np.cumsum(lengths, dtype=np.int64).tolist()
    return [{"size": [int(size_hw[0]), int(size_hw[1])], "counts": raw[end - n : end]} for end, n in zip(ends, lengths.tolist())]


def encode_segmentation(segmentation: object, size_hw: Sequence[int], where: str) -> Rle:
    """Return the RLE of a COCO segmentation: polygons, or run lengths compressed or not; ValueError, beginning with `where`, for anything else."""
    height, width = (int(v) for v in size_hw)
    return {"size": [height, width], "counts": segmentations.encode_segmentation(segmentation, (height, width), where)}


def union_mask(rles: Sequence[Rle], size_hw: Sequence[int]) -> np.ndarray:
    """Return the bool mask (H, W) that any of them covers."""
    import hotcoco

    if not rles:
        return np.zeros((int(size_hw[0]), int(size_hw[1])), dtype=bool)
    return hotcoco.mask.decode(hotcoco.mask.merge(list(rles))).astype(bool)


def overlap(a_HW: np.ndarray, b_HW: np.ndarray) -> tuple[int, int]:
    """Return the numbers of pixels in both and in any of two bool masks."""
    return int((a_HW & b_HW).sum()), int((a_HW | b_HW).sum())
