"""Results drawn on their image: boxes, masks, label maps, labels that find room, a legend where there are many. Images are (H, W, 3) uint8 RGB.

A class has one colour in a picture, unlike that of every other (see `colours.class_colours`). Few objects are labelled one by one with their score;
of many each class is labelled at its best objects, and counted in a legend below the picture.
"""
from collections import Counter
from collections.abc import Sequence

import numpy as np
from PIL import Image

from ovdense.drawing.canvas import (
    Rect,
    blend_frame,
    chip_size,
    draw_chip,
    draw_leader,
    enlarged,
    enlarged_labels,
    fitted,
    free_place,
    label_text,
    legend_strip,
    outline,
    padding,
    spoken,
    text_font,
    thick,
    tint,
    zoom_to,
)
from ovdense.drawing.colours import Colour, class_colours
from ovdense.structures import IGNORE_LABEL, Results

_FILL = 0.45  # of a mask's colour
CROWDED = 15  # detections: more are not labelled one by one
LABELS_A_CLASS = 3  # of a crowded picture


def draw_results(image_rgb: np.ndarray, results: Results, *, score_thr: float = 0.3, max_labels: int = 40, min_side: int = 640,
                 same_place_iou: float = 0.7, legend: bool | None = None, scores: bool = True, together: Sequence[str] = ()) -> np.ndarray:
    """Return a picture of the image with the detections of at least `score_thr`; the `max_labels` best get a label.

    Boxes must be in pixels of `image_rgb`; an image whose short side is below `min_side` is enlarged to it (a strip until it is eight times that
    long), so that labels are small beside objects. Of boxes that overlap by `same_place_iou` only the best is drawn, whatever their classes (1:
    all are). Labels lie inside the image and never on each other; one that lies apart from its box has a line to it, one that finds no
    free place is left out, its box stays. `legend`: a strip below the image with every class and its count (None: of more than 15 detections, whose
    labels are then short and at most three a class). `scores`: write them. `together`: names that pictures shown side by side have, so that a class has one
    colour in all of them. Results with a label map are drawn by `draw_label_map`.
    """
    _check(image_rgb)
    if results.label_map_HW is not None:
        return draw_label_map(image_rgb, results.label_map_HW.cpu().numpy(), results.names, max_labels=max_labels, min_side=min_side, legend=legend,
                              together=together)  # fmt: skip
    shown = results.above(score_thr)
    order = shown.scores.argsort(descending=True, stable=True).tolist()
    zoom = zoom_to(image_rgb.shape[:2], min_side)
    image_rgb = enlarged(image_rgb, zoom)
    boxes, names = (shown.boxes_xyxy * zoom).tolist(), [shown.names[k] for k in shown.labels.tolist()]
    order = _best_of_place(order, boxes, same_place_iou)
    colours = class_colours(shown.names, [*together, *(names[n] for n in order)])
    height, width = image_rgb.shape[:2]
    crowded = len(order) > CROWDED
    thickness = max(2.0, (0.0025 if crowded or shown.masks_NHW is not None else 0.0035) * (height * width) ** 0.5)
    canvas = image_rgb.astype(np.float32)
    if shown.masks_NHW is not None:
        for n in sorted(order, key=lambda n: -int(shown.masks_NHW[n].sum())):  # small ones on top
            _draw_mask(canvas, enlarged_labels(shown.masks_NHW[n].cpu().numpy(), (height, width)), colours[names[n]])
    for n in reversed(order):  # the best on top
        blend_frame(canvas, boxes[n], thickness + 2, (0, 0, 0), 0.35)
        blend_frame(canvas, boxes[n], thickness, colours[names[n]], 1.0)
    picture = Image.fromarray(canvas.round().clip(0, 255).astype(np.uint8))
    labelled = _first_of_each(order, names, LABELS_A_CLASS if crowded else len(order))[:max_labels]
    scores = scores and not crowded
    _label_boxes(picture, [(boxes[n], names[n], float(shown.scores[n]) if scores else None) for n in labelled], colours, thickness, small=crowded)
    entries = Counter(names[n] for n in order)
    return _with_legend(picture, [(f"{spoken(k)} \u00d7{v}" if v > 1 else spoken(k), colours[k]) for k, v in entries.most_common()],
                        crowded if legend is None else legend)  # fmt: skip


def _check(image_rgb: np.ndarray) -> None:
    if image_rgb.dtype != np.uint8 or image_rgb.ndim != 3 or image_rgb.shape[2] != 3:
        raise ValueError(f"the image must be uint8 of shape (H, W, 3), RGB, got {image_rgb.dtype} {image_rgb.shape}")


def _draw_mask(canvas: np.ndarray, mask: np.ndarray, colour: Colour) -> None:
    radius = max(1, round(0.0012 * mask.size**0.5))
    tint(canvas, mask, colour, _FILL)
    tint(canvas, outline(mask, radius), colour, 0.9)


def _first_of_each(order: Sequence[int], names: Sequence[str], most: int) -> list[int]:
    """Return those of `order` that are among the first `most` of their class."""
    seen: Counter[str] = Counter()
    kept = []
    for n in order:
        seen[names[n]] += 1
        if seen[names[n]] <= most:
            kept.append(n)
    return kept


