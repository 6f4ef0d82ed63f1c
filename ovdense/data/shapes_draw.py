"""Drawing for the embedded data set: one object with its texture and part, one cluttered background.

Pure functions from numbers to uint8 pictures (RGB, 0..255). Objects are drawn SUPERSAMPLE times larger and then
averaged down, so edges are smooth and the same on every machine. Units are output pixels, y points down.
"""
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

SUPERSAMPLE = 3
PALETTE = {
    "red": (216, 43, 52),
    "green": (42, 158, 72),
    "blue": (38, 98, 224),
    "yellow": (250, 212, 40),
    "purple": (142, 62, 190),
    "orange": (247, 126, 22),
}
PALE_INK = (250, 247, 240)
DARK_INK = (74, 52, 40)
INK = {"red": PALE_INK, "green": PALE_INK, "blue": PALE_INK, "purple": PALE_INK, "yellow": DARK_INK, "orange": DARK_INK}
TEXTURES = ("plain", "striped", "dotted", "checkered")
PARTS = ("none", "with two handles", "with a tail", "with an antenna")
OUTLINE_SHADE, PART_SHADE = 0.45, 0.62
OUTLINE_PX = 1.4
MIN_PART_PX = 5.0
PART_THICKNESS = 0.09
CANVAS_PLAIN, CANVAS_WITH_PART = 1.5, 2.15
TEXTURE_PERIOD, TEXTURE_PERIOD_PX = 0.17, (9.5, 15.0)


@dataclass(frozen=True, kw_only=True)
class Sprite:
    """One drawn object: `rgb` (h, w, 3) and `alpha` (h, w) uint8; `part_alpha` is the share of alpha that the part alone covers."""

    rgb: np.ndarray
    alpha: np.ndarray
    part_alpha: np.ndarray


def _polygon(points: np.ndarray) -> Callable[[np.ndarray, float, float], None]:
    def fill(mask: np.ndarray, centre: float, radius: float) -> None:
        cv2.fillPoly(mask, [np.round(points * radius + centre).astype(np.int32)], 255)

    return fill


def _disc(mask: np.ndarray, centre: float, radius: float) -> None:
    cv2.circle(mask, (round(centre), round(centre)), round(radius), 255, -1)


def _ring(mask: np.ndarray, centre: float, radius: float) -> None:
    _disc(mask, centre, radius)
    cv2.circle(mask, (round(centre), round(centre)), round(0.5 * radius), 0, -1)


def _crescent(mask: np.ndarray, centre: float, radius: float) -> None:
    _disc(mask, centre, radius)
    cv2.circle(mask, (round(centre), round(centre - 0.62 * radius)), round(0.82 * radius), 0, -1)


def _star_points() -> np.ndarray:
    angle = np.arange(10) * np.pi / 5 - np.pi / 2
    length = np.where(np.arange(10) % 2 == 0, 1.08, 0.5)
    return np.stack([length * np.cos(angle), length * np.sin(angle) + 0.08], 1)


def _heart_points() -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([np.sin(t) ** 3, -(y + 2.5) / 15.5], 1)


def _cross_points(arm: float = 0.38) -> np.ndarray:
    a = arm
    return np.array(
        [(-a, -1), (a, -1), (a, -a), (1, -a), (1, a), (a, a), (a, 1), (-a, 1), (-a, a), (-1, a), (-1, -a), (-a, -a)], dtype=float
    )


BODIES: dict[str, Callable[[np.ndarray, float, float], None]] = {
    "circle": _disc,
    "ring": _ring,
    "square": _polygon(np.array([(-0.94, -0.94), (0.94, -0.94), (0.94, 0.94), (-0.94, 0.94)])),
    "triangle": _polygon(np.array([(0, -1.0), (1.06, 0.9), (-1.06, 0.9)])),
    "star": _polygon(_star_points()),
    "cross": _polygon(_cross_points()),
    "heart": _polygon(_heart_points()),
    "crescent": _crescent,
}


def _ink_mask(texture: str, side: int, period: float) -> np.ndarray:
    """Return where the texture's second colour goes, (side, side) bool; `period` in drawn pixels."""
    at = np.arange(side)
    if texture == "striped":
        stripe = (np.arange(2 * side) / (np.sqrt(2) * period)) % 1 < 0.45
        return stripe[at[:, None] + at[None]]
    if texture == "checkered":
        odd = np.floor(at / (0.64 * period)) % 2 == 1
        return odd[:, None] ^ odd[None]
    if texture == "dotted":
        row = np.floor(at / (0.87 * period)).astype(int)
        dx2 = np.stack([((at / period + shift) % 1 - 0.5) ** 2 for shift in (0.0, 0.5)])
        dy2 = (at / period - 0.87 * (row + 0.5)) ** 2
        return dx2[row % 2] < 0.31**2 - dy2[:, None]
    return np.zeros((side, side), dtype=bool)


