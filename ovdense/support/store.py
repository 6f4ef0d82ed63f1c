"""Support sets: the images that stand for a class, retrieved or generated, on disk with where each came from.

A set is known by its class and by everything it was made with (`made_with`): the same request finds it, another makes
a new one. Images are added one by one and a set is complete only when it is finished, so that work that was killed goes on
where it stopped. Nothing that is read runs code.
"""
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ovdense.compat.atomic import alone_in, append_whole, is_held, remove_left, replace_file
from ovdense.compat.images import read_upright, write_picture
from ovdense.compat.json_text import loads
from ovdense.compat.paths import cache_root

FORMAT = 1
MANIFEST = "support.json"
PARTIAL = "images.jsonl"


@dataclass(frozen=True, kw_only=True)
class SupportImage:
    """One image of a support set: its file, the hash of the file's content, and how it came there (similarity, seed, prompt ...)."""

    path: Path
    sha256: str
    details: Mapping[str, Any] = field(default_factory=dict)

    def read(self) -> np.ndarray:
        """Return (H, W, 3) uint8 RGB; ValueError when the file is not the one that was put in."""
        if file_digest(self.path) != self.sha256:
            raise ValueError(f"{self.path} must be the image that the support set was made of, but its content has changed; make the set anew")
        return read_upright(self.path)


@dataclass(frozen=True, kw_only=True)
class SupportSet:
    """The images of one class, best first where they have an order; `made_with` is all that the set depends on, as JSON values."""

    name: str
    images: tuple[SupportImage, ...]
    made_with: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.images)

    def fingerprint(self) -> str:
        """Return a hash of the images in order: the key of what is computed from them."""
        return hashlib.sha256(json.dumps([self.name, [i.sha256 for i in self.images]]).encode()).hexdigest()[:32]


class SupportStore:
    """Support sets under `folder` (default: support in the cache root), a folder a set."""

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = Path(folder) if folder is not None else cache_root() / "support"

    def find(self, name: str, made_with: Mapping[str, Any]) -> SupportSet | None:
        """Return the finished set of class `name` made with these very things, or None.

        ValueError when its record is damaged. Images that have gone since are found out when they are read.
        """
        path = self.place(name, made_with) / MANIFEST
        if not path.is_file():
            return None
        try:
            content = loads(path.read_text(encoding="utf8"))
            images = tuple(_image_of(row, path.parent) for row in content["images"])
            return SupportSet(name=content["name"], images=images, made_with=content["made_with"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} must be the record of a support set, but is damaged ({error!r}); remove {path.parent}") from None

    def find_whole(self, name: str, made_with: Mapping[str, Any]) -> SupportSet | None:
        """Return the finished set as `find` does, but None where an image, or a file that came with one, has gone."""
        found = self.find(name, made_with)
        return found if found is not None and all(i.path.is_file() and _beside_are_there(i) for i in found.images) else None

    @contextmanager
    def alone(self, name: str, made_with: Mapping[str, Any]) -> Iterator[None]:
        """Hold the set while the block lasts; other processes that ask for the same wait, and should look for it then."""
        with alone_in(self.place(name, made_with)):
            yield

    def is_held(self, name: str, made_with: Mapping[str, Any]) -> bool:
        """Return whether somebody is making the set now (`alone`)."""
        return is_held(self.place(name, made_with))

    def begin(self, name: str, made_with: Mapping[str, Any]) -> "SupportWriter":
        """Return a writer for this set; what an unfinished attempt left there is kept (`len(writer)` images)."""
        return SupportWriter(self.place(name, made_with), name, made_with)

    def put(self, name: str, made_with: Mapping[str, Any], images: Sequence[tuple[Path | np.ndarray, Mapping[str, Any]]]) -> SupportSet:
        """Return the set of these (file or RGB array, details), stored anew."""
        writer = self.begin(name, made_with)
        writer.clear()
        for image, details in images:
            writer.add(image, **details)
        return writer.finish()

    def place(self, name: str, made_with: Mapping[str, Any]) -> Path:
        """Return the folder of a set, whether it is there or not."""
        return self.folder / known_as(name, {"format": FORMAT, "name": name, "made_with": made_with})


class SupportWriter:
    """Adds images to a set, one at a time; each is there for good when `add` returns."""

    def __init__(self, folder: Path, name: str, made_with: Mapping[str, Any]) -> None:
        self.folder, self.name, self.made_with = folder, name, dict(made_with)
        folder.mkdir(parents=True, exist_ok=True)
        remove_left(folder)
        self._rows: list[dict] = list(_there_in_order(folder))
        self._rewrite()

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, image: Path | str | np.ndarray, **details: Any) -> SupportImage:
        """Add a file, which is referred to by its absolute path, or an (H, W, 3) uint8 RGB array, which is stored as PNG."""
        if isinstance(image, np.ndarray):
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
                raise ValueError(f"an image array must be uint8 of shape (H, W, 3), RGB, got {image.dtype} {image.shape}")
            file = f"{len(self._rows):05d}.png"
            write_picture(self.folder / file, image)
        else:
            file = str(Path(image).expanduser().absolute())
        row = {"file": file, "sha256": file_digest(self.folder / file), "details": details}
        append_whole(self.folder / PARTIAL, json.dumps(row, ensure_ascii=False) + "\n")
        self._rows.append(row)
        return _image_of(row, self.folder)

    def clear(self) -> None:
        """Forget what an earlier attempt left."""
        self._rows = []
        (self.folder / MANIFEST).unlink(missing_ok=True)
        self._rewrite()

    def finish(self) -> SupportSet:
        """Declare the set complete and return it; ValueError for an empty one."""
        if not self._rows:
            raise ValueError(f"a support set must have at least one image, got none for {self.name!r}")
        content = {"format": FORMAT, "name": self.name, "made_with": self.made_with, "images": self._rows}
        replace_file(self.folder / MANIFEST, json.dumps(content, indent=1, ensure_ascii=False))
        return SupportSet(name=self.name, images=tuple(_image_of(r, self.folder) for r in self._rows), made_with=self.made_with)

    def _rewrite(self) -> None:
        replace_file(self.folder / PARTIAL, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in self._rows))


