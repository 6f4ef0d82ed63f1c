"""Results drawn on images, for people: boxes, masks, label maps, label chips, contact sheets. Images are (H, W, 3) uint8 RGB."""
import hashlib
from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ovdense.structures import IGNORE_LABEL, Results

Colour = tuple[int, int, int]
Rect = tuple[int, int, int, int]  # x1, y1, x2, y2 in pixels
_ELLIPSIS = "…"
_FILL = 0.5  # of a mask's colour


def draw_results(image_rgb: np.ndarray, results: Results, *, score_thr: float = 0.3, max_labels: int = 40, min_side: int = 640,
                 same_place_iou: float = 0.7) -> np.ndarray:
    """Return a picture of the image with the detections of at least `score_thr`; the `max_labels` best get a label.

    Boxes must be in pixels of `image_rgb`; an image whose short side is below `min_side` is enlarged to it, so that labels
    are small beside objects. Of boxes that overlap by `same_place_iou` only the best is drawn, whatever their classes (1:
    all are). A class has the same colour in every image. Labels lie inside the image and never on each other; one that
    finds no free place is left out, its box stays. Masks are tinted. Results with a label map are drawn by `draw_label_map`.
    """
    if image_rgb.dtype != np.uint8 or image_rgb.ndim != 3 or image_rgb.shape[2] != 3:
        raise ValueError(f"the image must be uint8 of shape (H, W, 3), RGB, got {image_rgb.dtype} {image_rgb.shape}")
    if results.label_map_HW is not None:
        return draw_label_map(image_rgb, results.label_map_HW.cpu().numpy(), results.names, max_labels=max_labels, min_side=min_side)
    shown = results.above(score_thr)
    order = shown.scores.argsort(descending=True, stable=True).tolist()
    zoom = max(1.0, min_side / min(image_rgb.shape[:2]))
    image_rgb = _enlarged(image_rgb, zoom)
    boxes, scores, labels = (shown.boxes_xyxy * zoom).tolist(), shown.scores.tolist(), shown.labels.tolist()
    order = _best_of_place(order, boxes, same_place_iou)
    height, width = image_rgb.shape[:2]
    thickness = max(2.0, 0.0035 * (height * width) ** 0.5)
    canvas = image_rgb.astype(np.float32)
    for n in reversed(order):  # the best on top
        if shown.masks_NHW is not None:
            colour = class_colour(shown.names[labels[n]])
            _tint(canvas, _enlarged_labels(shown.masks_NHW[n].cpu().numpy(), (height, width)), colour, _FILL)
        _blend_frame(canvas, boxes[n], thickness + 2, (0, 0, 0), 0.35)
        _blend_frame(canvas, boxes[n], thickness, class_colour(shown.names[labels[n]]), 1.0)
    picture = Image.fromarray(canvas.round().clip(0, 255).astype(np.uint8))
    font = _font(max(10, round(0.02 * (height * width) ** 0.5)))
    taken: list[Rect] = []
    for n in order[:max_labels]:
        name = shown.names[labels[n]]
        text = label_text(name, scores[n], font, min(max(0.5 * width, 14 * font.size), width - 2 * _padding(font)[0]))
        place = _free_place(boxes[n], _chip_size(text, font), (width, height), round(thickness), taken)
        if place is not None:
            taken.append(place)
            _draw_chip(picture, place, text, font, class_colour(name))
    return np.asarray(picture)


def draw_label_map(image_rgb: np.ndarray, label_HW: np.ndarray, names: Sequence[str], *, background: Sequence[str] = ("background",), max_labels: int = 40,
                   min_side: int = 640) -> np.ndarray:
    """Return a picture of the image with every pixel's class: tinted, regions outlined, each region of some size with its name.

    Pixels of the classes `background` and of IGNORE_LABEL stay as they are. A class has the same colour in every image.
    """
    if label_HW.shape != image_rgb.shape[:2]:
        raise ValueError(f"the label map must have the image's size {image_rgb.shape[:2]}, got {label_HW.shape}")
    zoom = max(1.0, min_side / min(image_rgb.shape[:2]))
    image_rgb = _enlarged(image_rgb, zoom)
    height, width = image_rgb.shape[:2]
    label_HW = _enlarged_labels(label_HW, (height, width))
    canvas = image_rgb.astype(np.float32)
    shown = [k for k in np.unique(label_HW).tolist() if k != IGNORE_LABEL and k < len(names) and names[k] not in background]
    edge = np.zeros((height, width), dtype=bool)
    edge[:, 1:] |= label_HW[:, 1:] != label_HW[:, :-1]
    edge[1:] |= label_HW[1:] != label_HW[:-1]
    edge = _thick(edge, max(1, round(0.0015 * (height * width) ** 0.5)))
    for k in shown:
        region, colour = label_HW == k, class_colour(names[k])
        _tint(canvas, region, colour, _FILL)
        _tint(canvas, region & edge, colour, 1.0)
    picture = Image.fromarray(canvas.round().clip(0, 255).astype(np.uint8))
    font = _font(max(10, round(0.02 * (height * width) ** 0.5)))
    taken: list[Rect] = []
    for k, y, x in _seats(label_HW, shown)[:max_labels]:
        text = _fitted(" ".join(names[k].replace("_", " ").split()), "", font, min(max(0.5 * width, 14 * font.size), width - 2 * _padding(font)[0]))
        w, h = _chip_size(text, font)
        place = _free_place((x - w / 2, y + h / 2, x + w / 2, y + h / 2), (w, h), (width, height), 0, taken)
        if place is not None:
            taken.append(place)
            _draw_chip(picture, place, text, font, class_colour(names[k]))
    return np.asarray(picture)


