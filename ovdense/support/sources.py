"""Where a class's support images come from besides a text-to-image pipeline: folders of the user's own pictures, or photos that a text retrieves.

Every source gives `support_set(entry)`, so that prototypes are made of them by one way.
"""
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ovdense.compat.images import SUFFIXES, read_upright
from ovdense.structures import ClassEntry
from ovdense.support.store import SupportImage, SupportSet

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
        details = {"foreground": mask.name, "foreground_sha256": _digest(mask)} if mask.is_file() else {}
        return SupportImage(path=path, sha256=_digest(path), details=details)


class RetrievedSupport:
    """The photos of a collection that an image-text encoder finds nearest to the class's name.

    `encoder`: a dual encoder, or its config; `files`: the photos, or a folder of them. Their vectors are computed once, `num_images` are taken,
    the best first, by cosine with "a photo of a NAME".
    """

    def __init__(self, encoder: Any, *, files: str | Path | Sequence[str | Path], num_images: int = 16) -> None:
        from ovdense.registry import MODELS

        if num_images < 1:
            raise ValueError(f"num_images must be at least 1, got {num_images}")
        self.encoder = MODELS.build(encoder) if isinstance(encoder, dict) else encoder
        if isinstance(files, (str, Path)):
            folder = Path(files).expanduser()
            if not folder.is_dir():
                raise FileNotFoundError(f"a folder of photos must exist, got {folder}")
            files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
        if not files:
            raise ValueError("there must be at least one photo to retrieve from, got none")
        self.files, self.num_images = [Path(f).absolute() for f in files], num_images
        self._rows: Tensor | None = None
        self._digests: list[str] = []

    def rows(self) -> Tensor:
        """Return a unit vector a photo, (N, D)."""
        if self._rows is None:
            self._rows = torch.cat([self.encoder.encode_image(normalised(read_upright(f), self.encoder)) for f in self.files])
            self._digests = [_digest(f) for f in self.files]
        return self._rows

    def support_set(self, entry: ClassEntry) -> SupportSet:
        cosine_N = self.rows() @ self.encoder.encode_text([entry.noun]).rows_MD[0].to(self.rows())
        best = cosine_N.argsort(descending=True, stable=True)[: self.num_images].tolist()
        images = tuple(SupportImage(path=self.files[n], sha256=self._digests[n], details={"similarity": round(float(cosine_N[n]), 6)}) for n in best)
        return SupportSet(name=entry.name, images=images, made_with={"kind": "retrieved", "encoder": self.encoder.fingerprint(), "archive": len(self.files)})


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
    return ((torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).float() - mean) / std)[None]


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