def _draw_part(canvas: np.ndarray, body: np.ndarray, part: str, size: float, thickness: float) -> None:
    """Draw `part` into the mask `canvas` at the edges of `body`; `size` and `thickness` in drawn pixels."""
    thick, middle = max(1, round(thickness)), body.shape[0] // 2
    if part == "with two handles":
        row = middle + round(0.06 * size)
        xs = np.flatnonzero(body[row])
        axes = (round(max(0.24 * size, 1.7 * thickness)), round(max(0.2 * size, 1.5 * thickness)))
        for x, start in ((xs[0], 90), (xs[-1], -90)):
            cv2.ellipse(canvas, (int(x), row), axes, 0, start, start + 180, 255, thick, cv2.LINE_AA)
    elif part == "with a tail":
        bottom = np.flatnonzero(body[:, middle])[-1]
        t = np.linspace(0, 1, 40)
        x = middle + 0.15 * size * np.sin(2 * np.pi * 1.1 * t)
        y = bottom - 0.04 * size + t * max(0.52 * size, 3.2 * thickness)
        cv2.polylines(canvas, [np.round(np.stack([x, y], 1)).astype(np.int32)], False, 255, thick, cv2.LINE_AA)
    elif part == "with an antenna":
        top = np.flatnonzero(body[:, middle])[0]
        head = np.flatnonzero(body.any(1))[0]  # of a heart or a crescent the middle lies lower than the rest
        tip = round(min(top - max(0.3 * size, 2.2 * thickness), head - 1.6 * thickness))
        cv2.line(canvas, (middle, int(top + 0.04 * size)), (middle, tip), 255, max(1, round(0.8 * thickness)), cv2.LINE_AA)
        cv2.circle(canvas, (middle, tip), round(max(0.095 * size, 1.0 * thickness)), 255, -1, cv2.LINE_AA)


