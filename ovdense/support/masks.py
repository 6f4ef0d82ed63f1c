"""Where the class is in a support image: foreground and background from an attention map and class-agnostic masks.

OVDiff (arXiv 2306.09316, Sec. 3.2) with the released code's constants and ranking. All maps are (H, W) at the image's size; heat maps are
larger where the class is. Pure functions; where masks come from is in `mask_sources`.
"""
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

FOREGROUND_ABOVE, BACKGROUND_BELOW = 0.5, 0.2
_EPS = 1e-6
_BINS = 256


@dataclass(frozen=True, kw_only=True)
class SupportMasks:
    """Pixels that stand for the class, and those that stand for what is around it; neither need cover the image, both may be empty."""

    foreground_HW: Tensor
    background_HW: Tensor

    def __post_init__(self) -> None:
        for mask in (self.foreground_HW, self.background_HW):
            if mask.ndim != 2 or mask.dtype != torch.bool or mask.shape != self.foreground_HW.shape:
                raise ValueError(f"support masks must be two bool (H, W) of one size, got {mask.dtype} {tuple(mask.shape)}")


def unit_range(map_BHW: Tensor) -> Tensor:
    """Return each map moved and scaled to 0..1; a constant map becomes 0."""
    low = map_BHW.amin((-2, -1), keepdim=True)
    return (map_BHW - low) / (map_BHW.amax((-2, -1), keepdim=True) - low).clamp(min=_EPS)


def spread_heat(heat_BHW: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Return heat maps at the image's size in 0..1: scaled, bilinear, scaled again."""
    return unit_range(F.interpolate(unit_range(heat_BHW)[:, None], size=size_hw, mode="bilinear", align_corners=False)[:, 0])


def rank_candidates(heat_HW: Tensor, instances_NHW: Tensor) -> tuple[Tensor, Tensor]:
    """Return (rank (H, W) int64, weight (R,)): candidates are the instances and the rest of the image, by mean heat, the hottest first.

    Every pixel has the rank of the hottest candidate that covers it. Candidates without a pixel are left out; in the release
    they weigh NaN and come first (instances that cover the whole image).
    """
    rest_1HW = ~instances_NHW.any(0, keepdim=True)
    candidate_NHW = torch.cat([rest_1HW, instances_NHW])
    candidate_NHW = candidate_NHW[candidate_NHW.flatten(1).any(1)]
    area_N = candidate_NHW.sum((1, 2))
    weight_N = (candidate_NHW * heat_HW / area_N[:, None, None]).sum((1, 2))
    order = weight_N.argsort(descending=True, stable=True)
    return torch.where(candidate_NHW[order], weight_N[order][:, None, None], -1.0).argmax(0), weight_N[order]  # a weight of 0 is more than not to cover


def erode(mask_HW: Tensor) -> Tensor:
    """Return the pixels whose four neighbours are in the mask too; outside the image counts as inside."""
    cross = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.uint8)
    eroded = cv2.erode(mask_HW.cpu().numpy().astype(np.uint8), cross, borderType=cv2.BORDER_CONSTANT, borderValue=1)
    return torch.from_numpy(eroded.astype(bool)).to(mask_HW.device)


def masks_from_heat(heat_HW: Tensor, foreground_above: float = FOREGROUND_ABOVE, background_below: float = BACKGROUND_BELOW) -> SupportMasks:
    """Return the masks of heat in 0..1 alone: what the release does where no instance is found."""
    return SupportMasks(foreground_HW=heat_HW > foreground_above, background_HW=heat_HW < background_below)


def masks_from_instances(heat_HW: Tensor, instances_NHW: Tensor, background_below: float = BACKGROUND_BELOW) -> SupportMasks:
    """Return the masks by the published ranking of class-agnostic masks (N, H, W) bool; N = 0 is `masks_from_heat`.

    Foreground is the hottest candidate, be it the rest of the image; background the coldest one, where the heat is low, without its rim.
    """
    if instances_NHW.shape[1:] != heat_HW.shape or instances_NHW.dtype != torch.bool:
        raise ValueError(f"instance masks must be bool (N, {heat_HW.shape[0]}, {heat_HW.shape[1]}) like the heat map, got {instances_NHW.dtype} "
                         f"{tuple(instances_NHW.shape)}")  # fmt: skip
    if len(instances_NHW) == 0:
        return masks_from_heat(heat_HW, background_below=background_below)
    rank_HW, _ = rank_candidates(heat_HW, instances_NHW)
    coldest_HW = rank_HW == rank_HW.max()
    return SupportMasks(foreground_HW=rank_HW == 0, background_HW=erode(coldest_HW & (heat_HW < background_below)))


def otsu_thresholds(values: Tensor) -> tuple[float, float]:
    """Return the two thresholds between three classes of values that separate them most (multi-Otsu over 256 bins)."""
    count, edges = np.histogram(values.detach().cpu().numpy().ravel(), bins=_BINS)
    centre = (edges[:-1] + edges[1:]) / 2
    share = count / max(count.sum(), 1)
    mass, moment = np.concatenate([[0], np.cumsum(share)]), np.concatenate([[0], np.cumsum(share * np.arange(_BINS))])

    def between(start: np.ndarray, stop: np.ndarray) -> np.ndarray:
        """Return the classes' part of the variance between classes, for bins start..stop-1."""
        weight = mass[stop] - mass[start]
        return np.where(weight > 0, (moment[stop] - moment[start]) ** 2 / np.where(weight > 0, weight, 1), 0)

    first, second = np.triu_indices(_BINS - 1, k=1)
    zero = np.zeros_like(first)
    variance = between(zero, first + 1) + between(first + 1, second + 1) + between(second + 1, zero + _BINS)
    best = int(variance.argmax())
    return float(centre[first[best]]), float(centre[second[best]])
