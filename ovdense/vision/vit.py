"""Vision transformers of timm as backbones: patch tokens after the last norm, at any input size.

ReCo's encoder is the distilled DeiT-S/16 trained on stylised ImageNet. B images, C width, L tokens.
"""
from pathlib import Path

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovdense.compat.weights import load_checked, read_state_dict
from ovdense.registry import MODELS
from ovdense.structures import FeatureMap


@MODELS.register_module()
class VitBackbone(nn.Module):
    """A plain ViT of timm, frozen: one FeatureMap of its patch tokens after the final norm, without class and distillation tokens.

    `weights`: the path of a state dict with timm's names (DeiT's and DINO's releases have them), or None for random ones; a
    classifier in it is left out. `net`: a transformer that is there already, instead of `name`. Positions are resized
    bicubically without antialiasing, as when DeiT was fine-tuned, for every grid but the trained one (ReCo's release looks at the number of patches
    only: 7 x 28 would get the positions of 14 x 14, row after row); pixels beyond the last whole patch are dropped.
    """

    def __init__(self, name: str = "deit_small_distilled_patch16_224", *, weights: str | Path | None = None, net: nn.Module | None = None) -> None:
        super().__init__()
        self.net = timm.create_model(name, pretrained=False, num_classes=0) if net is None else net
        lacking = [part for part in ("patch_embed", "pos_embed", "blocks", "norm") if getattr(self.net, part, None) is None]
        if lacking:
            raise ValueError(f"name must be a plain vision transformer of timm such as 'deit_small_patch16_224', but {name!r} has no {', '.join(lacking)}")
        self.num_prefix = self.net.num_prefix_tokens
        if self.net.pos_embed.shape[1] != self.num_prefix + self.net.patch_embed.num_patches:
            raise ValueError(f"{name!r} must have a position for each of its {self.num_prefix} leading tokens; use one such as 'deit_small_patch16_224'")
        if weights is not None:
            load_checked(self.net, read_state_dict(weights), str(weights))
        config = self.net.default_cfg if hasattr(self.net, "default_cfg") and net is None else {}
        self.mean = tuple(round(255 * m, 3) for m in config.get("mean", (0.485, 0.456, 0.406)))
        self.std = tuple(round(255 * s, 3) for s in config.get("std", (0.229, 0.224, 0.225)))
        self.channels, self.strides = (self.net.embed_dim,), (self.net.patch_embed.patch_size[0],)
        self.requires_grad_(False)
        self.train(False)

    def forward(self, images_BCHW: Tensor) -> list[FeatureMap]:
        """Return one FeatureMap, floor(H / patch) high, of normalised images."""
        net = self.net
        if min(images_BCHW.shape[2:]) < self.strides[0]:
            raise ValueError(f"a transformer of {self.strides[0]} x {self.strides[0]} patches reads images of at least one patch, got "
                             f"{tuple(images_BCHW.shape[2:])} pixels; enlarge the image")  # fmt: skip
        patch_BCHW = net.patch_embed.proj(images_BCHW)
        size_hw = patch_BCHW.shape[2:]
        prefix = [token for token in (getattr(net, "cls_token", None), getattr(net, "dist_token", None), getattr(net, "reg_token", None)) if token is not None]
        token_BLC = torch.cat([*(t.expand(len(images_BCHW), -1, -1) for t in prefix), patch_BCHW.flatten(2).transpose(1, 2)], dim=1)
        token_BLC = token_BLC + resize_positions(net.pos_embed[0], net.patch_embed.grid_size, size_hw, num_prefix=self.num_prefix)
        norm_pre = getattr(net, "norm_pre", None)
        token_BLC = token_BLC if norm_pre is None else norm_pre(token_BLC)
        for block in net.blocks:
            token_BLC = block(token_BLC)
        out_BLC = net.norm(token_BLC)[:, self.num_prefix :]
        return [FeatureMap(tensor_BCHW=out_BLC.transpose(1, 2).unflatten(2, tuple(size_hw)).contiguous(), stride=self.strides[0])]

    def train(self, mode: bool = True) -> "VitBackbone":
        """Stay in evaluation mode."""
        return super().train(False)


def resize_positions(positions_LC: Tensor, grid_hw: tuple[int, int], size_hw: tuple[int, int], *, num_prefix: int = 1, align_corners: bool = False) -> Tensor:
    """Return (num_prefix + h * w, C): the leading tokens' positions as they are, the grid's resized bicubically."""
    if tuple(grid_hw) == tuple(size_hw):
        return positions_LC
    grid_1CHW = positions_LC[num_prefix:].T.unflatten(1, tuple(grid_hw))[None]
    resized = F.interpolate(grid_1CHW, size=tuple(size_hw), mode="bicubic", align_corners=align_corners)
    return torch.cat([positions_LC[:num_prefix], resized[0].flatten(1).T])