def _seats(label_HW: np.ndarray, shown: Sequence[int], least_share: float = 0.004) -> list[tuple[int, int, int]]:
    """Return (class, y, x) for each connected region of at least `least_share` of the picture, large ones first: its innermost point."""
    import cv2

    found = []
    for k in shown:
        count, region_of, stats, _ = cv2.connectedComponentsWithStats((label_HW == k).astype(np.uint8), connectivity=4)
        for r in range(1, count):
            area = int(stats[r, cv2.CC_STAT_AREA])
            if area < least_share * label_HW.size:
                continue
            inside = np.pad((region_of == r).astype(np.uint8), 1)  # the picture's border is an edge too
            y, x = np.unravel_index(cv2.distanceTransform(inside, cv2.DIST_L2, 3).argmax(), inside.shape)
            found.append((area, k, int(y) - 1, int(x) - 1))
    return [(k, y, x) for _, k, y, x in sorted(found, key=lambda f: -f[0])]


def _tint(canvas: np.ndarray, region: np.ndarray, colour: Colour, opacity: float) -> None:
    canvas[region] += opacity * (np.array(colour, dtype=np.float32) - canvas[region])


def _thick(edge: np.ndarray, radius: int) -> np.ndarray:
    import cv2

    return cv2.dilate(edge.astype(np.uint8), np.ones((2 * radius + 1,) * 2, dtype=np.uint8)).astype(bool)


