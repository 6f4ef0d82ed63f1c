"""From an image and prototype banks to scores: crops, extractors, cosines, refinement (arXiv 2306.09316, Sec. 3.4, as released).

The features of an image are computed once (`read_places`), whatever the classes. K classes; score maps are (1 + K, H, W), background first.
"""
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ovdense.heads.segment import resized, windows
from ovdense.layers.pamr import refine
from ovdense.support.prototypes import PrototypeBank, score_places, unit_rows

CROPS = ((448, 224), (336, 224))  # side and stride in pixels of an image whose short side is 448; the whole image comes besides
MOST_NUMBERS = 48 * 2**20  # of scores held at a time


@dataclass(frozen=True)
class PlaceFeatures:
    """One crop seen by one extractor: where it is, and unit features (h, w, C) of its places."""

    extractor: int
    rows: slice
    columns: slice
    unit_HWC: Tensor


def crop_windows(size_hw: tuple[int, int], crops: Sequence[tuple[int, int]]) -> list[tuple[slice, slice]]:
    """Return all windows of an image: those of each (side, stride), then the whole."""
    out = [w for side, stride in crops for w in windows(size_hw, (side, side), (stride, stride))]
    return [*out, (slice(0, size_hw[0]), slice(0, size_hw[1]))]


def read_places(image_3HW: Tensor, extractors: Sequence[Callable[[Tensor], Tensor]], crops: Sequence[tuple[int, int]] = CROPS) -> list[PlaceFeatures]:
    """Return the features of all crops of an image in 0..1 by all extractors ((1, 3, h, w) -> (1, C, h', w')); equal crops are read once and count twice."""
    found = []
    for number, extractor in enumerate(extractors):
        read: dict[tuple[int, ...], Tensor] = {}
        for rows, columns in crop_windows(tuple(image_3HW.shape[1:]), crops):
            key = rows.start, rows.stop, columns.start, columns.stop
            if key not in read:
                read[key] = unit_rows(extractor(image_3HW[None, :, rows, columns])[0].permute(1, 2, 0))
            found.append(PlaceFeatures(number, rows, columns, read[key]))
    return found


def mean_scores(places: Sequence[PlaceFeatures], banks: Sequence[PrototypeBank], active_K: Tensor, size_hw: tuple[int, int], background: bool = True) -> Tensor:
    """Return (1 + K, H, W): cosines of every crop, brought to its size (bilinear), clamped to -1..1, averaged over the crops and extractors at each pixel."""
    total = count = None
    for p in places:
        h, w, _ = p.unit_HWC.shape
        score_PK = score_places(p.unit_HWC.flatten(0, 1), banks[p.extractor], active_K, background).clamp(-1, 1)  # as after resizing, on fewer numbers
        crop_hw = p.rows.stop - p.rows.start, p.columns.stop - p.columns.start
        map_KHW = score_PK.T.contiguous().unflatten(1, (h, w))  # contiguous: else the large maps come out in another order and are copied
        score_KHW = F.interpolate(map_KHW[None], size=crop_hw, mode="bilinear", align_corners=False)[0]
        if len(places) == 1 and crop_hw == tuple(size_hw):
            return score_KHW
        if total is None:
            total, count = score_KHW.new_zeros(len(score_KHW), *size_hw), score_KHW.new_zeros(size_hw)
        total[:, p.rows, p.columns] += score_KHW
        count[p.rows, p.columns] += 1
    return total.div_(count.clamp(min=1))


def label_map(
    places: Sequence[PlaceFeatures], banks: Sequence[PrototypeBank], active_K: Tensor, size_hw: tuple[int, int], out_hw: tuple[int, int], *,
    background: bool = True, with_background: bool = True, pamr_image_3HW: Tensor | None = None, threshold: float = 0.0,
) -> Tensor:
    """Return (H, W) int64 at `out_hw`: 0 background, 1 + k class k; the first of equals.

    Without `with_background`, 0 is nobody's answer, and the best class is taken whatever its score. Scores are those of `mean_scores`, refined
    by the image (0..255) if there is one, brought to `out_hw`; beside a background, what is not above `threshold` counts as 0. Classes
    that are not active are left out (they would score -1), and the others come in blocks, so that memory does not grow with them.
    """
    chosen = active_K.nonzero().flatten().tolist()
    block = max(1, MOST_NUMBERS // max(size_hw[0] * size_hw[1], out_hw[0] * out_hw[1]))
    best = label = None
    if not chosen:
        if not with_background:
            raise ValueError("at least one class must be active where there is no background")
        return torch.zeros(out_hw, dtype=torch.int64)
    for start in range(0, len(chosen), block):
        part = chosen[start : start + block]
        part_K = torch.zeros_like(active_K)
        part_K[part] = True
        first = 0 if with_background and not start else 1  # the background is compared once
        score = mean_scores(places, [_of_classes(b, part, active_K) for b in banks], torch.ones(len(part), dtype=torch.bool), size_hw, background and not first)
        score = score[first:]
        if pamr_image_3HW is not None:
            score = refine(pamr_image_3HW[None], score[None])[0]
        score = resized(score[None], out_hw)[0]
        value, index = best_above(score, threshold) if with_background else score.max(0)
        number = torch.tensor([0, *(1 + k for k in part)][first:], device=score.device)
        if best is None:
            best, label = value, number[index]
        else:
            better = value > best
            best, label = torch.where(better, value, best), torch.where(better, number[index], label)
    return label


def best_above(score_KHW: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Return the largest score and its class at each pixel, (H, W) both, where scores not above `threshold` count as 0; the first of equals."""
    if threshold < 0:
        return score_KHW.where(score_KHW > threshold, torch.zeros_like(score_KHW)).max(0)
    value, index = score_KHW.max(0)  # what is above a threshold of 0 or more beats all zeros
    above = value > threshold
    return value.where(above, torch.zeros_like(value)), index.where(above, torch.zeros_like(index))


def _of_classes(prototypes: PrototypeBank, part: Sequence[int], active_K: Tensor) -> PrototypeBank:
    """Return the bank of a block of classes, renumbered, with the background rows of all active classes (their owner is then the first one)."""
    bank, owner_M = prototypes.bank, prototypes.owner_M
    if len(part) == bank.num_classes and bool(active_K.all()):
        return prototypes
    new_of_class = torch.full((bank.num_classes,), -2)
    new_of_class[list(part)] = torch.arange(len(part))
    negative_M = bank.class_of_row_M < 0
    class_M = torch.where(negative_M, torch.full_like(bank.class_of_row_M, -1), new_of_class[bank.class_of_row_M.clamp(min=0)])
    keep_M = torch.where(negative_M, active_K.cpu()[owner_M], class_M >= 0)
    kept = class_M[keep_M]
    small = type(bank)(rows_MD=bank.rows_MD[keep_M], class_of_row_M=kept, num_classes=len(part), background_K=torch.zeros(len(part), dtype=torch.bool))
    return PrototypeBank(bank=small, owner_M=kept.clamp(min=0))
