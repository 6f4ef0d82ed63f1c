"""Image backbones: images in, a list of FeatureMaps out, finest first.

Every backbone has `channels` and `strides` (one number an output), and `mean` and `std` (RGB in 0..255) with which its
input has to be normalised. timm's convolutional families (ResNet, EfficientNet, ConvNeXt ...) come through
`TimmBackbone`; Swin is our own, because timm's wants one fixed input size.
"""
import difflib
from collections.abc import Sequence
from pathlib import Path

import timm
import torch
from torch import Tensor, nn

from ovdense.compat.weights import load_checked, read_state_dict
from ovdense.registry import MODELS
from ovdense.structures import FeatureMap
from ovdense.vision.embedded import embedded_state_dict
from ovdense.vision.freezing import BATCH_NORMS, check_frozen_stages, hold
from ovdense.vision.swin import PatchEmbed, SwinStage, initialise, swin_published_to_ours

__all__ = ["SwinBackbone", "TimmBackbone", "swin_published_to_ours"]

NUM_STAGES = 4  # of strides 4, 8, 16, 32
IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)


@MODELS.register_module()
class TimmBackbone(nn.Module):
    """A convolutional network of timm, such as 'resnet50' or 'tf_efficientnet_lite0'.

    `weights`: None (random), "embedded" (ImageNet weights that come as a pip package, see `vision/embedded.py`) or
    the path of a state dict with timm's names. Nothing is ever downloaded.
    `frozen_stages`: -1 nothing; 0 the stem, which is all before the layers of stride 4; n also the layers up to the
    last one of stride 2**(n + 1), so that 4 is everything. Frozen layers have no gradients and stay in eval mode.
    `norm_eval` keeps every BatchNorm's statistics in training, which small batches need; `norm_frozen` also their scale and shift.
    `norm_eps` replaces the norms' own epsilon: MDETR's EfficientNets were trained with 1e-5 where their ImageNet weights have 1e-3.
    """

    def __init__(
        self,
        name: str,
        *,
        out_strides: Sequence[int] = (8, 16, 32),
        weights: str | Path | None = None,
        frozen_stages: int = -1,
        norm_eval: bool = True,
        norm_frozen: bool = False,
        norm_eps: float | None = None,
    ) -> None:
        super().__init__()
        _check_name(name)
        check_frozen_stages(frozen_stages, NUM_STAGES)
        self.net = _features(name, tuple(out_strides))
        info = self.net.feature_info
        self.strides, self.channels = tuple(info.reduction()), tuple(info.channels())
        config = timm.get_pretrained_cfg(name)
        self.mean = tuple(round(255 * m, 3) for m in config.mean)
        self.std = tuple(round(255 * s, 3) for s in config.std)
        self.norm_eval = norm_eval
        self._frozen = _stem_and_stages(self.net, name, frozen_stages)
        for norm in (m for m in self.net.modules() if isinstance(m, BATCH_NORMS)):
            norm.eps = norm.eps if norm_eps is None else norm_eps
            if norm_frozen:
                norm.requires_grad_(False)
        if weights is not None:
            self._load(name, weights)
        self.train()

    def forward(self, images_BCHW: Tensor) -> list[FeatureMap]:
        """Return one FeatureMap a stride of `strides`, ceil(H / stride) high; images are normalised with `mean`, `std`."""
        return [FeatureMap(tensor_BCHW=x, stride=s) for x, s in zip(self.net(images_BCHW), self.strides)]

    def train(self, mode: bool = True) -> "TimmBackbone":
        """Set the mode; frozen layers, and with `norm_eval` every BatchNorm, stay in eval mode."""
        super().train(mode)
        hold(self._frozen, self, self.norm_eval)
        return self

    def _load(self, name: str, weights: str | Path) -> None:
        own = set(self.net.state_dict())
        if weights == "embedded":
            state = embedded_state_dict(name, timm.create_model(name, pretrained=False))  # complete, with the classifier
            load_checked(self.net, {k: v for k, v in state.items() if k in own}, f"the embedded {name}")
        else:
            load_checked(self.net, {_own_name(k, own): v for k, v in read_state_dict(weights).items()}, str(weights))