def _enlarged_labels(label_HW: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    rows, columns = (np.minimum(((np.arange(new) + 0.5) * (old / new)).astype(np.int64), old - 1) for new, old in zip(size_hw, label_HW.shape))
    return label_HW[rows[:, None], columns]


def _enlarged(image_rgb: np.ndarray, zoom: float) -> np.ndarray:
    if zoom == 1.0:
        return image_rgb
    height, width = image_rgb.shape[:2]
    return np.asarray(Image.fromarray(image_rgb).resize((round(width * zoom), round(height * zoom)), Image.Resampling.BICUBIC))


def _best_of_place(order: Sequence[int], boxes: Sequence[Sequence[float]], iou: float) -> list[int]:
    """Return the indices of `order` (best first) whose box overlaps no kept one by `iou`."""
    kept: list[int] = []
    corner = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    area = np.prod(corner[:, 2:] - corner[:, :2], axis=1)
    for n in order:
        others = corner[kept]
        shared = np.clip(np.minimum(others[:, 2:], corner[n, 2:]) - np.maximum(others[:, :2], corner[n, :2]), 0, None).prod(axis=1)
        if not (shared > iou * (area[kept] + area[n] - shared)).any():
            kept.append(n)
    return kept


@lru_cache(maxsize=4096)
def class_colour(name: str) -> Colour:
    """Return the colour of a class: strong, and a function of its name only."""
    digest = hashlib.sha256(name.encode()).digest()
    hue = int.from_bytes(digest[:2], "big") / 65536
    saturation, value = 0.65 + 0.3 * digest[2] / 255, 0.8 + 0.2 * digest[3] / 255
    return tuple(Image.new("HSV", (1, 1), (int(255 * hue), int(255 * saturation), int(255 * value))).convert("RGB").getpixel((0, 0)))


def legible_on(colour: Colour) -> Colour:
    """Return black or white, whichever stands out more on `colour` (WCAG contrast)."""
    linear = [c / 12.92 if (c := v / 255) <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for v in colour]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return (0, 0, 0) if (luminance + 0.05) ** 2 > 0.05 * 1.05 else (255, 255, 255)


def label_text(name: str, score: float, font: ImageFont.FreeTypeFont, max_width: float) -> str:
    """Return the name of the class and the score, the name cut with an ellipsis so that all fits `max_width` pixels."""
    return _fitted(" ".join(name.replace("_", " ").split()), f" {score:.2f}", font, max_width)


def _fitted(noun: str, number: str, font: ImageFont.FreeTypeFont, max_width: float) -> str:
    if font.getlength(noun + number) <= max_width:
        return noun + number
    low, high = 1, len(noun)  # letters that fit, found by halves; one is always shown
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if font.getlength(noun[:middle].rstrip() + _ELLIPSIS + number) <= max_width else (low, middle - 1)
    return noun[:low].rstrip() + _ELLIPSIS + number


def contact_sheet(images: Sequence[np.ndarray], columns: int, *, cell_width: int = 480, gap: int = 8) -> np.ndarray:
    """Return the images in rows of `columns`, each `cell_width` wide, on white."""
    if not images or columns < 1:
        raise ValueError(f"a contact sheet needs an image and a column, got {len(images)} images and {columns} columns")
    columns = min(columns, len(images))
    cells = [Image.fromarray(i).resize((cell_width, max(1, round(i.shape[0] * cell_width / i.shape[1]))), Image.Resampling.LANCZOS) for i in images]
    rows = [cells[n : n + columns] for n in range(0, len(cells), columns)]
    heights = [max(c.height for c in row) for row in rows]
    sheet = Image.new("RGB", (columns * (cell_width + gap) + gap, sum(heights) + gap * (len(rows) + 1)), "white")
    y = gap
    for row, height in zip(rows, heights):
        for n, cell in enumerate(row):
            sheet.paste(cell, (gap + n * (cell_width + gap), y + (height - cell.height) // 2))
        y += height + gap
    return np.asarray(sheet)


@lru_cache(maxsize=32)
def _font(size: int) -> ImageFont.FreeTypeFont:
    """Return DejaVu Sans, which comes with matplotlib, or Pillow's own font where there is none."""
    spec = find_spec("matplotlib")
    file = Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf" if spec and spec.origin else None
    return ImageFont.truetype(str(file), size) if file is not None and file.is_file() else ImageFont.load_default(size)


def _coverage(start: float, end: float, low: int, high: int) -> np.ndarray:
    """Return (high - low,): the share of each pixel low..high-1 that lies within start..end."""
    pixel = np.arange(low, high, dtype=np.float32)
    return np.clip(np.minimum(pixel + 1, end) - np.maximum(pixel, start), 0, 1)


def _blend_frame(canvas: np.ndarray, box: Sequence[float], thickness: float, colour: Colour, opacity: float) -> None:
    """Draw a frame centred on the box's edge, antialiased by the exact share of every pixel that it covers."""
    height, width = canvas.shape[:2]
    x1, y1, x2, y2 = box
    half = thickness / 2
    left, top = (int(np.clip(np.floor(v - half), 0, limit)) for v, limit in ((x1, width), (y1, height)))
    right, bottom = (int(np.clip(np.ceil(v + half), 0, limit)) for v, limit in ((x2, width), (y2, height)))
    if left >= right or top >= bottom:
        return
    outer_x, outer_y = _coverage(x1 - half, x2 + half, left, right), _coverage(y1 - half, y2 + half, top, bottom)
    inner_x, inner_y = _coverage(x1 + half, max(x1 + half, x2 - half), left, right), _coverage(y1 + half, max(y1 + half, y2 - half), top, bottom)
    alpha = opacity * (outer_y[:, None] * outer_x - inner_y[:, None] * inner_x)[..., None]
    window = canvas[top:bottom, left:right]
    window += alpha * (np.array(colour, dtype=np.float32) - window)


def _padding(font: ImageFont.FreeTypeFont) -> tuple[int, int]:
    ascent, descent = font.getmetrics()
    return max(3, (ascent + descent) // 3), max(1, (ascent + descent) // 10)


def _chip_size(text: str, font: ImageFont.FreeTypeFont) -> tuple[int, int]:
    pad_x, pad_y = _padding(font)
    return round(font.getlength(text)) + 2 * pad_x, sum(font.getmetrics()) + 2 * pad_y


def _free_place(box: Sequence[float], size: tuple[int, int], image: tuple[int, int], gap: int, taken: Sequence[Rect]) -> Rect | None:
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


def _draw_chip(picture: Image.Image, place: Rect, text: str, font: ImageFont.FreeTypeFont, colour: Colour) -> None:
    zoom, (w, h) = 4, (place[2] - place[0], place[3] - place[1])
    shape = Image.new("L", (w * zoom, h * zoom), 0)
    ImageDraw.Draw(shape).rounded_rectangle((0, 0, w * zoom - 1, h * zoom - 1), radius=h * zoom // 5, fill=235)
    picture.paste(colour, (place[0], place[1]), shape.resize((w, h), Image.Resampling.BOX))
    pad_x, pad_y = _padding(font)
    ImageDraw.Draw(picture).text((place[0] + pad_x, place[1] + pad_y), text, fill=legible_on(colour), font=font)
