"""Learned tables of positions, brought to the size of a feature map. C channels, S the side of the table's square grid."""
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

FitPositions = Literal["interpolate", "crop"]


def fit_positions(table_NC: Tensor, size_hw: tuple[int, int], how: FitPositions = "interpolate") -> Tensor:
    """Return (1 + H * W, C): the first row of `table_NC` (1 + S * S, C) as it is, the grid brought to `size_hw`.

    "interpolate": bilinear, pixel centres kept (align_corners False), as DenseCLIP's segmenters do in each forward and all
    of its models at loading. "crop": the top left part, as its detectors do; a map that is larger than the table, with
    which the release fails, first has the grid interpolated to its longer side.
    """
    side = round((len(table_NC) - 1) ** 0.5)
    if side * side + 1 != len(table_NC):
        raise ValueError(f"a table of positions must have one row and a square grid, got {len(table_NC)} rows")
    (height, width), grid_CSS = size_hw, table_NC[1:].T.unflatten(1, (side, side))
    if how == "crop":
        longer = max(height, width)
        if longer > side:
            grid_CSS = _interpolate(grid_CSS, (longer, longer))
        grid_CSS = grid_CSS[:, :height, :width]
    elif how == "interpolate":
        grid_CSS = _interpolate(grid_CSS, (height, width))
    else:
        raise ValueError(f'how must be "interpolate" or "crop", got {how!r}')
    return torch.cat([table_NC[:1], grid_CSS.flatten(1).T])


def _interpolate(grid_CSS: Tensor, size_hw: tuple[int, int]) -> Tensor:
    if grid_CSS.shape[1:] == size_hw:
        return grid_CSS
    return F.interpolate(grid_CSS[None], size=size_hw, mode="bilinear", align_corners=False)[0]
