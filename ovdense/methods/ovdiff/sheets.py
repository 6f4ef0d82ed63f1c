"""Contact sheets of support sets: what was drawn, where the class was looked for, and what each part prototype stands for."""
import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from ovdense.compat.images import write_picture
from ovdense.drawing import draw_heat, named_rows
from ovdense.drawing.canvas import outline, tint
from ovdense.drawing.colours import palette
from ovdense.structures import ClassEntry
from ovdense.support.prototype_files import support_features
from ovdense.support.prototypes import unit_rows

TILE = 160
FOREGROUND, BACKGROUND = (40, 220, 90), (70, 120, 255)
ROWS = {"image": "image", "heat": "heat\nof the class", "masks": "masks\ngreen: class\nblue: around it", "parts": "parts\ncoloured: class\ngrey: around it"}


def write_sheet(folder: Path, model: Any, entry: ClassEntry, most: int = 8) -> Path:
    """Write FOLDER/CLASS.png and return its path: a column an image; rows: image, heat (where the class was looked for), masks, parts.

    The row of parts shows for the first extractor which part prototype each place is nearest to (parts of the class in colours, of what is around
    it in greys).
    """
    support, prototypes, extractor = model.support.support_set(entry), model.build_class(entry)[0], model.extractors[0]
    columns = [_column(model, entry, image, prototypes, extractor) for image in support.images[:most]]
    kinds = [kind for kind in ROWS if any(kind in column for column in columns)]
    blank = np.full((TILE, TILE, 3), 255, np.uint8)
    rows = [np.concatenate([column.get(kind, blank) for column in columns], 1) for kind in kinds]
    title = f"{entry.name}: {min(most, len(support.images))} of {len(support.images)} support images"
    path = folder / f"{file_stem(entry.name)}.png"
    write_picture(path, named_rows(rows, [ROWS[kind] for kind in kinds], title=title))
    return path


def file_stem(name: str) -> str:
    """Return a class's name as a file's: letters and digits of any script, "_" for all else, and a mark where that alone would not tell it apart."""
    plain = re.sub(r"\W+", "_", name).strip("_")[:80]
    return plain if plain == name.replace(" ", "_") else f"{plain or 'class'}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def _column(model: Any, entry: ClassEntry, support: Any, prototypes: Any, extractor: Any) -> dict[str, np.ndarray]:
    """Return one image's tiles by the kind of row."""
    pixels = support.read()
    masks = model.masker(support, entry, pixels)
    tiles = {"image": pixels}
    if support.details.get("foreground") is None:
        tiles["heat"] = draw_heat(pixels, model.masker.heat(support, entry, pixels).cpu().numpy(), low=0.0, high=1.0, min_side=1, scale=False)
    canvas = pixels.astype(np.float32) * 0.6
    for mask, colour in ((masks.foreground_HW, FOREGROUND), (masks.background_HW, BACKGROUND)):
        mask = mask.cpu().numpy()
        tint(canvas, mask, colour, 0.45)
        tint(canvas, outline(mask, max(1, round(0.006 * mask.size**0.5))), colour, 1.0)
    tiles |= {"masks": canvas.round().clip(0, 255).astype(np.uint8), "parts": _parts(pixels, prototypes, extractor)}
    return {kind: _tile(t) for kind, t in tiles.items()}


def _tile(picture: np.ndarray) -> np.ndarray:
    """Return (TILE, TILE, 3): the whole picture in the middle, white around it."""
    scale = TILE / max(picture.shape[:2])
    height, width = (max(1, round(side * scale)) for side in picture.shape[:2])
    tile, top, left = np.full((TILE, TILE, 3), 255, np.uint8), (TILE - height) // 2, (TILE - width) // 2
    tile[top : top + height, left : left + width] = np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.LANCZOS))
    return tile


def _parts(pixels: np.ndarray, prototypes: Any, extractor: Any) -> np.ndarray:
    fore, back = prototypes.foreground.rows(("part",)), prototypes.background.rows(("part",))
    if not len(fore):
        fore, back = prototypes.foreground.rows(("class",)), prototypes.background.rows(("class",))
    feat_CHW = support_features(extractor, pixels)
    places = unit_rows(feat_CHW.permute(1, 2, 0).flatten(0, 1))
    nearest = (places @ unit_rows(torch.cat([fore, back])).T).argmax(1)
    colours = [palette()[5 * k % len(palette())] for k in range(len(fore))]  # hues far apart one after the other
    colours += [(40 + 120 * k // max(len(back), 1),) * 3 for k in range(len(back))]
    label = nearest.view(1, 1, *feat_CHW.shape[1:]).float()
    label = F.interpolate(label, size=pixels.shape[:2], mode="nearest")[0, 0].long().numpy()
    return np.array(colours, np.uint8)[label]
