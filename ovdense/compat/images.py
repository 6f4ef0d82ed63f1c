"""Reading image files that come without annotations: upright, as RGB, with clear errors."""
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


def read_upright(path: str | Path) -> np.ndarray:
    """Return the file as (H, W, 3) uint8 RGB with its EXIF rotation applied.

    FileNotFoundError or ValueError name a file that is missing, is no image, or is cut short.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"an image must be an existing file, got {path}")
    try:
        with Image.open(path) as picture:
            return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be read as an image: {str(error).removesuffix(' ' + repr(str(path)))}") from None
