"""One square anchor per place, and the deltas that turn it into a box (GLIP, RetinaNet's box coder)."""
import math
from collections.abc import Sequence

import torch
from torch import Tensor

DELTA_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
_MAX_LOG_SCALE = math.log(1000.0 / 16)


def grid_anchors(sizes_hw: Sequence[tuple[int, int]], strides: Sequence[int], *, scale: float = 8.0, device=None) -> Tensor:
    """Return (sum of H*W, 4) anchors of side `scale` x stride centred on each cell, levels in order, rows first; xyxy pixels."""
    levels = []
    for (h, w), stride in zip(sizes_hw, strides, strict=True):
        y = (torch.arange(h, device=device, dtype=torch.float32) + 0.5) * stride
        x = (torch.arange(w, device=device, dtype=torch.float32) + 0.5) * stride
        cy, cx = torch.meshgrid(y, x, indexing="ij")
        centre, half = torch.stack([cx, cy], dim=-1).reshape(-1, 2), scale * stride / 2
        levels.append(torch.cat([centre - half, centre + half], dim=-1))
    return torch.cat(levels)


def decode_deltas(delta: Tensor, anchors_xyxy: Tensor) -> Tensor:
    """Return boxes (..., 4) from deltas (dx, dy, dw, dh) x DELTA_WEIGHTS; sizes grow at most 62.5 times."""
    delta = delta.float() / delta.new_tensor(DELTA_WEIGHTS, dtype=torch.float32)
    size = anchors_xyxy[..., 2:] - anchors_xyxy[..., :2]
    centre = (anchors_xyxy[..., :2] + anchors_xyxy[..., 2:]) / 2 + delta[..., :2] * size
    half = delta[..., 2:].clamp(max=_MAX_LOG_SCALE).exp() * size / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def encode_deltas(boxes_xyxy: Tensor, anchors_xyxy: Tensor) -> Tensor:
    """Return the deltas that `decode_deltas` turns into these boxes."""
    size = anchors_xyxy[..., 2:] - anchors_xyxy[..., :2]
    shift = ((boxes_xyxy[..., :2] + boxes_xyxy[..., 2:]) - (anchors_xyxy[..., :2] + anchors_xyxy[..., 2:])) / 2 / size
    growth = ((boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]) / size).log()
    return torch.cat([shift, growth], dim=-1) * boxes_xyxy.new_tensor(DELTA_WEIGHTS)
