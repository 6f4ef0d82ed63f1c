"""Reading image files: upright, as RGB, with clear errors; and writing pictures, whole or not at all."""
import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from ovdense.compat.atomic import atomic_write


class BrokenImage(ValueError):
    """A file that is no whole image, or not the one that its annotations were made for. Training can leave it out and go on."""


SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
FOLDER_SUFFIXES = (*SUFFIXES, ".gif")
ImageLike = str | Path | np.ndarray | Image.Image


def load_image(image: ImageLike) -> np.ndarray:
    """Return (H, W, 3) uint8 RGB, upright: the EXIF rotation of files and PIL images is applied.

    FileNotFoundError or ValueError name a file that is missing, is no image, or is cut short. An array must be RGB.
    """
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise ValueError(f"an image array must be uint8 of shape (H, W, 3), RGB, got {image.dtype} {image.shape}")
        return image
    if isinstance(image, Image.Image):
        return to_rgb(upright(image))
    if isinstance(image, str | Path):
        if str(image).startswith(("http://", "https://")):
            raise ValueError(f"an image must be a file of this machine, nothing is fetched, got {image}; download it first")
        return read_upright(image)
    raise ValueError(f"an image must be a path, an array or a PIL image, got {type(image).__name__}")


def image_files(path: str | Path) -> list[Path]:
    """Return the file, or the images of the folder (by their suffix), sorted; FileNotFoundError or ValueError when there is none."""
    given, path = str(path), Path(path).expanduser()
    if path.is_file():
        return [path]
    if not given or not path.is_dir():
        raise FileNotFoundError(f"the image must be an existing file or folder, got {given!r}")
    files = sorted(f for f in path.iterdir() if f.suffix.lower() in FOLDER_SUFFIXES and not f.is_dir())  # a dangling link stays, to be reported
    if not files:
        raise ValueError(f"the folder {path} must hold images ({' '.join(FOLDER_SUFFIXES)}), found none")
    return files


def is_folder(image: object) -> bool:
    """Return whether an image that was asked for is a folder of them."""
    return isinstance(image, str | Path) and image != "" and Path(image).expanduser().is_dir()


def read_upright(path: str | Path) -> np.ndarray:
    """Return the file as (H, W, 3) uint8 RGB with its EXIF rotation applied.

    FileNotFoundError or BrokenImage (a ValueError) name a file that is missing, is no image, or is cut short.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"an image must be an existing file, got {path}")
    return decode_upright(path.read_bytes(), path)


def decode_upright(content: bytes, path: str | Path) -> np.ndarray:
    """Return the image that a file's `content` holds, as `read_upright`; `path` is for the message of BrokenImage."""
    try:
        with Image.open(io.BytesIO(content)) as picture:
            return to_rgb(upright(picture))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        said = "it is no image file" if isinstance(error, UnidentifiedImageError) else str(error)
        raise BrokenImage(f"{path} cannot be read as an image: {said}") from None


_UPRIGHT = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
            6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90}  # fmt: skip
_PNG_NOTES = (b"Raw profile type", b"XML:com.adobe.xmp")  # texts that can hold an orientation


def orientation(picture: Image.Image) -> int:
    """Return the EXIF orientation: 1 upright, or there is none that can be read, as viewers have it; 3 upside down; 5 to 8 lying on a side."""
    try:
        found = picture.getexif().get(0x0112, 1)
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, struct.error):
        return 1
    return found if found in _UPRIGHT else 1


def upright(picture: Image.Image) -> Image.Image:
    """Return the picture turned as its EXIF orientation says. Every reader of pixels goes through this, as viewers and tools for annotation do."""
    picture.load()  # a PNG's may stand after the pixels, and a TIFF is turned by Pillow itself
    turn = orientation(picture)
    return picture if turn == 1 else picture.transpose(_UPRIGHT[turn])


def upright_size(path: str | Path) -> tuple[int, int]:
    """Return the (height, width) of a file as `upright` shows it, from its head where it is not turned; errors as from PIL.Image.open."""
    with Image.open(path) as picture:
        noted = picture.format != "PNG" or _png_has_note(path)
        shown = upright(picture) if noted and orientation(picture) > 1 else picture
        return shown.height, shown.width


def _png_has_note(path: str | Path) -> bool:
    """Return whether a PNG, which is looked through without its pixels, has a part that can hold an orientation; they may stand after the pixels."""
    with open(path, "rb") as file:
        file.seek(8)
        while len(head := file.read(8)) == 8:
            size, kind = struct.unpack(">I4s", head)
            begin = file.read(min(size, 24)) if kind in (b"tEXt", b"zTXt", b"iTXt") else b""
            if kind == b"eXIf" or begin.startswith(_PNG_NOTES):
                return True
            file.seek(size - len(begin) + 4, 1)
    return False


def stored_size_note(path: str | Path, size_hw: tuple[int, int]) -> str:
    """Return why a file has not the size that its annotations say: "" or, where it has that size as stored, that they were made on the stored pixels."""
    with Image.open(path) as picture:
        stored, turn = (picture.height, picture.width), orientation(picture)
    if turn == 1 or stored != tuple(size_hw):
        return ""
    return (f"the file's annotations were made on the stored pixels, but its EXIF orientation is {turn} and images are read upright, as viewers show them: "
            "take the orientation out of the file, or turn the annotations")  # fmt: skip


def write_picture(path: str | Path, image: np.ndarray, **how: Any) -> Path:
    """Write an array of pixels (as `PIL.Image.fromarray` takes it) in the form that the suffix names, whole or not at all; return the path.

    `how`: what the form takes, such as quality=92. ValueError for a suffix that is no picture's, NotWritten (an OSError) where there is no room.
    """
    path = Path(path)
    form = Image.registered_extensions().get(path.suffix.lower())
    if form not in Image.SAVE:
        raise ValueError(f"a picture's file must end in {', '.join(SUFFIXES)}, got {path.name!r}")
    with atomic_write(path) as file:
        Image.fromarray(image).save(file, format=form, **how)
    return path


def to_rgb(picture: Image.Image) -> np.ndarray:
    """Return (H, W, 3) uint8 RGB; 16 bits a pixel are scaled to 8 (Pillow's own conversion would cut them off at 255).

    BrokenImage for floats and for numbers of more than 16 bits: nothing says which of them is white, and they would become black or white.
    """
    if picture.mode == "F":
        raise BrokenImage("pixels must be whole numbers of 8 or 16 bits, got floats; convert the image first")
    if picture.mode.startswith("I"):
        grey = np.asarray(picture).astype(np.int64)
        if grey.min(initial=0) < 0 or grey.max(initial=0) > 65535:
            raise BrokenImage(f"pixels must be whole numbers of 8 or 16 bits, got {grey.min()}..{grey.max()}; convert the image first")
        if grey.max(initial=0) > 255:
            return np.repeat((grey >> 8).astype(np.uint8)[..., None], 3, axis=2)
    return np.asarray(picture.convert("RGB"))
