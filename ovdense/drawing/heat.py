"""Heat maps on their image: grey where there is nothing, bright where there is much, with a scale that says how much."""
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from ovdense.drawing.canvas import enlarged, text_font, zoom_to
from ovdense.drawing.colours import heat_scale
from ovdense.drawing.sheets import contact_sheet

_LEAST, _MOST = 0.05, 0.85  # share of the heat's colour in the picture, at its lowest and highest value


def draw_heat(image_rgb: np.ndarray, heat_HW: np.ndarray, *, low: float | None = None, high: float | None = None, title: str = "", min_side: int = 320,
              scale: bool = True) -> np.ndarray:
    """Return a picture (H, W, 3) of a heat map (h, w) of any resolution over its image, and below it the scale and the title.

    `low`, `high`: the values at the ends of the scale (None: those of the map; a map that is the same everywhere is drawn as low).
    """
    if heat_HW.ndim != 2 or not heat_HW.size or not np.isfinite(heat_HW).all():
        raise ValueError(f"a heat map must be finite numbers of shape (h, w), got shape {heat_HW.shape}")
    low = float(heat_HW.min()) if low is None else low
    high = float(heat_HW.max()) if high is None else high
    image = enlarged(image_rgb, zoom_to(image_rgb.shape[:2], min_side))
    height, width = image.shape[:2]
    share = np.clip((heat_HW.astype(np.float32) - low) / max(high - low, 1e-12), 0, 1)
    share = np.clip(np.asarray(Image.fromarray(share).resize((width, height), Image.Resampling.BILINEAR)), 0, 1)
    grey = np.repeat(np.asarray(Image.fromarray(image).convert("L"), dtype=np.float32)[..., None], 3, axis=2)
    opacity = (_LEAST + (_MOST - _LEAST) * share)[..., None]
    colour = heat_scale()[(255 * share).round().astype(np.int64)].astype(np.float32)
    drawn = (grey * (1 - opacity) + colour * opacity).round().astype(np.uint8)
    return np.concatenate([drawn, _scale(width, low, high, title)]) if scale else drawn


def _scale(width: int, low: float, high: float, title: str) -> np.ndarray:
    """Return the strip below a heat map: title, then a bar with the values at its ends."""
    size = max(10, width // 32)
    face = text_font(size)
    strip = Image.new("RGB", (width, 2 * size), "white")
    draw = ImageDraw.Draw(strip)
    ends = [f"{low:.2g}", f"{high:.2g}"]
    bar = max(1, width // 4)
    right = width - size // 2 - round(face.getlength(ends[1]))
    draw.text((right, size // 3), ends[1], fill=(20, 20, 20), font=face)
    colours = Image.fromarray(np.repeat(heat_scale()[None, np.linspace(0, 255, bar).astype(int)], size, axis=0))
    strip.paste(colours, (right - bar - size // 2, size // 2))
    left = right - bar - size - round(face.getlength(ends[0]))
    draw.text((left, size // 3), ends[0], fill=(20, 20, 20), font=face)
    while title and face.getlength(title) > left - size:
        title = title[:-2] + "\u2026" if len(title) > 2 else ""
    draw.text((size // 2, size // 3), title, fill=(20, 20, 20), font=face)
    return np.asarray(strip)


def heat_sheet(image_rgb: np.ndarray, heat_KHW: Sequence[np.ndarray], names: Sequence[str], *, columns: int = 4, cell_width: int = 320) -> np.ndarray:
    """Return one sheet with a heat map a class, all on one scale, those with the highest values first."""
    if len(heat_KHW) != len(names) or not len(names):
        raise ValueError(f"heat maps must have one name each, got {len(heat_KHW)} maps and {len(names)} names")
    heat_KHW = np.asarray(heat_KHW)
    low, high = float(heat_KHW.min()), float(heat_KHW.max())
    order = np.argsort(-heat_KHW.reshape(len(names), -1).max(1), kind="stable").tolist()
    return contact_sheet([draw_heat(image_rgb, heat_KHW[k], low=low, high=high, title=names[k]) for k in order], columns, cell_width=cell_width)
