"""Contact sheets of support sets: what was drawn, where the class was looked for, and what each part prototype stands for."""
import colorsys
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from ovdense.compat.images import write_picture
from ovdense.structures import ClassEntry
from ovdense.support.prototypes import unit_rows

TILE = 128


def write_sheet(folder: Path, model: Any, entry: ClassEntry, most: int = 8) -> Path:
    """Write FOLDER/CLASS.png and return its path: a column an image; rows: image, heat, masks (foreground green, background blue), parts.

    The row of parts shows for the first extractor which part prototype each place is nearest to (foreground parts in warm colours, background
    parts in grey).
    """
    support, prototypes, extractor = model.support.support_set(entry), model.build_class(entry)[0], model.extractors[0]
    columns = [_column(model, entry, image, prototypes, extractor) for image in support.images[:most]]
    path = folder / f"{re.sub(r'[^A-Za-z0-9]+', '_', entry.name).strip('_') or 'class'}.png"
    return write_picture(path, np.concatenate(columns, 1))


def _column(model: Any, entry: ClassEntry, support: Any, prototypes: Any, extractor: Any) -> np.ndarray:
    pixels = support.read()
    masks = model.masker(support, entry, pixels)
    tiles = [pixels]
    if support.details.get("foreground") is None:
        heat = model.masker.heat(support, entry, pixels)
        tiles.append(np.repeat((255 * heat).byte().numpy()[..., None], 3, 2))
    tint = pixels.astype(np.float32) * 0.4
    tint[masks.foreground_HW.numpy(), 1] += 150
    tint[masks.background_HW.numpy(), 2] += 150
    tiles += [np.clip(tint, 0, 255).astype(np.uint8), _parts(pixels, prototypes, extractor)]
    return np.concatenate([np.asarray(Image.fromarray(t).resize((TILE, TILE), Image.Resampling.NEAREST)) for t in tiles])


def _parts(pixels: np.ndarray, prototypes: Any, extractor: Any) -> np.ndarray:
    fore, back = prototypes.foreground.rows(("part",)), prototypes.background.rows(("part",))
    if not len(fore):
        fore, back = prototypes.foreground.rows(("class",)), prototypes.background.rows(("class",))
    image = torch.tensor(pixels).permute(2, 0, 1)[None].float() / 255
    feat_CHW = extractor.support(image)[0].cpu()
    places = unit_rows(feat_CHW.permute(1, 2, 0).flatten(0, 1))
    nearest = (places @ unit_rows(torch.cat([fore, back])).T).argmax(1)
    colours = [[round(255 * c) for c in colorsys.hsv_to_rgb(k / max(len(fore), 1) * 0.9, 0.85, 1.0)] for k in range(len(fore))]
    colours += [[40 + 120 * k // max(len(back), 1)] * 3 for k in range(len(back))]
    label = nearest.view(1, 1, *feat_CHW.shape[1:]).float()
    label = F.interpolate(label, size=pixels.shape[:2], mode="nearest")[0, 0].long().numpy()
    return np.array(colours, np.uint8)[label]
