"""Prototypes of a class: means of features over its support images' foreground, and over what is around it.

OVDiff (arXiv 2306.09316, Sec. 3.3) as released: the class's mean over all pixels, one mean an image, and k-means centres as parts, of raw
(not normalised) features. C width, H W feature size, M rows.
"""
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ovdense.structures import ClassBank
from ovdense.support.kmeans import MEMORY_BYTES, RowStore, cluster

ClassRows = tuple[Tensor, Tensor]  # a class's foreground and background rows, (M, C) each
KINDS = ("class", "instance", "part")
NUM_PARTS, STUFF_COSINE = 32, 0.85
_EPS = 1e-6


@dataclass(frozen=True, kw_only=True)
class RegionPrototypes:
    """Raw feature rows of one region: `class_1C` the mean of all pixels, `instance_NC` one an image, `part_KC` k-means centres."""

    class_1C: Tensor
    instance_NC: Tensor
    part_KC: Tensor

    def rows(self, kinds: Sequence[str] = KINDS) -> Tensor:
        """Return (M, C), the kinds in the order class, instance, part."""
        unknown = [k for k in kinds if k not in KINDS]
        if unknown or not kinds:
            raise ValueError(f"kinds must be one or more of {', '.join(KINDS)}, got {tuple(kinds)}")
        parts = {"class": self.class_1C, "instance": self.instance_NC, "part": self.part_KC}
        return torch.cat([parts[k] for k in KINDS if k in kinds])


@dataclass(frozen=True, kw_only=True)
class ClassPrototypes:
    """Foreground and background of one class; `used` are the indices of the support images that had a foreground."""

    foreground: RegionPrototypes
    background: RegionPrototypes
    used: tuple[int, ...]


def mask_to_grid(mask_HW: Tensor, grid_hw: tuple[int, int]) -> Tensor:
    """Return (h, w) bool: cells where the mask, brought to the grid (bilinear, no antialiasing), is not zero."""
    return F.interpolate(mask_HW[None, None].float(), size=tuple(grid_hw), mode="bilinear", align_corners=False)[0, 0] != 0


class PrototypeBuilder:
    """Takes a class's support images one by one, in bounded memory, and gives its prototypes.

    `num_parts`: k of k-means (0: none); `memory_bytes`: see `RowStore`. An image whose foreground has no cell is left out, its
    background too.
    """

    def __init__(self, *, num_parts: int = NUM_PARTS, seed: int = 0, memory_bytes: int = MEMORY_BYTES) -> None:
        if num_parts < 0:
            raise ValueError(f"num_parts must be at least 0, got {num_parts}")
        self.num_parts, self.seed, self.memory_bytes = num_parts, seed, memory_bytes
        self._regions: tuple[_Region, _Region] | None = None
        self._seen, self._used = 0, []

    def add(self, feat_CHW: Tensor, foreground_HW: Tensor, background_HW: Tensor) -> bool:
        """Take an image's features and masks (of any size); return whether it had a foreground."""
        self._seen += 1
        grid_hw = tuple(feat_CHW.shape[1:])
        if self._regions is None:
            self._regions = tuple(_Region(len(feat_CHW), self.memory_bytes) for _ in range(2))
        inside = mask_to_grid(foreground_HW.to(feat_CHW.device), grid_hw)
        if not bool(inside.any()):
            return False
        self._used.append(self._seen - 1)
        for region, cells in zip(self._regions, (inside, mask_to_grid(background_HW.to(feat_CHW.device), grid_hw))):
            region.add(feat_CHW[:, cells].T)
        return True

    def finish(self, initial: tuple[Tensor | None, Tensor | None] = (None, None)) -> ClassPrototypes:
        """Return the prototypes; ValueError when no image had a foreground. `initial`: rows to start k-means from, instead of k-means++."""
        if not self._used:
            raise ValueError(f"at least one support image must have a foreground, none of {self._seen} has; look at their masks")
        found = [region.finish(self.num_parts, self.seed, start) for region, start in zip(self._regions, initial)]
        return ClassPrototypes(foreground=found[0], background=found[1], used=tuple(self._used))


class _Region:
    def __init__(self, width: int, memory_bytes: int) -> None:
        self.rows = RowStore(width, memory_bytes)
        self.total = torch.zeros(width, dtype=torch.float64)
        self.means: list[Tensor] = []

    def add(self, pixel_NC: Tensor) -> None:
        if len(pixel_NC) == 0:
            return
        self.rows.append(pixel_NC)
        total = pixel_NC.detach().cpu().double().sum(0)
        self.total += total
        self.means.append((total / len(pixel_NC)).float())

    def finish(self, num_parts: int, seed: int, initial: Tensor | None) -> RegionPrototypes:
        none = torch.zeros(0, self.rows.width)
        if self.rows.count == 0:
            return RegionPrototypes(class_1C=none, instance_NC=none, part_KC=none)
        from ovdense.support.kmeans import lloyd

        if initial is not None:
            parts = lloyd(self.rows, self.rows.take(initial), iterations=300, tolerance=0.0)
        else:
            parts = cluster(self.rows, num_parts, seed) if num_parts else none
        mean = (self.total / self.rows.count).float()[None]
        self.rows.close()
        return RegionPrototypes(class_1C=mean, instance_NC=torch.stack(self.means), part_KC=parts)