@MODELS.register_module()
class SwinBackbone(nn.Module):
    """Swin as a list of FeatureMaps; the defaults are the published Swin-T.

    `out_strides` are among 4, 8, 16, 32; every output has its norm, except stride 4, which is given raw (GLIP's
    convention). `weights` is a published checkpoint (classification, detection or GLIP; see `swin_published_to_ours`)
    or None. `frozen_stages`: -1 nothing, 0 the patch embedding, n also the first n stages (with their downsampling).
    `drop_path_rate` rises linearly to this value over the blocks. `use_checkpoint` computes activations twice to save memory.
    """

    mean, std = IMAGENET_MEAN, IMAGENET_STD  # of RGB in 0..255

    def __init__(
        self,
        embed_dim: int = 96,
        *,
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window: int = 7,
        out_strides: Sequence[int] = (8, 16, 32),
        drop_path_rate: float = 0.2,
        frozen_stages: int = -1,
        use_checkpoint: bool = False,
        weights: str | Path | None = None,
    ) -> None:
        super().__init__()
        all_strides = tuple(4 * 2**i for i in range(len(depths)))
        if len(num_heads) != len(depths):
            raise ValueError(f"num_heads must have one number for each of the {len(depths)} stages, got {tuple(num_heads)}")
        if not out_strides or list(out_strides) != sorted(set(out_strides)) or not set(out_strides) <= set(all_strides):
            raise ValueError(f"out_strides must be rising numbers of {all_strides}, got {tuple(out_strides)}")
        check_frozen_stages(frozen_stages, len(depths))
        self.strides = tuple(out_strides)
        self.channels = tuple(embed_dim * s // 4 for s in self.strides)
        self.frozen_stages = frozen_stages
        depths = tuple(depths[: all_strides.index(self.strides[-1]) + 1])  # later stages would give nothing

        rates = torch.linspace(0, drop_path_rate, sum(depths)).tolist()
        self.patch_embed = PatchEmbed(embed_dim)
        self.layers = nn.ModuleList()
        for i, depth in enumerate(depths):
            first = sum(depths[:i])
            stage = SwinStage(
                embed_dim * 2**i, depth=depth, num_heads=num_heads[i], window=window,
                drop_paths=rates[first : first + depth], downsample=i < len(depths) - 1,
            )
            stage.use_checkpoint = use_checkpoint
            self.layers.append(stage)
            if all_strides[i] in self.strides and i > 0:
                self.add_module(f"norm{i}", nn.LayerNorm(embed_dim * 2**i))
        self.apply(initialise)
        if weights is not None:
            state = swin_published_to_ours(read_state_dict(weights))
            # classification checkpoints have one norm at the end, detectors one an output
            load_checked(self, state, str(weights), may_miss=lambda name: name.startswith("norm"))
        self.train()

    def forward(self, images_BCHW: Tensor) -> list[FeatureMap]:
        """Return one FeatureMap a stride of `strides`, ceil(H / stride) high; images are normalised RGB of any size."""
        x_BHWC = self.patch_embed(images_BCHW)
        maps = []
        for i, stage in enumerate(self.layers):
            x_BHWC = stage(x_BHWC)
            if 4 * 2**i in self.strides:
                out = getattr(self, f"norm{i}")(x_BHWC) if i > 0 else x_BHWC
                maps.append(FeatureMap(tensor_BCHW=out.permute(0, 3, 1, 2).contiguous(), stride=4 * 2**i))
            if stage.downsample is not None:
                x_BHWC = stage.downsample(x_BHWC)
        return maps

    def train(self, mode: bool = True) -> "SwinBackbone":
        """Set the mode; frozen stages stay in eval mode."""
        super().train(mode)
        frozen = [self.patch_embed, *self.layers[: self.frozen_stages]] if self.frozen_stages >= 0 else []
        hold(frozen, self, norm_eval=False)
        return self


def _check_name(name: str) -> None:
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=5, cutoff=0.5)
        near = ", ".join(near) or "none"
        raise ValueError(f"name must be an architecture of timm, got {name!r}; near matches: {near}; timm.list_models() has all")