def _font_size(size_wh: tuple[int, int], small: bool = False) -> int:
    return max(10, round((0.016 if small else 0.02) * (size_wh[0] * size_wh[1]) ** 0.5))


def _longest(width: int, size: int) -> float:
    """Return how many pixels a label's text may have."""
    return min(max(0.5 * width, 14 * size), width - 2 * padding(text_font(size))[0])


def _label_boxes(picture: Image.Image, labels: Sequence[tuple[Sequence[float], str, float | None]], colours: dict[str, Colour], thickness: float,
                 small: bool) -> None:  # fmt: skip
    """Write (box, class, score) where there is room, the first ones first."""
    size = _font_size(picture.size, small)
    face, taken, placed = text_font(size), [], []
    for box, name, score in labels:
        text = label_text(name, score, face, _longest(picture.width, size))
        place = free_place(box, chip_size(text, face), picture.size, round(thickness), taken)
        if place is not None:
            taken.append(place)
            placed.append((place, box, text, colours[name]))
    for place, box, _, colour in placed:  # lines below all labels
        draw_leader(picture, place, box, colour, thickness)
    for place, _, text, colour in placed:
        draw_chip(picture, place, text, face, colour)


def _with_legend(picture: Image.Image, entries: Sequence[tuple[str, Colour]], wanted: bool) -> np.ndarray:
    pixels = np.asarray(picture)
    return np.concatenate([pixels, legend_strip(picture.width, entries, _font_size(picture.size))]) if wanted else pixels


def draw_label_map(image_rgb: np.ndarray, label_HW: np.ndarray, names: Sequence[str], *, background: Sequence[str] = ("background",), max_labels: int = 40,
                   min_side: int = 640, legend: bool | None = None, together: Sequence[str] = ()) -> np.ndarray:
    """Return a picture of the image with every pixel's class: tinted, regions outlined, each region of some size with its name.

    Pixels of the classes `background` and of IGNORE_LABEL stay as they are. `legend`: a strip below the image with every class and its share of
    the pixels (None: where a class has no region that is large enough for its name, or there are more than 8 classes). `together`: see `draw_results`.
    """
    _check(image_rgb)
    if label_HW.shape != image_rgb.shape[:2]:
        raise ValueError(f"the label map must have the image's size {image_rgb.shape[:2]}, got {label_HW.shape}")
    zoom = zoom_to(image_rgb.shape[:2], min_side)
    image_rgb = enlarged(image_rgb, zoom)
    height, width = image_rgb.shape[:2]
    label_HW = enlarged_labels(label_HW, (height, width))
    canvas = image_rgb.astype(np.float32)
    present, count = np.unique(label_HW, return_counts=True)
    share = {k: c / label_HW.size for k, c in zip(present.tolist(), count.tolist())}
    shown = [k for k in share if k != IGNORE_LABEL and k < len(names) and names[k] not in background]
    colours = class_colours([n for n in names if n not in background], [*together, *(names[k] for k in shown)])
    edge = _edges(label_HW, max(1, round(0.0015 * (height * width) ** 0.5)))
    for k in shown:
        region = label_HW == k
        tint(canvas, region, colours[names[k]], _FILL)
        tint(canvas, region & edge, colours[names[k]], 1.0)
    picture = Image.fromarray(canvas.round().clip(0, 255).astype(np.uint8))
    labelled = _label_regions(picture, _seats(label_HW, shown)[:max_labels], names, colours)
    if legend is None:
        legend = max_labels > 0 and (not labelled.issuperset(shown) or len(shown) > 8)
    entries = [(f"{spoken(names[k])} {share[k]:.0%}" if share[k] >= 0.01 else f"{spoken(names[k])} <1%", colours[names[k]])
               for k in sorted(shown, key=lambda k: -share[k])]  # fmt: skip
    return _with_legend(picture, entries, legend)


def _edges(label_HW: np.ndarray, radius: int) -> np.ndarray:
    edge = np.zeros(label_HW.shape, dtype=bool)
    edge[:, 1:] |= label_HW[:, 1:] != label_HW[:, :-1]
    edge[1:] |= label_HW[1:] != label_HW[:-1]
    return thick(edge, radius)


def _label_regions(picture: Image.Image, seats: Sequence[tuple[int, int, int]], names: Sequence[str], colours: dict[str, Colour]) -> set[int]:
    """Write the class at each seat where there is room; return the classes that have been written."""
    size = _font_size(picture.size)
    face, written = text_font(size), set()
    taken: list[Rect] = []
    for k, y, x in seats:
        text = fitted(spoken(names[k]), "", face, _longest(picture.width, size))
        w, h = chip_size(text, face)
        place = free_place((x - w / 2, y + h / 2, x + w / 2, y + h / 2), (w, h), picture.size, 0, taken)
        if place is not None:
            taken.append(place)
            written.add(k)
            draw_chip(picture, place, text, face, colours[names[k]])
    return written


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