@dataclass(frozen=True, kw_only=True)
class PrototypeBank:
    """A ClassBank of K classes whose negative rows are background, and the class that brought each row (`owner_M`).

    A background row competes only where its owner is among the classes looked for.
    """

    bank: ClassBank
    owner_M: Tensor

    def __post_init__(self) -> None:
        if self.owner_M.shape != self.bank.class_of_row_M.shape:
            raise ValueError(f"owner_M must have one entry a row, {len(self.bank.class_of_row_M)}, got {tuple(self.owner_M.shape)}")


def foreground_bank(prototypes: Sequence[ClassPrototypes], kinds: Sequence[str] = KINDS) -> list[Tensor]:
    """Return each class's raw foreground rows (M, C)."""
    return [p.foreground.rows(kinds) for p in prototypes]


def background_bank(prototypes: Sequence[ClassPrototypes], is_stuff: Sequence[bool], kinds: Sequence[str] = KINDS,
                    stuff_cosine: float | None = STUFF_COSINE) -> list[Tensor]:  # fmt: skip
    """Return each class's raw background rows (M, C) after the rule of `without_stuff`."""
    return without_stuff(foreground_bank(prototypes, kinds), [p.background.rows(kinds) for p in prototypes], is_stuff, stuff_cosine)


def without_stuff(foreground: Sequence[Tensor], background: Sequence[Tensor], is_stuff: Sequence[bool], stuff_cosine: float | None) -> list[Tensor]:
    """Return each class's background rows (M, C): none for stuff; those with cosine > `stuff_cosine` to a stuff class's foreground go.

    `stuff_cosine` None keeps the latter. Differs from the release, which keeps a class's only background row whatever it is like.
    """
    if len(is_stuff) != len(foreground):
        raise ValueError(f"is_stuff must have one entry a class, {len(foreground)}, got {len(is_stuff)}")
    stuff = [unit_rows(rows) for rows, s in zip(foreground, is_stuff) if s]
    stuff_MC = torch.cat(stuff) if stuff else None
    out = []
    for rows_MC, s in zip(background, is_stuff, strict=True):
        if s:
            rows_MC = rows_MC[:0]
        elif stuff_MC is not None and stuff_cosine is not None and len(rows_MC):
            rows_MC = rows_MC[(unit_rows(rows_MC) @ stuff_MC.T <= stuff_cosine).all(1)]
        out.append(rows_MC)
    return out


def unit_rows(rows_MC: Tensor) -> Tensor:
    """Return rows of length 1 (norms below 1e-6 count as 1e-6, as in the release)."""
    return rows_MC / rows_MC.norm(dim=-1, keepdim=True).clamp(min=_EPS)


def prototype_bank(foreground: Sequence[Tensor], background: Sequence[Tensor]) -> PrototypeBank:
    """Return the bank of each class's raw foreground and background rows; rows of length 0, which have no direction, are left out."""
    rows, classes, owners = [], [], []
    for k, (fore_MC, back_MC) in enumerate(zip(foreground, background, strict=True)):
        for rows_MC, label in ((fore_MC, k), (back_MC, ClassBank.NEGATIVE)):
            rows_MC = unit_rows(rows_MC[rows_MC.norm(dim=-1) > _EPS])
            rows.append(rows_MC)
            classes.append(torch.full((len(rows_MC),), label))
            owners.append(torch.full((len(rows_MC),), k))
    bank = ClassBank(rows_MD=torch.cat(rows), class_of_row_M=torch.cat(classes), num_classes=len(foreground),
                     background_K=torch.zeros(len(foreground), dtype=torch.bool))  # fmt: skip
    return PrototypeBank(bank=bank, owner_M=torch.cat(owners))


def class_rows(prototypes: PrototypeBank, k: int) -> ClassRows:
    """Return the foreground and background rows of class k in a bank."""
    class_M, rows_MC = prototypes.bank.class_of_row_M, prototypes.bank.rows_MD
    return rows_MC[class_M == k], rows_MC[(class_M < 0) & (prototypes.owner_M == k)]


def vocabulary_bank(rows: Sequence[ClassRows], is_stuff: Sequence[bool], stuff_cosine: float | None) -> PrototypeBank:
    """Return the bank of classes with these rows, after the rule of `without_stuff`."""
    foreground = [fore for fore, _ in rows]
    return prototype_bank(foreground, without_stuff(foreground, [back for _, back in rows], is_stuff, stuff_cosine))


def score_places(unit_PC: Tensor, prototypes: PrototypeBank, active_K: Tensor, background: bool = True) -> Tensor:
    """Return (P, 1 + K) cosines: the best background row of the active classes (-1 without one; 0 if not `background`), then the best row of each class.

    `unit_PC`: places of length 1; `active_K` bool: other classes score -1. Only rows that can matter are multiplied.
    """
    bank, owner_M = prototypes.bank, prototypes.owner_M.to(unit_PC.device)
    class_M = bank.class_of_row_M.to(unit_PC.device)
    needed_M = active_K.to(unit_PC.device)[owner_M]
    if not background:
        needed_M = needed_M & (class_M >= 0)
    out_PK = unit_PC.new_full((len(unit_PC), 1 + bank.num_classes), -1.0)
    rows_MC = bank.rows_MD.to(unit_PC)
    if not bool(needed_M.all()):
        rows_MC, class_M = rows_MC[needed_M], class_M[needed_M]
    column_M = class_M + 1
    cosine_PM = unit_PC @ rows_MC.T
    out_PK.scatter_reduce_(1, column_M.expand(len(unit_PC), -1), cosine_PM, reduce="amax")
    if not background:
        out_PK[:, 0] = 0
    return out_PK
