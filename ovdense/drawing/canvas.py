"""What pictures are drawn with: antialiased frames, tints, outlines, chips with text and where they find room. Images are (H, W, 3), RGB."""
from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ovdense.drawing.colours import Colour, legible_on

Rect = tuple[int, int, int, int]  # x1, y1, x2, y2 in pixels
_ELLIPSIS = "…"
MOST_LONG = 8  # times the wished short side that an enlarged picture is long: a strip of a few pixels would fill the memory


def spoken(name: str) -> str:
    """Return a class's name as it is written in a picture."""
    return " ".join(name.replace("_", " ").split())


def label_text(name: str, score: float | None, font: ImageFont.FreeTypeFont, max_width: float) -> str:
    """Return the name of the class and the score, the name cut with an ellipsis so that all fits `max_width` pixels."""
    return fitted(spoken(name), "" if score is None else f" {score:.2f}", font, max_width)


def fitted(noun: str, number: str, font: ImageFont.FreeTypeFont, max_width: float) -> str:
    """Return `noun` and `number`, the noun cut with an ellipsis so that all fits `max_width` pixels."""
    if font.getlength(noun + number) <= max_width:
        return noun + number
    low, high = 1, len(noun)  # letters that fit, found by halves; one is always shown
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if font.getlength(noun[:middle].rstrip() + _ELLIPSIS + number) <= max_width else (low, middle - 1)
    return noun[:low].rstrip() + _ELLIPSIS + number


@lru_cache(maxsize=32)
def text_font(size: int) -> ImageFont.FreeTypeFont:
    """Return DejaVu Sans, which comes with matplotlib, or Pillow's own font where there is none."""
    spec = find_spec("matplotlib")
    file = Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf" if spec and spec.origin else None
    return ImageFont.truetype(str(file), size) if file is not None and file.is_file() else ImageFont.load_default(size)


def coverage(start: float, end: float, low: int, high: int) -> np.ndarray:
    """Return (high - low,): the share of each pixel low..high-1 that lies within start..end."""
    pixel = np.arange(low, high, dtype=np.float32)
    return np.clip(np.minimum(pixel + 1, end) - np.maximum(pixel, start), 0, 1)


def blend_frame(canvas: np.ndarray, box: Sequence[float], thickness: float, colour: Colour, opacity: float) -> None:
    """Draw a frame centred on the box's edge, antialiased by the exact share of every pixel that it covers."""
    height, width = canvas.shape[:2]
    x1, y1, x2, y2 = box
    half = thickness / 2
    left, top = (int(np.clip(np.floor(v - half), 0, limit)) for v, limit in ((x1, width), (y1, height)))
    right, bottom = (int(np.clip(np.ceil(v + half), 0, limit)) for v, limit in ((x2, width), (y2, height)))
    if left >= right or top >= bottom:
        return
    outer_x, outer_y = coverage(x1 - half, x2 + half, left, right), coverage(y1 - half, y2 + half, top, bottom)
    inner_x, inner_y = coverage(x1 + half, max(x1 + half, x2 - half), left, right), coverage(y1 + half, max(y1 + half, y2 - half), top, bottom)
    alpha = opacity * (outer_y[:, None] * outer_x - inner_y[:, None] * inner_x)[..., None]
    window = canvas[top:bottom, left:right]
    window += alpha * (np.array(colour, dtype=np.float32) - window)


