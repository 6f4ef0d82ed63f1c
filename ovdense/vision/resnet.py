"""ResNet (arXiv 1512.03385) with frozen batch norms, as DETR and MDETR use it; the norms are folded into the convolutions.

Normalising after a convolution with fixed statistics is another convolution: the activations are touched once instead of
three times, in training too. Maps are kept in channels-last order, which convolves fastest, but for the backward pass on a CPU (`_layout`).
"""
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovdense.compat.weights import load_checked, read_state_dict
from ovdense.registry import MODELS
from ovdense.structures import FeatureMap
from ovdense.vision.backbones import IMAGENET_MEAN, IMAGENET_STD
from ovdense.vision.freezing import check_frozen_stages

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
_EPS = 1e-5


def _layout(x: Tensor) -> torch.memory_format:
    """Return the order of dimensions for images like `x`: on a CPU gradients of convolutions are quicker in the plain one."""
    return torch.contiguous_format if x.device.type == "cpu" and torch.is_grad_enabled() else torch.channels_last


class FoldedConv(nn.Module):
    """A convolution and the frozen batch norm after it: `weight` is trained, scale, shift and statistics are buffers.

    In evaluation mode the folded weights are kept; `train`, `eval` and a change of the weights make them anew.
    """

    def __init__(self, in_channels: int, channels: int, size: int, stride: int = 1) -> None:
        super().__init__()
        self.stride, self.padding = stride, size // 2
        self.weight = nn.Parameter(torch.empty(channels, in_channels, size, size))
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")
        for name, value in (("scale", 1.0), ("shift", 0.0), ("mean", 0.0), ("var", 1.0)):
            self.register_buffer(name, torch.full((channels,), value))
        self._kept: tuple[tuple, Tensor, Tensor] | None = None

    def train(self, mode: bool = True) -> "FoldedConv":
        self._kept = None
        return super().train(mode)

    def _folded(self) -> tuple[Tensor, Tensor]:
        gain = self.scale * (self.var + _EPS).rsqrt()
        weight = (self.weight * gain[:, None, None, None]).contiguous(memory_format=_layout(self.weight))
        return weight, self.shift - self.mean * gain

    def forward(self, x: Tensor) -> Tensor:
        if self.training or torch.is_grad_enabled() and self.weight.requires_grad:
            weight, bias = self._folded()
        else:
            tensors = (self.weight, self.scale, self.shift, self.mean, self.var)
            key = tuple((t.data_ptr(), t._version if not t.is_inference() else 0, t.dtype) for t in tensors)
            if self._kept is None or self._kept[0] != key:
                with torch.inference_mode(False), torch.no_grad():
                    self._kept = (key, *self._folded())
            _, weight, bias = self._kept
        return F.conv2d(x, weight, bias, self.stride, self.padding)


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride), 1x1 to four times the channels, and the shortcut."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = FoldedConv(in_channels, channels, 1)
        self.conv2 = FoldedConv(channels, channels, 3, stride)
        self.conv3 = FoldedConv(channels, 4 * channels, 1)
        self.shortcut = FoldedConv(in_channels, 4 * channels, 1, stride) if stride > 1 or in_channels != 4 * channels else None

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.conv2(F.relu(self.conv1(x), inplace=True)), inplace=True)
        return F.relu_(self.conv3(y).add_(x if self.shortcut is None else self.shortcut(x)))


@MODELS.register_module()
class FrozenNormResNet(nn.Module):
    """ResNet-50, -101 or -152 with frozen batch norms, as a list of FeatureMaps.

    `out_strides` among 4, 8, 16, 32. `frozen_stages`: -1 nothing, 0 the stem, n also the first n stages (DETR and MDETR: 1).
    `weights`: a state dict with torchvision's names (its own ImageNet files), or None.
    """

    mean, std = IMAGENET_MEAN, IMAGENET_STD  # of RGB in 0..255

    def __init__(self, depth: int = 101, *, out_strides: Sequence[int] = (32,), frozen_stages: int = 1, weights: str | Path | None = None) -> None:
        super().__init__()
        if depth not in BLOCKS:
            raise ValueError(f"depth must be one of {', '.join(map(str, BLOCKS))}, got {depth}; other networks: TimmBackbone")
        if not out_strides or list(out_strides) != sorted(set(out_strides)) or not set(out_strides) <= {4, 8, 16, 32}:
            raise ValueError(f"out_strides must be rising numbers of 4, 8, 16, 32, got {tuple(out_strides)}")
        check_frozen_stages(frozen_stages, 4)
        self.strides = tuple(out_strides)
        self.channels = tuple(64 * s for s in self.strides)
        self.stem = FoldedConv(3, 64, 7, 2)
        self.stages, width = nn.ModuleList(), 64
        for n, count in enumerate(BLOCKS[depth][: self.strides[-1].bit_length() - 2]):
            blocks = [Bottleneck(width if k == 0 else 256 * 2**n, 64 * 2**n, 2 if k == 0 and n else 1) for k in range(count)]
            self.stages.append(nn.Sequential(*blocks))
            width = 256 * 2**n
        self._frozen = frozen_stages
        for module in [self.stem, *self.stages[:frozen_stages]] if frozen_stages >= 0 else ():
            module.requires_grad_(False)
        if weights is not None:
            load_checked(self, resnet_from_torchvision(read_state_dict(weights)), str(weights))

    def forward(self, images_BCHW: Tensor) -> list[FeatureMap]:
        """Return one FeatureMap a stride of `strides`; images are normalised with `mean`, `std`."""
        maps, x = [], self._part(-1, images_BCHW)
        for n in range(len(self.stages)):
            x = self._part(n, x)
            if 4 * 2**n in self.strides:
                maps.append(FeatureMap(tensor_BCHW=x, stride=4 * 2**n))
        return maps

    def _part(self, n: int, x: Tensor) -> Tensor:
        """Return the stem's maps (n = -1) or stage n's; frozen parts of images that need no gradient compute as in a test."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and (n >= self._frozen or x.requires_grad)):
            x = x.contiguous(memory_format=_layout(x))
            if n >= 0:
                return self.stages[n](x)
            return F.max_pool2d(F.relu(self.stem(x), inplace=not torch.is_grad_enabled()), 3, 2, 1)


_NORM = {"weight": "scale", "bias": "shift", "running_mean": "mean", "running_var": "var"}


def resnet_from_torchvision(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return torchvision's ResNet tensors under our names, without classifier and step counters; KeyError for an unknown name."""
    ours = {}
    for name, tensor in state.items():
        *parts, leaf = name.split(".")
        if parts[0] == "fc" or leaf == "num_batches_tracked":
            continue
        if parts[0] in ("conv1", "bn1") and len(parts) == 1:
            place, is_norm = "stem", parts[0] == "bn1"
        elif parts[0].startswith("layer") and len(parts) in (3, 4):
            where = f"stages.{int(parts[0][5:]) - 1}.{parts[1]}"
            is_norm = parts[2].startswith("bn") or parts[2:] == ["downsample", "1"]
            place = f"{where}.shortcut" if parts[2] == "downsample" else f"{where}.conv{parts[2][-1]}"
        else:
            raise KeyError(f"tensor {name!r} is not one of torchvision's ResNet")
        ours[f"{place}.{_NORM[leaf] if is_norm else leaf}"] = tensor
    return ours