def known_as(name: str, about: Mapping[str, Any]) -> str:
    """Return the name on disk of what is made for class `name`, told apart by all of `about` (JSON values)."""
    slug = re.sub(r"[^a-z0-9]+", "_", name.casefold()).strip("_")[:40] or "class"
    return f"{slug}-{hashlib.sha256(json.dumps(about, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]}"


def _image_of(row: Mapping[str, Any], folder: Path) -> SupportImage:
    return SupportImage(path=folder / row["file"], sha256=str(row["sha256"]), details=dict(row["details"]))


def _there_in_order(folder: Path) -> Iterator[dict]:
    """Yield the rows of an unfinished attempt up to the first that is not the next image, or whose files are not there as they were."""
    for n, row in enumerate(_whole_rows(folder / PARTIAL)):
        path = folder / row["file"]
        if row["file"] != f"{n:05d}.png" and not Path(row["file"]).is_absolute():  # two processes wrote at once
            return
        if not path.is_file() or file_digest(path) != row["sha256"] or not _beside_are_there(_image_of(row, folder)):
            return
        yield row


def _beside_are_there(image: SupportImage) -> bool:
    """Return whether the files that came with an image (its heat map, its mask) are there."""
    return all((image.path.parent / image.details[kind]).is_file() for kind in ("heat", "foreground") if image.details.get(kind) is not None)


def _whole_rows(path: Path):
    """Yield the rows of a file of JSON lines up to the first that was cut short."""
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf8").splitlines():
        try:
            row = loads(line)
        except ValueError:
            return
        if not isinstance(row, dict) or not isinstance(row.get("file"), str) or not isinstance(row.get("details"), dict) or "sha256" not in row:
            return
        yield row


def file_digest(path: Path) -> str:
    """Return the sha256 of an image file's content; FileNotFoundError where there is none."""
    if not path.is_file():
        raise FileNotFoundError(f"an image must be an existing file, got {path}")
    return hashlib.sha256(path.read_bytes()).hexdigest()
