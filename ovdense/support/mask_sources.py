"""Class-agnostic masks of support images behind one interface, and the foreground and background made with them.

A mask source is asked with an image and its heat map and gives instance masks (N, H, W) bool at the image's size; N = 0 means none found. The release
uses CutLER with scores of at least 0.35: write its masks into a folder.
"""
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from ovdense.compat.images import upright
from ovdense.compat.weights import weights_fingerprint
from ovdense.structures import ClassEntry
from ovdense.support.masks import SupportMasks, erode, masks_from_heat, masks_from_instances, spread_heat
from ovdense.support.store import SupportImage, file_digest
from ovdense.vision.sam import load_sam


class MaskSource(Protocol):
    """What gives class-agnostic masks."""

    def __call__(self, image: np.ndarray, heat_HW: Tensor, support: SupportImage) -> Tensor: ...

    def settings(self) -> dict[str, Any]: ...


class FolderMasks:
    """Masks in a folder: STEM.png, whose values are instance numbers (0 none), or a folder STEM of one PNG an instance; STEM is the image file's.

    Sets of several classes, whose files have the same names, have a folder each of the set's name. No file means no instance. Masks of another
    size are brought to the image's (nearest).
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).expanduser()
        if not self.folder.is_dir():
            raise FileNotFoundError(f"a folder of masks must exist, got {self.folder}")
        self._digests: dict[tuple[Path, int, int], str] = {}  # of files as they were: settings are asked for each class

    def __call__(self, image: np.ndarray, heat_HW: Tensor, support: SupportImage) -> Tensor:
        height, width = image.shape[:2]
        for base in (self.folder / support.path.parent.name, self.folder):
            numbered, folder = base / f"{support.path.stem}.png", base / support.path.stem
            if numbered.is_file():
                numbers = _pixels(numbered)
                if numbers.ndim != 2:
                    raise ValueError(f"{numbered} must have one instance number a pixel, got an image of shape {numbers.shape}")
                masks = [numbers == n for n in np.unique(numbers) if n]
                break
            if folder.is_dir():
                masks = [_pixels(p, "L") > 0 for p in sorted(folder.glob("*.png"))]
                break
        else:
            masks = []
        resized = [cv2.resize(m.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST) > 0 for m in masks]
        return torch.from_numpy(np.stack(resized)) if resized else torch.zeros(0, height, width, dtype=torch.bool)

    def settings(self) -> dict[str, Any]:
        digest, before, self._digests = hashlib.sha256(), self._digests, {}
        for path in sorted(self.folder.rglob("*.png")):
            stat = path.stat()
            key = path, stat.st_size, stat.st_mtime_ns
            self._digests[key] = before.get(key) or file_digest(path)
            digest.update(f"{path.relative_to(self.folder)} {self._digests[key]}".encode())
        return {"masks": "folder", "content": digest.hexdigest()[:16]}


class SegmentAnythingMasks:
    """segment-anything's automatic masks (extra `sam`), those of at least `min_area` of the image.

    `weights`: a published file, whose size is found out (`ovdense.vision.sam.load_sam`), or a network that is there already. `generator`: settings of
    `SamAutomaticMaskGenerator`, such as dict(points_per_side=16).
    """

    def __init__(self, weights: str | Path | nn.Module, *, device: str | None = None, min_area: float = 0.005, generator: dict[str, Any] | None = None) -> None:
        network = weights.eval() if isinstance(weights, nn.Module) else load_sam(weights, device)
        from segment_anything import SamAutomaticMaskGenerator  # load_sam says how to install it

        self._generate = SamAutomaticMaskGenerator(network, **(generator or {}))
        self.min_area = min_area
        self._settings = {"masks": "segment-anything", "weights": weights_fingerprint(network), "min_area": min_area, "generator": generator or {}}

    def __call__(self, image: np.ndarray, heat_HW: Tensor, support: SupportImage) -> Tensor:
        least = self.min_area * image.shape[0] * image.shape[1]
        found = [m["segmentation"] for m in self._generate.generate(image) if m["area"] >= least]
        return torch.from_numpy(np.stack(found)) if found else torch.zeros(0, *image.shape[:2], dtype=torch.bool)

    def settings(self) -> dict[str, Any]:
        return self._settings


class GrabCutMasks:
    """One mask by GrabCut (OpenCV), begun from the heat map: needs no weights, follows edges that a coarse attention map does not see.

    Heat above `sure_above` is object, below `sure_below` is not, between them colours decide. Images are read at `max_px` on the long side at most
    (the time grows with the pixels).
    """

    def __init__(self, *, sure_above: float = 0.8, sure_below: float = 0.15, likely_above: float = 0.5, iterations: int = 3, max_px: int = 160) -> None:
        if not 0 <= sure_below < likely_above < sure_above <= 1:
            raise ValueError(f"0 <= sure_below < likely_above < sure_above <= 1 must hold, got {sure_below}, {likely_above}, {sure_above}")
        self.sure_above, self.sure_below, self.likely_above, self.iterations, self.max_px = sure_above, sure_below, likely_above, iterations, max_px

    def __call__(self, image: np.ndarray, heat_HW: Tensor, support: SupportImage) -> Tensor:
        height, width = image.shape[:2]
        scale = min(1.0, self.max_px / max(height, width))
        small = (max(1, round(width * scale)), max(1, round(height * scale)))
        inside = self._cut(cv2.resize(image, small, interpolation=cv2.INTER_AREA), cv2.resize(heat_HW.cpu().numpy(), small, interpolation=cv2.INTER_AREA))
        inside = cv2.resize(inside.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST) > 0
        return torch.from_numpy(inside)[None] if inside.any() else torch.zeros(0, height, width, dtype=torch.bool)

    def _cut(self, image: np.ndarray, heat: np.ndarray) -> np.ndarray:
        """Return (H, W) bool of an image and its heat."""
        label = np.where(heat > self.likely_above, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
        label[heat > self.sure_above], label[heat < self.sure_below] = cv2.GC_FGD, cv2.GC_BGD
        inside = np.isin(label, (cv2.GC_FGD, cv2.GC_PR_FGD))
        if inside.any() and not inside.all():
            cv2.setRNGSeed(0)
            cv2.grabCut(np.ascontiguousarray(image[..., ::-1]), label, None, np.zeros((1, 65)), np.zeros((1, 65)), self.iterations, cv2.GC_INIT_WITH_MASK)
            inside = np.isin(label, (cv2.GC_FGD, cv2.GC_PR_FGD))
        return inside

    def settings(self) -> dict[str, Any]:
        return {"masks": "grabcut", "sure_above": self.sure_above, "sure_below": self.sure_below, "likely_above": self.likely_above,
                "iterations": self.iterations, "max_px": self.max_px}  # fmt: skip


HeatOf = Callable[[np.ndarray, ClassEntry], Tensor]


class SupportMasker:
    """Foreground and background of any support image.

    Masks that came with the image (`foreground` in its details: a PNG beside it, not zero inside) are taken as they are, the background is then all
    else without its rim. Otherwise its stored heat map, or, for photos that have none, `heat_of` (image, class), is ranked with
    the masks of `source` (None: heat alone).
    """

    def __init__(self, source: MaskSource | None = None, heat_of: HeatOf | None = None, heat_settings: dict[str, Any] | None = None) -> None:
        self.source, self.heat_of, self.heat_settings = source, heat_of, heat_settings or {}
        self._kept: dict[tuple[str, ...], SupportMasks] = {}  # of the last class: several extractors ask for the same
        self._kept_by: dict[str, Any] = {}

    def settings(self) -> dict[str, Any]:
        """Return what masks depend on besides the images, as it is now: what was kept of other settings is forgotten."""
        found = {**(self.source.settings() if self.source else {"masks": "heat"}), "heat": self.heat_settings}
        if found != self._kept_by:
            self._kept.clear()
            self._kept_by = found
        return found

    def __call__(self, support: SupportImage, entry: ClassEntry, image: np.ndarray | None = None) -> SupportMasks:
        key = entry.name, str(support.path), support.sha256, json.dumps(dict(support.details), sort_keys=True)
        if key not in self._kept:
            if any(name != entry.name for name, *_ in self._kept):
                self._kept.clear()
            self._kept[key] = self._masks(support, entry, support.read() if image is None else image)
        return self._kept[key]

    def _masks(self, support: SupportImage, entry: ClassEntry, image: np.ndarray) -> SupportMasks:
        foreground = given_mask(support, image)
        if foreground is not None:
            return SupportMasks(foreground_HW=foreground, background_HW=erode(~foreground))
        heat_HW = self.heat(support, entry, image)
        if self.source is None:
            return masks_from_heat(heat_HW)
        return masks_from_instances(heat_HW, self.source(image, heat_HW, support))

    def heat(self, support: SupportImage, entry: ClassEntry, image: np.ndarray) -> Tensor:
        """Return the class's heat in 0..1 at the image's size."""
        stored = support.details.get("heat")
        if stored is not None:
            raw_HW = _heat_of(support.path.parent / stored)
        elif self.heat_of is not None:
            raw_HW = self.heat_of(image, entry)
        else:
            raise ValueError(f"{support.path} must come with a heat map or a mask; give heat_of=, such as a dense encoder's similarity to the name")
        return spread_heat(F.relu(raw_HW)[None].float(), tuple(image.shape[:2]))[0]


def given_mask(support: SupportImage, image: np.ndarray) -> Tensor | None:
    """Return the mask (H, W) bool that came with an image, None where none did; ValueError where it is not of the image's size."""
    given = support.details.get("foreground")
    if given is None:
        return None
    path = support.path.parent / given
    inside = _mask_of(path)
    if inside.shape != image.shape[:2]:
        raise ValueError(f"{path}: a mask must have its image's size {image.shape[:2]}, got {inside.shape}")
    return torch.from_numpy(inside)


