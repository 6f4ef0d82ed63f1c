"""Where a class's support images come from besides a text-to-image pipeline: folders of the user's own pictures, and the heat of a text in photos.

Every source gives `support_set(entry)`, so that prototypes are made of them by one way.
"""
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ovdense.compat.images import SUFFIXES, image_files
from ovdense.structures import ClassEntry
from ovdense.support.store import SupportImage, SupportSet, file_digest

MASK_SUFFIX = ".mask.png"


class SupportSource(Protocol):
    """What gives a class's support images. One with `together` true is asked for the same class by all ranks at once, others in any order."""

    def support_set(self, entry: ClassEntry) -> SupportSet: ...


class FolderSupport:
    """The user's own pictures: `folder`/NAME/*.jpg (or png, webp, bmp) of the class NAME (its name, or its noun; "_" for "/"), few-shot by examples.

    A picture a.jpg may have a mask a.mask.png beside it, not zero where the class is; without one the class is looked for in it. `most`: only so many
    pictures, the first by name.
    """

    def __init__(self, folder: str | Path, *, most: int | None = None) -> None:
        self.folder, self.most = Path(folder).expanduser(), most
        if not self.folder.is_dir():
            raise FileNotFoundError(f"a folder of example pictures must exist, got {self.folder}")

    def classes(self) -> list[str]:
        """Return the names of its folders, sorted; ValueError where it has none."""
        found = sorted(p.name for p in self.folder.iterdir() if p.is_dir() and not p.name.startswith("."))
        if not found:
            raise ValueError(f"{self.folder} must have a folder of pictures for each class, it has none")
        return found

    def support_set(self, entry: ClassEntry) -> SupportSet:
        said = [n.replace("/", "_").replace("\\", "_") for n in (entry.name, entry.noun, entry.noun.replace(" ", "_"), *entry.synonyms)]
        places = [self.folder / n for n in dict.fromkeys(said) if n not in (".", "..") and (self.folder / n).is_dir()]
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


class ListedSupport:
    """The user's own pictures by class name: {"my mug": ["a.jpg", "b.jpg"], "cat": "photos/cats"}; a folder means all pictures in it.

    Masks *.mask.png beside the pictures are used as in `FolderSupport`. FileNotFoundError or ValueError names what is missing.
    """

    def __init__(self, pictures: Mapping[str, str | Path | Sequence[str | Path]]) -> None:
        self.files: dict[str, tuple[Path, ...]] = {}
        for name, given in pictures.items():
            paths = [given] if isinstance(given, str | Path) else list(given)
            files = [f for p in paths for f in image_files(p) if not f.name.endswith(MASK_SUFFIX)]
            if not files:
                raise ValueError(f"class {name!r} must have at least one example picture, got none")
            self.files[name] = tuple(f.absolute() for f in files)

    def support_set(self, entry: ClassEntry) -> SupportSet:
        if entry.name not in self.files:
            raise FileNotFoundError(f"class {entry.name!r} has no example pictures; there are some for {list(self.files)[:8]}")
        images = tuple(FolderSupport._image(path) for path in self.files[entry.name])
        return SupportSet(name=entry.name, images=images, made_with={"kind": "folder", "masks": [i.details.get("foreground_sha256") for i in images]})


def example_pictures(asked: Any) -> tuple[SupportSource, tuple[str, ...]] | None:
    """Return the source and the class names of what is asked for by example pictures, None for anything else.

    Example pictures are a folder with a folder of pictures for each class (and no Pascal VOC Annotations), or a mapping from names to pictures.
    """
    if isinstance(asked, Mapping):
        is_picture = [_is_picture(p) for given in asked.values() for p in (given if isinstance(given, Iterable) and not isinstance(given, str) else [given])]
        if is_picture and any(is_picture) and not all(is_picture):
            raise ValueError("a mapping must give example pictures or descriptions for all its classes, got some of both")
        return (ListedSupport(asked), tuple(asked)) if is_picture and all(is_picture) else None
    if not isinstance(asked, str | Path) or not str(asked).strip() or not Path(asked).expanduser().is_dir():
        return None
    folder = Path(asked).expanduser()
    names = [p.name for p in sorted(folder.iterdir()) if p.is_dir() and any(f.suffix.lower() in SUFFIXES for f in p.iterdir())]
    return (FolderSupport(folder), tuple(names)) if names and not (folder / "Annotations").is_dir() else None


def _is_picture(given: Any) -> bool:
    return isinstance(given, Path) or isinstance(given, str) and Path(given).suffix.lower() in SUFFIXES and Path(given).expanduser().is_file()


class TextHeat:
    """Heat of a class in a photo: how far the cosine of a dense encoder's places with the class's name is above the photo's mean, 0 below it.

    For photos without an attention map. What is below the mean is cold, as most of an attention map is: on 36 masked photos of Pascal VOC's classes
    half of the foreground (0.50) is then the class and two thirds of the photo serve as background, against 0.34 and 0.12 above the least cosine.
    """

    def __init__(self, encoder: Any) -> None:
        self.encoder = encoder

    def settings(self) -> dict[str, Any]:
        return {"heat": "text above its mean", "encoder": self.encoder.fingerprint()}

    def __call__(self, image: np.ndarray, entry: ClassEntry) -> Tensor:
        row_D = self.encoder.encode_text([entry.noun]).rows_MD[0]
        places_DHW = self.encoder.encode_dense(normalised(image, self.encoder).to(self.encoder.device)).tensor_BCHW[0]
        cosine_HW = torch.einsum("dhw,d->hw", places_DHW, row_D.to(places_DHW))
        return (cosine_HW - cosine_HW.mean()).clamp(min=0)


def normalised(image: np.ndarray, encoder: Any) -> Tensor:
    """Return (1, 3, H, W) of an (H, W, 3) uint8 image, as the encoder wants it."""
    mean, std = (torch.tensor(v)[:, None, None] for v in (encoder.mean, encoder.std))
    return ((torch.tensor(image).permute(2, 0, 1).float() - mean) / std)[None]
