"""Pictures beside each other: contact sheets with captions, a prediction beside the truth, rows with a title. Images are (H, W, 3) uint8 RGB."""
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from ovdense.drawing.canvas import fitted, text_font

_INK = (20, 20, 20)
MOST_HIGH = 4  # times its width that a cell of a contact sheet is high


def titled(image_rgb: np.ndarray, title: str, *, size: int | None = None) -> np.ndarray:
    """Return the image with a line of text above it, cut with an ellipsis where it is too long."""
    height, width = image_rgb.shape[:2]
    size = size or max(11, width // 36)
    face = text_font(size)
    strip = Image.new("RGB", (width, round(1.7 * size)), "white")
    ImageDraw.Draw(strip).text((size // 3, size // 4), fitted(title, "", face, width - size) if title else "", fill=_INK, font=face)
    return np.concatenate([np.asarray(strip), image_rgb])


def contact_sheet(images: Sequence[np.ndarray], columns: int, *, cell_width: int = 480, gap: int = 8, captions: Sequence[str] | None = None) -> np.ndarray:
    """Return the images in rows of `columns`, each `cell_width` wide (a strip four times as high at most), on white; `captions`: a line of text above each."""
    if not images or columns < 1:
        raise ValueError(f"a contact sheet needs an image and a column, got {len(images)} images and {columns} columns")
    if captions is not None and len(captions) != len(images):
        raise ValueError(f"{len(images)} images need as many captions, got {len(captions)}")
    columns = min(columns, len(images))
    cells = [_cell(image, cell_width) for image in images]
    if captions is not None:
        cells = [Image.fromarray(titled(np.asarray(cell), text)) for cell, text in zip(cells, captions)]
    rows = [cells[n : n + columns] for n in range(0, len(cells), columns)]
    heights = [max(c.height for c in row) for row in rows]
    sheet = Image.new("RGB", (columns * (cell_width + gap) + gap, sum(heights) + gap * (len(rows) + 1)), "white")
    y = gap
    for row, height in zip(rows, heights):
        for n, cell in enumerate(row):
            sheet.paste(cell, (gap + n * (cell_width + gap), y + (height - cell.height) // 2))
        y += height + gap
    return np.asarray(sheet)


def _cell(image_rgb: np.ndarray, width: int) -> Image.Image:
    height = image_rgb.shape[0] * width / image_rgb.shape[1]
    share = min(1.0, MOST_HIGH * width / height)
    drawn = Image.fromarray(image_rgb).resize((max(1, round(width * share)), max(1, round(height * share))), Image.Resampling.LANCZOS)
    cell = Image.new("RGB", (width, drawn.height), "white")
    cell.paste(drawn, ((width - drawn.width) // 2, 0))
    return cell


def named_rows(rows: Sequence[np.ndarray], names: Sequence[str], *, title: str = "", gap: int = 4) -> np.ndarray:
    """Return pictures of one width below each other, a name to the left of each and a title above all."""
    if not rows or len(rows) != len(names) or len({r.shape[1] for r in rows}) != 1:
        raise ValueError(f"rows must be of one width and have a name each, got widths {[r.shape[1] for r in rows]} and {len(names)} names")
    size = 13
    face = text_font(size)
    column = round(max((face.getlength(line) for name in names for line in name.split("\n")), default=0)) + 2 * size
    height, width = sum(r.shape[0] + gap for r in rows) - gap, column + rows[0].shape[1]
    sheet = Image.new("RGB", (width, height), "white")
    draw, y = ImageDraw.Draw(sheet), 0
    for row, name in zip(rows, names):
        draw.text((size // 2, y + size // 2), name, fill=_INK, font=face)
        sheet.paste(Image.fromarray(row), (column, y))
        y += row.shape[0] + gap
    return titled(np.asarray(sheet), title, size=15) if title else np.asarray(sheet)


def side_by_side(found: np.ndarray, truth: np.ndarray, *, titles: tuple[str, str] = ("found", "ground truth"), gap: int = 8) -> np.ndarray:
    """Return two pictures of one width beside each other, a title above each."""
    if found.shape[1] != truth.shape[1]:
        raise ValueError(f"pictures beside each other must be of one width, got {found.shape[1]} and {truth.shape[1]}")
    pair = [titled(image, title) for image, title in zip((found, truth), titles)]
    height = max(i.shape[0] for i in pair)
    pair = [np.pad(i, ((0, height - i.shape[0]), (0, 0), (0, 0)), constant_values=255) for i in pair]
    return np.concatenate([pair[0], np.full((height, gap, 3), 255, np.uint8), pair[1]], axis=1)
