"""From score maps to label maps: windows over large images, the file's size, the best class of every pixel.

Coordinates: pixels of the network's input, y down; `size_hw` is an image's part of a padded batch, `original_size_hw` its file.
"""
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ovdense.structures import ImageTarget, Results

MOST_NUMBERS = 32 * 2**20  # of scores at the file's size held at a time: 1,203 classes at 4 megapixels would be 20 GB
WINDOW_NUMBERS = 4 * 2**20  # of logits of a window resized at a time


def windows(size_hw: tuple[int, int], crop_hw: tuple[int, int], stride_hw: tuple[int, int]) -> Iterator[tuple[slice, slice]]:
    """Yield (rows, columns) of windows that cover the image, the last ones moved inwards so that none hangs over (mmseg's slide test)."""
    if min(*crop_hw, *stride_hw) < 1 or stride_hw[0] > crop_hw[0] or stride_hw[1] > crop_hw[1]:
        raise ValueError(f"crop and stride must be at least 1 and the stride at most the crop, got crop {crop_hw}, stride {stride_hw}")
    (height, width), (h, w), (dy, dx) = size_hw, crop_hw, stride_hw
    for n in range(max(height - h + dy - 1, 0) // dy + 1):
        for m in range(max(width - w + dx - 1, 0) // dx + 1):
            y2, x2 = min(n * dy + h, height), min(m * dx + w, width)
            yield slice(max(y2 - h, 0), y2), slice(max(x2 - w, 0), x2)


def slide(logits_of: Callable[[Tensor], Tensor], images: Tensor, crop_hw: tuple[int, int], stride_hw: tuple[int, int]) -> Tensor:
    """Return (B, K, H, W): the mean over overlapping windows of what `logits_of` gives for each, resized to the window (bilinear)."""
    height, width = images.shape[-2:]
    total, count = None, images.new_zeros(1, 1, height, width)
    for rows, columns in windows((height, width), crop_hw, stride_hw):
        crop = images[..., rows, columns]
        logit = logits_of(crop)
        if total is None:
            total = logit.new_zeros(*logit.shape[:2], height, width)
        block = max(1, WINDOW_NUMBERS // (crop.shape[-2] * crop.shape[-1]))
        for start in range(0, logit.shape[1], block):  # of all classes at once, the resized logits would pass through memory thrice
            classes = slice(start, start + block)
            total[:, classes, rows, columns] += resized(logit[:, classes], crop.shape[-2:])
        count[..., rows, columns] += 1
    return total.div_(count)


def resized(logit_BKHW: Tensor, size_hw: Sequence[int]) -> Tensor:
    """Return the maps at another size: bilinear, corners not aligned."""
    if tuple(logit_BKHW.shape[-2:]) == tuple(size_hw):
        return logit_BKHW
    return F.interpolate(logit_BKHW, size=tuple(size_hw), mode="bilinear", align_corners=False)


def without_padding(map_KHW: Tensor, size_hw: Sequence[int], padded_hw: Sequence[int]) -> Tensor:
    """Return the part (K, h, w) of maps of any resolution that lies on the image, `size_hw` of the padded input's `padded_hw` pixels; at least one place."""
    h, w = (max(1, round(full * part / padded)) for full, part, padded in zip(map_KHW.shape[-2:], size_hw, padded_hw))
    return map_KHW[:, :h, :w]


def best_class(score_KHW: Tensor, input_hw: tuple[int, int], target: ImageTarget) -> Tensor:
    """Return (H, W) int64 at the file's size: the class with the largest score, the first of equals.

    As mmseg does, scores of any resolution are brought to the padded input's size, the padding is cut off, and what is left is
    brought to the file's size. Done by blocks of classes, so that memory does not grow with classes x pixels; the bits do not
    depend on the blocks.
    """
    (h, w), size_hw = target.size_hw, tuple(target.original_size_hw)
    block = max(1, MOST_NUMBERS // max(size_hw[0] * size_hw[1], input_hw[0] * input_hw[1]))
    best = label = None
    for start in range(0, len(score_KHW), block):
        full = resized(resized(score_KHW[None, start : start + block], input_hw)[..., :h, :w], size_hw)[0]
        value, index = full.max(0)
        if best is None:
            best, label = value, index
        else:
            better = value > best
            best, label = torch.where(better, value, best), torch.where(better, index + start, label)
    return label


def label_maps(score_BKHW: Tensor, targets: Sequence[ImageTarget], names: Sequence[str], input_hw: tuple[int, int]) -> list[Results]:
    """Return one label map an image at its file's size, from the scores of a padded batch of `input_hw` pixels (see `best_class`)."""
    return [Results.of_label_map(best_class(s, input_hw, t), names, t.image_id) for s, t in zip(score_BKHW, targets, strict=True)]