def padding(font: ImageFont.FreeTypeFont) -> tuple[int, int]:
    """Return the room (x, y) between a chip's edge and its text."""
    ascent, descent = font.getmetrics()
    return max(3, (ascent + descent) // 3), max(1, (ascent + descent) // 10)


def chip_size(text: str, font: ImageFont.FreeTypeFont) -> tuple[int, int]:
    """Return (width, height) of a chip with this text."""
    pad_x, pad_y = padding(font)
    return round(font.getlength(text)) + 2 * pad_x, sum(font.getmetrics()) + 2 * pad_y


def free_place(box: Sequence[float], size: tuple[int, int], image: tuple[int, int], gap: int, taken: Sequence[Rect]) -> Rect | None:
    """Return where a chip of `size` goes: above the box, inside it, below, then the nearest free height; None if it never fits."""
    (w, h), (width, height) = size, image
    if w > width or h > height:
        return None
    x1, y1, x2, y2 = (round(v) for v in box)
    first = [(x1, y1 - h), (x2 - w, y1 - h), (x1, y1 + gap), (x2 - w, y1 + gap), (x1, y2), (x2 - w, y2), (x1, y2 - h - gap), (x2 - w, y2 - h - gap)]
    further = [(x, y1 + sign * step) for step in range(h, height, max(1, h // 2)) for sign in (1, -1) for x in (x1, x2 - w)]
    for n, (x, y) in enumerate(first + further):
        if n < len(first) and not 0 <= y <= height - h:
            continue
        x, y = min(max(x, 0), width - w), min(max(y, 0), height - h)
        place = (x, y, x + w, y + h)
        if not any(place[0] < t[2] and t[0] < place[2] and place[1] < t[3] and t[1] < place[3] for t in taken):
            return place
    return None


def draw_chip(picture: Image.Image, place: Rect, text: str, font: ImageFont.FreeTypeFont, colour: Colour) -> None:
    """Draw a label: text on a rounded ground of its class's colour, black or white by what is legible."""
    zoom, (w, h) = 4, (place[2] - place[0], place[3] - place[1])
    shape = Image.new("L", (w * zoom, h * zoom), 0)
    ImageDraw.Draw(shape).rounded_rectangle((0, 0, w * zoom - 1, h * zoom - 1), radius=h * zoom // 5, fill=235)
    picture.paste(colour, (place[0], place[1]), shape.resize((w, h), Image.Resampling.BOX))
    pad_x, pad_y = padding(font)
    ImageDraw.Draw(picture).text((place[0] + pad_x, place[1] + pad_y), text, fill=legible_on(colour), font=font)


def draw_leader(picture: Image.Image, place: Rect, box: Sequence[float], colour: Colour, thickness: float) -> None:
    """Draw a line from a chip to its box where the chip lies apart from it."""
    x1, y1, x2, y2 = box
    (left, top, right, bottom), reach = place, 2 * thickness
    if left <= x2 + reach and right >= x1 - reach and top <= y2 + reach and bottom >= y1 - reach:
        return
    start = ((left + right) / 2, bottom if bottom < y1 else top)
    end = (min(max(start[0], x1), x2), y1 if bottom < y1 else y2)
    draw = ImageDraw.Draw(picture)
    draw.line([start, end], fill=(0, 0, 0), width=round(thickness) + 2)
    draw.line([start, end], fill=colour, width=max(1, round(thickness)))


def legend_strip(width: int, entries: Sequence[tuple[str, Colour]], size: int) -> np.ndarray:
    """Return (h, width, 3): swatches with texts in rows, as many rows as they need; no rows for no entries."""
    face, gap = text_font(size), size
    swatch, line = round(0.9 * size), sum(text_font(size).getmetrics()) + size // 2
    spots, x, y = [], gap, size // 2
    for text, colour in entries:
        text = fitted(text, "", face, width - 3 * gap - swatch)
        room = swatch + size // 2 + round(face.getlength(text)) + 2 * gap
        if x > gap and x + room - gap > width:
            x, y = gap, y + line
        spots.append((x, y, text, colour))
        x += room
    strip = Image.new("RGB", (width, y + line if spots else 0), "white")
    draw = ImageDraw.Draw(strip)
    for x, y, text, colour in spots:
        draw.rounded_rectangle((x, y + size // 6, x + swatch, y + size // 6 + swatch), radius=swatch // 4, fill=colour)
        draw.text((x + swatch + size // 2, y), text, fill=(20, 20, 20), font=face)
    return np.asarray(strip).reshape(strip.height, width, 3)


def outline(mask_HW: np.ndarray, radius: int) -> np.ndarray:
    """Return (H, W) bool: the inner edge of a mask, `radius` pixels thick; the picture's border is no edge."""
    import cv2

    kernel = np.ones((2 * radius + 1,) * 2, dtype=np.uint8)
    return mask_HW & ~cv2.erode(mask_HW.astype(np.uint8), kernel, borderType=cv2.BORDER_CONSTANT, borderValue=1).astype(bool)


def tint(canvas: np.ndarray, region: np.ndarray, colour: Colour, opacity: float) -> None:
    """Mix the colour into the pixels of a region; `canvas` (H, W, 3) float32, changed in place."""
    import cv2

    chosen = region.view(np.uint8)
    x, y, width, height = cv2.boundingRect(chosen)
    if width:
        part = canvas[y : y + height, x : x + width]
        mixed = cv2.scaleAdd(part, -opacity, part)
        mixed += opacity * np.array(colour, dtype=np.float32)
        canvas[y : y + height, x : x + width] = cv2.copyTo(mixed, chosen[y : y + height, x : x + width], part)


def thick(edge: np.ndarray, radius: int) -> np.ndarray:
    """Return the pixels within `radius` of an edge's."""
    import cv2

    return cv2.dilate(edge.astype(np.uint8), np.ones((2 * radius + 1,) * 2, dtype=np.uint8)).astype(bool)


def enlarged_labels(label_HW: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """Return labels, or a mask, at another size: the value at each new pixel's centre."""
    rows, columns = (np.minimum(((np.arange(new) + 0.5) * (old / new)).astype(np.int64), old - 1) for new, old in zip(size_hw, label_HW.shape))
    return label_HW[rows[:, None], columns]


def zoom_to(size_hw: Sequence[int], min_side: int) -> float:
    """Return how many times an image is enlarged, so that its short side has `min_side` pixels, its long side MOST_LONG times that at most; 1 or more."""
    return max(1.0, min(min_side / min(size_hw), MOST_LONG * min_side / max(size_hw)))


def enlarged(image_rgb: np.ndarray, zoom: float) -> np.ndarray:
    """Return the image `zoom` times as large."""
    if zoom == 1.0:
        return image_rgb
    height, width = image_rgb.shape[:2]
    return np.asarray(Image.fromarray(image_rgb).resize((round(width * zoom), round(height * zoom)), Image.Resampling.BICUBIC))
