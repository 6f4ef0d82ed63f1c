"""Reading image files that come without annotations: upright, as RGB, with clear errors."""
import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError


class BrokenImage(ValueError):
    """A file that is no whole image, or not the one that its annotations were made for. Training can leave it out and go on."""


SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


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
            return to_rgb(ImageOps.exif_transpose(picture))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        said = "it is no image file" if isinstance(error, UnidentifiedImageError) else str(error)
        raise BrokenImage(f"{path} cannot be read as an image: {said}") from None


def to_rgb(picture: Image.Image) -> np.ndarray:
    """Return (H, W, 3) uint8 RGB; 16 bits a pixel are scaled to 8 (Pillow's own conversion would cut them off at 255)."""
    if picture.mode.startswith("I"):
        grey = np.asarray(picture).astype(np.int64)
        if grey.max(initial=0) > 255:
            return np.repeat((grey.clip(0, 65535) >> 8).astype(np.uint8)[..., None], 3, axis=2)
    return np.asarray(picture.convert("RGB"))
