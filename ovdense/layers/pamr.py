"""Pixel-adaptive mask refinement: scores flow between neighbours of like colour (arXiv 2005.08104, as OVDiff's release runs it)."""
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

ITERATIONS, DILATIONS = 10, (1, 2, 4, 8, 12, 24)
_OFFSETS = tuple((dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1))
_AROUND = tuple(o for o in _OFFSETS if o != (0, 0))


def _neighbours(map_BCHW: Tensor, dilations: Sequence[int], offsets: Sequence[tuple[int, int]]) -> Tensor:
    """Return (B, C, P, H, W): the values at all offsets times all dilations; the border is repeated outwards."""
    height, width = map_BCHW.shape[-2:]
    out = []
    for d in dilations:
        padded = F.pad(map_BCHW, (d, d, d, d), mode="replicate")
        out += [padded[..., d + dy * d : d + dy * d + height, d + dx * d : d + dx * d + width] for dy, dx in offsets]
    return torch.stack(out, 2)


def affinity(image_B3HW: Tensor, dilations: Sequence[int] = DILATIONS) -> Tensor:
    """Return (B, 1, P, H, W), summing to 1 over the P neighbours: softmax of the mean over colours of -|x_i - x_j| / (1e-8 + 0.1 std)."""
    std = _neighbours(image_B3HW, dilations, _OFFSETS).std(2, keepdim=True)
    difference = (_neighbours(image_B3HW, dilations, _AROUND) - image_B3HW[:, :, None]).abs()
    return (-difference / (1e-8 + 0.1 * std)).mean(1, keepdim=True).softmax(2)


def refine(image_B3HW: Tensor, score_BKHW: Tensor, iterations: int = ITERATIONS, dilations: Sequence[int] = DILATIONS, block: int = 8) -> Tensor:
    """Return (B, K, H, W) scores after `iterations` of averaging over neighbours by the image's affinity.

    Image in 0..255. Scores of another size are first brought to the image's (bilinear, corners aligned). `block` classes at a time.
    """
    score_BKHW = F.interpolate(score_BKHW, size=image_B3HW.shape[-2:], mode="bilinear", align_corners=True)
    weight = affinity(image_B3HW, dilations)
    out = []
    for part in score_BKHW.split(block, dim=1):
        for _ in range(iterations):
            part = (_neighbours(part, dilations, _AROUND) * weight).sum(2)
        out.append(part)
    return torch.cat(out, 1) if out else score_BKHW