def _mask_of(path: Path) -> np.ndarray:
    """Return (H, W) bool, where the picture is not black; FileNotFoundError or ValueError names it."""
    if not path.is_file():
        raise FileNotFoundError(f"the mask of a support image must be an existing file, got {path}")
    return _pixels(path, "L") > 0


def _pixels(path: Path, mode: str | None = None) -> np.ndarray:
    """Return the pixels of a mask, upright, in Pillow's `mode` (None: as they are stored); ValueError names a file that is none."""
    try:
        with Image.open(path) as picture:
            turned = upright(picture)
            return np.asarray(turned.convert(mode) if mode else turned)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} must be the mask of a support image, cannot be read: {error}") from None


def _heat_of(path: Path) -> Tensor:
    """Return the (h, w) numbers of a stored heat map; FileNotFoundError or ValueError names it. Nothing in the file can run code."""
    if not path.is_file():
        raise FileNotFoundError(f"the heat map of a support image must be an existing file, got {path}")
    try:
        heat_HW = np.load(path, allow_pickle=False, mmap_mode="r")  # a map: what the head promises and the file does not hold is refused
        if not isinstance(heat_HW, np.ndarray) or heat_HW.ndim != 2 or heat_HW.dtype.kind != "f" or not np.isfinite(heat_HW).all():
            raise ValueError("it must hold finite numbers of shape (H, W)")
        return torch.from_numpy(np.array(heat_HW))
    except (OSError, ValueError, EOFError, SyntaxError, TypeError, AttributeError, OverflowError, MemoryError) as error:
        raise ValueError(f"{path} must be a heat map of a support image, but {str(error).splitlines()[0][:200] or type(error).__name__}; "
                         f"remove {path.parent}, the set is made again") from None
