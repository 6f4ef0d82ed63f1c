"""Instance masks as data sets serve them: decoded from compressed run lengths (`compat.segmentations`), or painted into one picture."""
from collections.abc import Sequence

import numpy as np
from pycocotools import mask as coco_mask


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
