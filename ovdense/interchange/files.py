"""What the formats of one file an image share: names of files that stay in their folder, sizes of images, numbers as text."""
import math
import reprlib
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image, UnidentifiedImageError

from ovdense.compat.images import SUFFIXES, upright_size
from ovdense.interchange.records import AnnotatedImage, Polygon

CIRCLE_POINTS = 64


def inside(file_name: str, suffix: str | None = None) -> PurePosixPath:
    """Return the relative path of an image, with another suffix if one is given; ValueError for one that leads out of its folder."""
    path = PurePosixPath(file_name.replace("\\", "/"))
    if not file_name.strip() or path.is_absolute() or ".." in path.parts or path.name in ("", ".") or ":" in path.parts[0] or "\0" in file_name:
        raise ValueError(f"an image's file name must be a path below the folder of images, got {file_name!r}; change it in the annotations")
    return path if suffix is None else path.with_suffix(suffix)


def places(images: Iterable[AnnotatedImage], folder: Path, suffix: str) -> list[Path]:
    """Return folder/NAME.suffix of each image; ValueError where two images would share one file."""
    found: dict[Path, str] = {}
    for image in images:
        path = folder / inside(image.file_name, suffix)
        if path in found:
            raise ValueError(f"the images {found[path]!r} and {image.file_name!r} would share {path.name}; rename one")
        found[path] = image.file_name
    return list(found)


def image_files(folder: Path) -> list[Path]:
    """Return the image files below a folder, sorted; FileNotFoundError where the folder is missing."""
    if not folder.is_dir():
        raise FileNotFoundError(f"the folder of images must exist, got {folder}")
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())


def image_size(path: Path) -> tuple[int, int]:
    """Return (height, width) of an image file, upright (its EXIF rotation applied), without decoding those that are upright."""
    try:
        return upright_size(path)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be read as an image: {error}") from None


def read_text(path: Path) -> str:
    """Return the content of a text file, without the mark that Windows' editors begin it with; ValueError for one that is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: must be text in UTF-8, byte {error.start} is not: {error.reason}") from None


def short(value: Any) -> str:
    """Return what a message says of a value that may be of any size and depth."""
    return reprlib.repr(value)[:80]


def text_of(value: float) -> str:
    """Return a number in ten digits at most, without trailing zeros: 12.5, 3."""
    return f"{value:.10g}"


def numbers(fields: Sequence[Any], where: str) -> list[float]:
    """Return the fields as finite floats; ValueError, beginning with `where`, for one that is none."""
    try:
        found = [float(f) for f in fields]
    except (TypeError, ValueError, OverflowError):
        found = [math.nan]
    if any(isinstance(f, bool) for f in fields) or not all(map(math.isfinite, found)):
        raise ValueError(f"{where}: must be finite numbers, got {short(list(fields))}")
    return found


def ellipse(cx: float, cy: float, rx: float, ry: float) -> Polygon:
    """Return an ellipse as a polygon of 64 points."""
    turns = [2 * math.pi * n / CIRCLE_POINTS for n in range(CIRCLE_POINTS)]
    return tuple(v for t in turns for v in (cx + rx * math.cos(t), cy + ry * math.sin(t)))
