"""Where a class's support images come from besides a text-to-image pipeline: folders of the user's own pictures, and the heat of a text in photos.

Every source gives `support_set(entry)`, so that prototypes are made of them by one way.
"""
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ovdense.compat.images import SUFFIXES
from ovdense.structures import ClassEntry
from ovdense.support.store import SupportImage, SupportSet, file_digest

MASK_SUFFIX = ".mask.png"


class SupportSource(Protocol):
    """What gives a class's support images."""

    def support_set(self, entry: ClassEntry) -> SupportSet: ...


class FolderSupport:
    """The user's own pictures: `folder`/NAME/*.jpg (or png, webp, bmp) of the class NAME (its name, or its noun), few-shot by examples.

    A picture a.jpg may have a mask a.mask.png beside it, not zero where the class is; without one the class is looked for in it. `most`: only so many
    pictures, the first by name.
    """

    def __init__(self, folder: str | Path, *, most: int | None = None) -> None:
        self.folder, self.most = Path(folder).expanduser(), most
        if not self.folder.is_dir():
            raise FileNotFoundError(f"a folder of example pictures must exist, got {self.folder}")

    def support_set(self, entry: ClassEntry) -> SupportSet:
        places = [self.folder / n for n in dict.fromkeys((entry.name, entry.noun, entry.noun.replace(" ", "_"), *entry.synonyms)) if (self.folder / n).is_dir()]
        if not places:
            there = sorted(p.name for p in self.folder.iterdir() if p.is_dir())
            raise FileNotFoundError(f"{self.folder} must have a folder of pictures named {entry.name!r} (or {entry.noun!r}), it has {there[:8]}")
        files = sorted(p for p in places[0].iterdir() if p.suffix.lower() in SUFFIXES and not p.name.endswith(MASK_SUFFIX))[: self.most]
        if not files:
            raise ValueError(f"{places[0]} must hold at least one picture ({', '.join(SUFFIXES)}), it holds none")
        images = tuple(self._image(path.absolute()) for path in files)
        return SupportSet(name=entry.name, images=images, made_with={"kind": "folder", "masks": [i.details.get("foreground_sha256") for i in images]})

    @staticmethod
    def _image(path: Path) -> SupportImage:
        mask = path.with_name(path.stem + MASK_SUFFIX)
        details = {"foreground": mask.name, "foreground_sha256": file_digest(mask)} if mask.is_file() else {}
        return SupportImage(path=path, sha256=file_digest(path), details=details)


class TextHeat:
    """Heat of a class in a photo: cosine of a dense encoder's places with the class's name, for photos without an attention map."""

    def __init__(self, encoder: Any) -> None:
        self.encoder = encoder

    def settings(self) -> dict[str, Any]:
        return {"heat": "text", "encoder": self.encoder.fingerprint()}

    def __call__(self, image: np.ndarray, entry: ClassEntry) -> Tensor:
        row_D = self.encoder.encode_text([entry.noun]).rows_MD[0]
        places_DHW = self.encoder.encode_dense(normalised(image, self.encoder)).tensor_BCHW[0]
        cosine_HW = torch.einsum("dhw,d->hw", places_DHW, row_D.to(places_DHW))
        return cosine_HW - cosine_HW.min()


def normalised(image: np.ndarray, encoder: Any) -> Tensor:
    """Return (1, 3, H, W) of an (H, W, 3) uint8 image, as the encoder wants it."""
    mean, std = (torch.tensor(v)[:, None, None] for v in (encoder.mean, encoder.std))
    return ((torch.tensor(image).permute(2, 0, 1).float() - mean) / std)[None]
