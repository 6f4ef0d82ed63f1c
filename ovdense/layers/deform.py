"""Modulated deformable 3x3 convolution (DCN v2, arXiv 1811.11168), with a path that is fast on a CPU.

torchvision's CPU kernel is single-threaded in the backward pass. Sampling all nine taps with `grid_sample`, then one matrix
product, is the same arithmetic and several times faster there; on other devices torchvision's kernel is used.
"""
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import deform_conv2d


def deform_conv3x3(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor, *, stride: int = 1, kernel: str | None = None) -> Tensor:
    """Return (B, C', h, w) from `x` (B, C, H, W), padding 1.

    `offset` (B, 18, h, w): dy, dx in pixels of `x` for each tap, rows first; `mask` (B, 9, h, w) in 0..1. `kernel`:
    "sampling" or "torchvision"; None picks the faster one of the device.
    """
    kernel = kernel or ("sampling" if x.device.type == "cpu" else "torchvision")
    if kernel == "torchvision":
        return deform_conv2d(x, offset, weight, bias, stride, 1, 1, mask)
    if kernel != "sampling":
        raise ValueError(f'kernel must be "sampling", "torchvision" or None, got {kernel!r}')
    batch, channels, height, width = x.shape
    h, w = offset.shape[-2:]
    shift = offset.unflatten(1, (9, 2))
    tap = torch.arange(3, device=x.device, dtype=x.dtype) - 1
    row = torch.arange(h, device=x.device, dtype=x.dtype)[:, None] * stride + tap.repeat_interleave(3)[:, None, None]
    column = torch.arange(w, device=x.device, dtype=x.dtype) * stride + tap.repeat(3)[:, None, None]
    y, x_at = row + shift[:, :, 0], column + shift[:, :, 1]
    grid = torch.stack([(2 * x_at + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1).reshape(batch, 9 * h, w, 2)
    taps = F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    taps = taps.reshape(batch, channels, 9, h * w) * mask.reshape(batch, 1, 9, h * w)
    out = weight.flatten(1) @ taps.reshape(batch, channels * 9, h * w) + bias[:, None]
    return out.reshape(batch, -1, h, w)
