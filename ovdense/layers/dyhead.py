"""Dynamic head block (arXiv 2106.08322): each level looks at itself and its neighbours through deformable convolutions."""
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovdense.layers.deform import deform_conv3x3


def hard_sigmoid(x: Tensor) -> Tensor:
    """Return relu6(x + 3) / 6."""
    return F.relu6(x + 3) / 6


class DynamicReLU(nn.Module):
    """Dynamic ReLU B (arXiv 2003.10027): the larger of two lines per channel, whose slopes follow the mean feature."""

    def __init__(self, channels: int, *, reduction: int = 4) -> None:
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(channels, channels // reduction), nn.ReLU(inplace=True), nn.Linear(channels // reduction, 4 * channels))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Return the maps (each B, C, H, W) rectified; the lines of all are computed at once."""
        mean = torch.cat([x.mean((2, 3)) for x in maps])
        a1, b1, a2, b2 = (hard_sigmoid(self.fc(mean)) - 0.5)[:, :, None, None].chunk(4, dim=1)
        lines = zip(maps, *(v.split(len(maps[0])) for v in (2 * a1 + 1, b1, 2 * a2, b2)))
        return [torch.maximum(torch.addcmul(b, x, a), torch.addcmul(d, x, c)) for x, a, b, c, d in lines]


class ConvNorm(nn.Module):
    """3x3 convolution, deformable if `offset` is given, then group norm with 16 groups."""

    def __init__(self, channels: int, *, stride: int = 1, num_groups: int = 16) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=stride, padding=1)
        self.bn = nn.GroupNorm(num_groups, channels)

    def forward(self, x: Tensor, offset: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        conv = self.conv
        if offset is None:
            return self.bn(conv(x))
        # offsets are positions: half precision would move them by whole pixels on large maps
        with torch.autocast(x.device.type, enabled=False):
            y = deform_conv3x3(x.float(), offset.float(), mask.float(), conv.weight.float(), conv.bias.float(), stride=conv.stride[0])
        return self.bn(y.to(x.dtype))


def read_flat(x_BCHW: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Return the first C*h*w numbers of each sample's memory as (C, h, w).

    What the published kernels do when they are given the offsets of a finer level: they never check the size.
    """
    h, w = size_hw
    channels = x_BCHW.shape[1]
    return x_BCHW.flatten(1)[:, : channels * h * w].unflatten(1, (channels, h, w))


class DyConv(nn.Module):
    """One block of the dynamic head over all levels, finest first.

    `coarse_offsets` says how the convolution on the next coarser level gets its offsets: "published" reads the
    memory of this level's (of another size) as the released kernels do; "resized" interpolates this level's offsets
    to that size. `deformable=False` gives plain convolutions (GLIP's USE_DFCONV off): cheaper on a CPU.
    """

    def __init__(self, channels: int = 256, *, deformable: bool = True, coarse_offsets: Literal["published", "resized"] = "published") -> None:
        super().__init__()
        if coarse_offsets not in ("published", "resized"):
            raise ValueError(f'coarse_offsets must be "published" or "resized", got {coarse_offsets!r}')
        self.coarse_offsets = coarse_offsets
        self.from_coarse = ConvNorm(channels)
        self.from_same = ConvNorm(channels)
        self.from_fine = ConvNorm(channels, stride=2)
        self.scale_attention = nn.Conv2d(channels, 1, 1)
        self.relu = DynamicReLU(channels)
        self.offset = nn.Conv2d(channels, 27, 3, padding=1) if deformable else None
        for conv in (self.from_coarse.conv, self.from_same.conv, self.from_fine.conv, self.scale_attention):
            nn.init.normal_(conv.weight, std=0.01)
            nn.init.zeros_(conv.bias)

    def _offsets(self, feature: Tensor) -> tuple[Tensor | None, Tensor | None]:
        if self.offset is None:
            return None, None
        both = self.offset(feature)
        return both[:, :18], both[:, 18:].sigmoid()

    def _for_coarse(self, x: Tensor | None, size_hw) -> Tensor | None:
        if x is None:
            return None
        if self.coarse_offsets == "published":
            return read_flat(x, size_hw)
        return F.interpolate(x, size=size_hw, mode="bilinear", align_corners=True)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        levels = []
        for level, feature in enumerate(maps):
            offset, mask = self._offsets(feature)
            views = [self.from_same(feature, offset, mask)]
            if level > 0:
                views.append(self.from_fine(maps[level - 1], offset, mask))
            if level < len(maps) - 1:
                coarse = maps[level + 1]
                size = coarse.shape[-2:]
                y = self.from_coarse(coarse, self._for_coarse(offset, size), self._for_coarse(mask, size))
                views.append(F.interpolate(y, size=feature.shape[-2:], mode="bilinear", align_corners=True))
            levels.append(views)
        weights = iter(self._view_weights([view for views in levels for view in views]))
        totals = []
        for views in levels:
            first, *more = [(view, next(weights)) for view in views]
            total = first[0] * first[1]
            for view, weight in more:
                total = torch.addcmul(total, view, weight)
            totals.append(total / len(views))
        return self.relu(totals)

    def _view_weights(self, views: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return how much each view (B, C, H, W) counts, (B, 1, 1, 1): all views' weights at once, small operations cost more than they compute."""
        mean = torch.cat([view.mean((2, 3)) for view in views])
        logit = F.linear(mean, self.scale_attention.weight.flatten(1), self.scale_attention.bias)
        return hard_sigmoid(F.relu(logit))[:, :, None, None].split(len(views[0]))
