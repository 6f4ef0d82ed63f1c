"""Colours that people tell apart: one for each class of a picture, black or white on it, and the scale of heat maps."""
import hashlib
from collections.abc import Sequence
from functools import cache, lru_cache

import numpy as np

Colour = tuple[int, int, int]
MOST_FIXED = 24  # classes of a vocabulary that all get a colour of their own, whatever is in the picture
_RINGS = ((0.72, 0.17, 0.0), (0.55, 0.16, 15.0), (0.86, 0.13, 15.0))  # OKLCH lightness, chroma, hue offset in degrees
_HUES = 12
_APART = 0.2  # distance in OKLAB that is told apart at a glance


# OKLAB (B. Ottosson, "A perceptual color space for image processing", 2020): to cone responses, and from them to linear sRGB
_LAB_TO_CONE = np.array([[1, 0.3963377774, 0.2158037573], [1, -0.1055613458, -0.0638541728], [1, -0.0894841775, -1.2914855480]])
_CONE_TO_RGB = np.array(
    [[4.0767416621, -3.3077115913, 0.2309699292], [-1.2684380046, 2.6097574011, -0.3413193965], [-0.0041960863, -0.7034186147, 1.7076147010]]
)


def _oklab_to_rgb(lab: np.ndarray) -> np.ndarray:
    """Return (..., 3) sRGB in 0..1, cut off where it lies outside, of (..., 3) OKLAB."""
    linear = ((lab @ _LAB_TO_CONE.T) ** 3 @ _CONE_TO_RGB.T).clip(0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def _rgb_to_oklab(rgb: np.ndarray) -> np.ndarray:
    """Return (..., 3) OKLAB of (..., 3) sRGB in 0..1: the inverse of `_oklab_to_rgb`."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return np.cbrt(linear @ np.linalg.inv(_CONE_TO_RGB).T) @ np.linalg.inv(_LAB_TO_CONE).T


@cache
def palette() -> tuple[Colour, ...]:
    """Return 36 strong colours: twelve hues evenly apart to the eye, middle ones first, then dark, then light ones."""
    colours = []
    for lightness, chroma, offset in _RINGS:
        hue = np.deg2rad(np.arange(_HUES) * 360 / _HUES + offset + 25)
        lab = np.stack([np.full(_HUES, lightness), chroma * np.cos(hue), chroma * np.sin(hue)], -1)
        colours += [tuple(int(v) for v in row) for row in (255 * _oklab_to_rgb(lab)).round()]
    return tuple(colours)


@cache
def _distances() -> np.ndarray:
    lab = _rgb_to_oklab(np.array(palette()) / 255)
    return np.linalg.norm(lab[:, None] - lab[None], axis=-1)


@lru_cache(maxsize=4096)
def _wish(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") % (2 * _HUES)


def class_colour(name: str) -> Colour:
    """Return the colour that a class has where no other class of the picture is like it: a function of its name only."""
    return palette()[_wish(name)]


def class_colours(names: Sequence[str], shown: Sequence[str] | None = None) -> dict[str, Colour]:
    """Return a colour for each class, no two of them alike as far as 36 colours go.

    A class gets its `class_colour` unless one before it has that or one that looks like it, then the free colour that is furthest from all taken.
    Up to 24 `names` are all given theirs, so that pictures of one vocabulary agree; of more only those `shown` in a picture (None: all).
    """
    given = list(dict.fromkeys(names if len(names) <= MOST_FIXED or shown is None else shown))
    taken: list[int] = []
    for name in given:
        slot = _wish(name)
        free = [s for s in range(len(palette())) if s not in taken]
        if not free:
            taken.append(_wish(name))
        elif taken and (slot in taken or _distances()[slot, taken].min() < _APART):
            taken.append(max(free, key=lambda s: _distances()[s, taken].min()))
        else:
            taken.append(slot)
    return {name: palette()[slot] for name, slot in zip(given, taken)}


def legible_on(colour: Colour) -> Colour:
    """Return black or white, whichever stands out more on `colour` (WCAG contrast)."""
    linear = [c / 12.92 if (c := v / 255) <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for v in colour]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return (0, 0, 0) if (luminance + 0.05) ** 2 > 0.05 * 1.05 else (255, 255, 255)


@cache
def heat_scale() -> np.ndarray:
    """Return (256, 3) uint8 RGB from dark violet over orange to light yellow: its lightness grows evenly, so that it reads in grey too."""
    import cv2

    return cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_INFERNO)[:, 0, ::-1].copy()
