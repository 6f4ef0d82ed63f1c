"""Prototypes on disk, a file a class, known by all that they were made with; adding a class to a vocabulary builds that class only.

A file is a `.safetensors` of the raw rows with its provenance as metadata. Nothing that is read runs code.
"""
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ovdense.compat.atomic import replace_file
from ovdense.compat.json_text import loads
from ovdense.compat.paths import cache_root
from ovdense.structures import ClassBank, ClassEntry
from ovdense.support.kmeans import MEMORY_BYTES
from ovdense.support.mask_sources import SupportMasker
from ovdense.support.prototypes import NUM_PARTS, ClassPrototypes, PrototypeBank, PrototypeBuilder, RegionPrototypes
from ovdense.support.store import SupportSet, known_as
from ovdense.vision.extractors import FeatureExtractor

FORMAT = 1
BANK_FORMATS = (1, 2)  # 1: without the background rows that stuff of its own vocabulary ruled out
MASK_RULES = 2  # raised when the same images and settings give other masks: what was made by others is made anew


class PrototypeFiles:
    """Prototypes under `folder` (default: prototypes in the cache root)."""

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = Path(folder) if folder is not None else cache_root() / "prototypes"

    def path(self, name: str, made_with: Mapping[str, Any]) -> Path:
        about = {"format": FORMAT, "mask_rules": MASK_RULES, "name": name, "made_with": made_with}
        return self.folder / f"{known_as(name, about)}.safetensors"

    def find(self, name: str, made_with: Mapping[str, Any]) -> ClassPrototypes | None:
        """Return the prototypes of class `name` made with these very things, or None; ValueError for a damaged file."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = self.path(name, made_with)
        if not path.is_file():
            return None
        try:
            tensors = load_file(path)
            regions = [RegionPrototypes(**{f.name: tensors[f"{r}.{f.name}"] for f in fields(RegionPrototypes)}) for r in ("foreground", "background")]
            return ClassPrototypes(foreground=regions[0], background=regions[1], used=tuple(tensors["used"].tolist()))
        except (SafetensorError, KeyError, ValueError) as error:
            raise ValueError(f"{path} must hold prototypes, but is damaged ({error}); remove it, they are made again") from None

    def put(self, name: str, made_with: Mapping[str, Any], prototypes: ClassPrototypes) -> Path:
        """Write the prototypes, whole or not at all."""
        regions = {"foreground": prototypes.foreground, "background": prototypes.background}
        tensors = {f"{r}.{f.name}": getattr(region, f.name).contiguous() for r, region in regions.items() for f in fields(region)}
        tensors["used"] = torch.tensor(prototypes.used, dtype=torch.int64)
        path = self.path(name, made_with)
        _write(path, tensors, {"name": name, "made_with": json.dumps(made_with, sort_keys=True, ensure_ascii=False)})
        return path


def _write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    from safetensors.torch import save

    replace_file(path, save(dict(tensors), dict(metadata)))


def support_features(extractor: FeatureExtractor, pixels: np.ndarray) -> Tensor:
    """Return the features (C, h, w), on the CPU, of a support image (H, W, 3) uint8; it is read where the extractor is."""
    device = next((t.device for t in chain(extractor.parameters(), extractor.buffers())), torch.device("cpu"))
    return extractor.support(torch.tensor(pixels, device=device).permute(2, 0, 1)[None].float() / 255)[0].cpu()


def build_prototypes(
    entry: ClassEntry, support: SupportSet, extractor: FeatureExtractor, masker: SupportMasker, files: PrototypeFiles | None = None, *,
    num_parts: int = NUM_PARTS, seed: int = 0, memory_bytes: int = MEMORY_BYTES,
) -> ClassPrototypes:
    """Return the class's prototypes, read from `files` if they were made before with the same images, masks, extractor and numbers."""
    made_with = {"images": support.fingerprint(), "set": dict(support.made_with), "extractor": extractor.fingerprint(), "masks": masker.settings(),
                 "num_parts": num_parts, "seed": seed}  # fmt: skip
    found = files.find(entry.name, made_with) if files else None
    if found is not None:
        return found
    builder = PrototypeBuilder(num_parts=num_parts, seed=seed, memory_bytes=memory_bytes)
    for image in support.images:
        pixels = image.read()
        masks = masker(image, entry, pixels)
        builder.add(support_features(extractor, pixels), masks.foreground_HW, masks.background_HW)
    try:
        prototypes = builder.finish()
    except ValueError as error:
        raise ValueError(f"class {entry.name!r}: {error}") from None
    if files:
        files.put(entry.name, made_with, prototypes)
    return prototypes


def save_bank(path: str | Path, banks: Sequence[PrototypeBank], names: Sequence[str], provenance: Mapping[str, Any]) -> None:
    """Write the banks of classes, one an extractor and before any rule of stuff, with what they were made with (a `.safetensors`)."""
    tensors = {}
    for n, b in enumerate(banks):
        tensors |= {f"{n}.rows": b.bank.rows_MD.cpu().contiguous(), f"{n}.class_of_row": b.bank.class_of_row_M.cpu(), f"{n}.owner": b.owner_M.cpu()}
    _write(Path(path), tensors, {"format": f"ovdense prototypes {BANK_FORMATS[-1]}", "names": json.dumps(list(names), ensure_ascii=False),
                                 "provenance": json.dumps(dict(provenance), sort_keys=True, ensure_ascii=False)})  # fmt: skip


def load_bank(path: str | Path) -> tuple[list[PrototypeBank], tuple[str, ...], dict[str, Any]]:
    """Return (banks, class names, provenance) of a file of `save_bank`; ValueError for any other file."""
    from safetensors import SafetensorError, safe_open

    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"a file of prototypes must exist, got {path}; tools/build_support_set.py writes one")
    try:
        with safe_open(path, framework="pt") as file:
            about, tensors = file.metadata() or {}, {k: file.get_tensor(k) for k in file.keys()}
        names, provenance = tuple(loads(about["names"])), loads(about["provenance"])
        if about["format"] not in [f"ovdense prototypes {n}" for n in BANK_FORMATS]:
            raise ValueError(f"its format is {about['format']!r}")
        if not isinstance(provenance, dict) or len(set(names)) != len(names) or not all(isinstance(n, str) for n in names):
            raise ValueError("its names must be texts, each once, and its provenance an object")
        banks = []
        for n in range(len(tensors) // 3):
            bank = ClassBank(rows_MD=tensors[f"{n}.rows"], class_of_row_M=tensors[f"{n}.class_of_row"], num_classes=len(names),
                             background_K=torch.zeros(len(names), dtype=torch.bool))  # fmt: skip
            banks.append(PrototypeBank(bank=bank, owner_M=tensors[f"{n}.owner"]))
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise ValueError(f"{path} must be a file of prototypes, but is not ({error}); tools/build_support_set.py writes one") from None
    return banks, names, provenance