def _features(name: str, out_strides: tuple[int, ...]) -> nn.Module:
    """Return timm's network without its classifier, giving the last map of each of `out_strides`, and nothing after them."""
    if name.startswith("swin"):
        raise ValueError(f"timm's {name} takes one fixed image size only; use SwinBackbone")
    try:
        full = timm.create_model(name, pretrained=False, features_only=True)
    except RuntimeError as error:
        raise ValueError(f"timm gives no feature maps for {name!r} ({error}); use one such as 'resnet50'") from error
    reductions = full.feature_info.reduction()
    if len(set(reductions)) != len(reductions):
        raise ValueError(f"{name!r} must be a network with one map a stride, got strides {reductions}; use one such as 'resnet50'")
    if not out_strides or list(out_strides) != sorted(set(out_strides)) or not set(out_strides) <= set(reductions):
        raise ValueError(f"out_strides of {name} must be rising numbers of {tuple(reductions)}, got {out_strides}")
    wanted = tuple(reductions.index(s) for s in out_strides)
    net = timm.create_model(name, pretrained=False, features_only=True, out_indices=wanted)
    blocks = getattr(net, "blocks", None)
    if isinstance(blocks, nn.Sequential):  # of the EfficientNet family, which would run on to its last block
        last = int(net.feature_info.module_name()[-1].rsplit(".", 1)[-1])
        del blocks[last + 1 :]
    return net


def _units(net: nn.Module, ends: Sequence[str]) -> list[tuple[str, nn.Module]]:
    """Return the layers in forward order, cut fine enough that each of `ends` (modules with a map) closes one."""
    units = []
    for name, child in net.named_children():
        inner = any(end.startswith(name + ".") for end in ends)
        units += [(f"{name}.{k}", m) for k, m in child.named_children()] if inner else [(name, child)]
    return units


def _stem_and_stages(net: nn.Module, name: str, frozen_stages: int) -> list[nn.Module]:
    """Return the layers that `frozen_stages` freezes."""
    if frozen_stages < 0:
        return []
    info = net.feature_info
    ends = {i["reduction"]: i["module"] for i in info.info}
    units = _units(net, list(ends.values()))
    names = [unit.replace("_", ".") for unit, _ in units]  # timm's wrapper writes stages_0 for stages.0

    def last(stride: int) -> int | None:
        """Return the index of the last layer of this stride; None if there is none or it is after the last output."""
        end = ends.get(stride)
        return names.index(end.replace("_", ".")) if end is not None and end.replace("_", ".") in names else None

    if frozen_stages == 0:
        first_stage, stem = last(4), last(2)
        if stem is None and first_stage is None:
            raise ValueError(f"frozen_stages=0 needs a stem, and {name} has no map of stride 2 or 4; use -1")
        count = stem + 1 if stem is not None else first_stage
    else:
        stride = 2 ** (frozen_stages + 1)
        if stride > info.reduction()[-1]:
            count = len(units)  # everything that is left
        else:
            if last(stride) is None:
                raise ValueError(f"frozen_stages={frozen_stages} needs a map of stride {stride}, and {name} has {sorted(ends)}; use -1")
            count = last(stride) + 1
    return [module for _, module in units[:count]]


def _own_name(name: str, own: set[str]) -> str:
    """Return timm's `name` of a full model as its feature wrapper writes it: 'stages.0.x' -> 'stages_0.x'."""
    name = name.removeprefix("net.") if name.removeprefix("net.") in own else name
    joined = name.replace(".", "_", 1)
    return joined if name not in own and joined in own else name