def draw_sprite(*, noun: str, colour: str, texture: str, part: str, size: float, angle: float, gain: float) -> Sprite:
    """Return the object, cropped to its alpha.

    `size` is the extent of the body without its part in pixels, `angle` its turn in degrees, `gain` a factor on the
    brightness of all its colours (about 1).
    """
    drawn = size * SUPERSAMPLE
    room = CANVAS_PLAIN if part == "none" else CANVAS_WITH_PART
    side = int(np.ceil(room * drawn / (2 * SUPERSAMPLE))) * 2 * SUPERSAMPLE
    body, limb = np.zeros((side, side), np.uint8), np.zeros((side, side), np.uint8)
    BODIES[noun](body, side / 2, drawn / 2)
    _draw_part(limb, body, part, drawn, max(MIN_PART_PX, PART_THICKNESS * size) * SUPERSAMPLE)
    base = np.clip(np.array(PALETTE[colour], np.float32) * gain, 0, 255)
    ink = np.clip(np.array(INK[colour], np.float32) * min(gain, 1.0), 0, 255)
    period = float(np.clip(TEXTURE_PERIOD * size, *TEXTURE_PERIOD_PX)) * SUPERSAMPLE
    paints = np.zeros((256, 1, 3), np.uint8)
    paints[:4, 0] = np.stack([base * OUTLINE_SHADE, base * PART_SHADE, base, ink])
    layer = np.where(body > 0, _ink_mask(texture, side, period).astype(np.uint8) + np.uint8(2), (limb > 0).astype(np.uint8))
    rgb = cv2.LUT(cv2.merge([layer] * 3), paints)
    edges, _ = cv2.findContours(body, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(rgb, edges, -1, tuple(float(v) for v in base * OUTLINE_SHADE), round(OUTLINE_PX * SUPERSAMPLE))
    limb[body > 0] = 0
    rgb, alpha, part_alpha = _turned_down((rgb, cv2.max(body, limb), limb), angle, base * OUTLINE_SHADE)
    x, y, w, h = cv2.boundingRect((alpha > 0).astype(np.uint8))
    window = np.s_[y : y + h, x : x + w]
    return Sprite(rgb=rgb[window], alpha=alpha[window], part_alpha=part_alpha[window])


def _turned_down(layers: tuple[np.ndarray, np.ndarray, np.ndarray], angle: float, edge: np.ndarray) -> list[np.ndarray]:
    """Return (rgb, alpha, part) turned about the middle by `angle` degrees and averaged down; only the window that holds alpha."""
    side = layers[1].shape[0]
    turn = cv2.getRotationMatrix2D((side / 2, side / 2), angle, 1.0)
    points = np.concatenate(cv2.findContours(layers[1], cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0])[:, 0]
    turned = points @ turn[:, :2].T + turn[:, 2]
    low = np.maximum(np.floor((turned.min(0) - 3) / SUPERSAMPLE), 0).astype(int)
    high = np.minimum(np.ceil((turned.max(0) + 4) / SUPERSAMPLE), side // SUPERSAMPLE).astype(int)
    turn[:, 2] -= low * SUPERSAMPLE
    small = tuple(int(v) for v in high - low)
    large = tuple(SUPERSAMPLE * v for v in small)
    borders = (tuple(float(v) for v in edge), 0, 0)
    return [
        cv2.resize(cv2.warpAffine(layer, turn, large, borderValue=border), small, interpolation=cv2.INTER_AREA)
        for layer, border in zip(layers, borders)
    ]



def paste_sprite(image: np.ndarray, sprite: Sprite, x: int, y: int) -> None:
    """Blend `sprite` into `image` (uint8 RGB, changed in place) with its upper left corner at (x, y); it must lie inside."""
    h, w = sprite.alpha.shape
    alpha = sprite.alpha[..., None].astype(np.uint16)
    patch = image[y : y + h, x : x + w]
    patch[:] = ((sprite.rgb * alpha + patch * (255 - alpha) + 127) // 255).astype(np.uint8)


def _pastel(generator: np.random.Generator, low: float, high: float, chroma: float) -> np.ndarray:
    return np.clip(generator.uniform(low, high) + generator.uniform(-chroma, chroma, 3), 0, 255)


def _open_outline(generator: np.random.Generator, side: int) -> np.ndarray:
    """Return a stretch of some body's contour, (n, 1, 2) int32: clutter that looks like an object and is none."""
    noun = tuple(BODIES)[generator.integers(len(BODIES))]
    mask = np.zeros((side, side), np.uint8)
    radius = generator.uniform(0.07, 0.2) * side
    BODIES[noun](mask, side / 2, radius)
    contour = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0][0]
    start, length = generator.integers(len(contour)), int(generator.uniform(0.4, 0.85) * len(contour))
    shift = generator.uniform(-0.5, 0.5, 2) * side
    return np.round(np.roll(contour, -start, 0)[:length] + shift).astype(np.int32)


def draw_background(generator: np.random.Generator, side: int) -> np.ndarray:
    """Return a cluttered background (side, side, 3) uint8: smooth gradient, soft noise, blobs, lines and open outlines in dull colours."""
    corners = np.stack([_pastel(generator, 120, 225, 26) for _ in range(4)]).reshape(2, 2, 3).astype(np.float32)
    image = cv2.resize(corners, (side, side), interpolation=cv2.INTER_LINEAR)
    for cells, strength in ((9, 9.0), (33, 5.0), (129, 3.0)):
        noise = generator.normal(0, strength, (cells, cells, 1)).astype(np.float32)
        image += cv2.resize(noise, (side, side), interpolation=cv2.INTER_CUBIC)[..., None]
    image = np.clip(image, 0, 255).astype(np.uint8)
    for _ in range(generator.integers(5, 11)):
        layer = image.copy()
        centre = tuple(int(v) for v in generator.integers(0, side, 2))
        axes = tuple(int(v) for v in generator.integers(side // 24, side // 6, 2))
        turn, colour = float(generator.uniform(0, 180)), _pastel(generator, 105, 235, 24).tolist()
        cv2.ellipse(layer, centre, axes, turn, 0, 360, colour, -1, cv2.LINE_AA)
        share = float(generator.uniform(0.25, 0.6))
        image = cv2.addWeighted(layer, share, image, 1 - share, 0)
    for _ in range(generator.integers(6, 16)):
        ends = generator.integers(-side // 8, side + side // 8, (2, 2))
        colour = _pastel(generator, 80, 230, 20).tolist()
        cv2.line(image, ends[0].tolist(), ends[1].tolist(), colour, int(generator.integers(1, 3)), cv2.LINE_AA)
    for _ in range(generator.integers(4, 9)):
        colour = _pastel(generator, 75, 225, 20).tolist()
        cv2.polylines(image, [_open_outline(generator, side)], False, colour, int(generator.integers(1, 3)), cv2.LINE_AA)
    return image
