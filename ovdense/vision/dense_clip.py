"""CLIP's image tower as a dense encoder: MaskCLIP's value path (arXiv 2112.01071, Sec. 3.2), for ResNet and ViT towers of open_clip.

The last attention is left out: each place keeps its own value, projected as the attended one would be. B images, D width.
"""
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovdense.compat.open_clip_towers import open_clip_tower
from ovdense.structures import FeatureMap
from ovdense.vision.dense import DenseImageEncoder
from ovdense.vision.vit import resize_positions


class ClipDenseEncoder(DenseImageEncoder):
    """An open_clip image tower; `encode_dense` by the value path, `encode_image` as CLIP itself, at any input size.

    ResNet: c_proj(v_proj(.)) of the last stage as 1x1 convolutions (stride 32). ViT: the last block with the identity for
    its attention map, ln_post and the projection (stride = patch size). Positions are resized bicubically. Pixels beyond
    the last whole patch are dropped. `pretrained`: a local file (OpenAI's archives too), one of open_clip's tags, or None for random weights;
    `visual`: a tower that is there already, instead. `mean`, `std` override the tower's own (ReCo's release normalises as for ImageNet).
    """

    def __init__(
        self,
        model_name: str = "ViT-B-16",
        *,
        pretrained: str | Path | None = None,
        visual: nn.Module | None = None,
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
    ) -> None:
        super().__init__()
        self.model_name = model_name if visual is None else type(visual).__name__
        self.visual = open_clip_tower("visual", model_name, pretrained) if visual is None else visual
        self.is_resnet = hasattr(self.visual, "attnpool")
        if not self.is_resnet:
            _check_vit(self.visual, self.model_name)
        self.width = self.visual.attnpool.c_proj.out_features if self.is_resnet else self.visual.proj.shape[1]
        own = getattr(self.visual, "preprocess_cfg", None) or {}
        self.mean = tuple(mean or (255 * v for v in own.get("mean", (0.48145466, 0.4578275, 0.40821073))))
        self.std = tuple(std or (255 * v for v in own.get("std", (0.26862954, 0.26130258, 0.27577711))))
        self.requires_grad_(False).train(False)

    @property
    def stride(self) -> int:
        return 32 if self.is_resnet else self.visual.patch_size[0]

    def encode_places(self, images_BCHW: Tensor) -> tuple[FeatureMap, Tensor]:
        trunk = self._trunk(images_BCHW)
        dense_BDHW = F.normalize(self.values(trunk, images_BCHW.shape[2:]), dim=1)
        return FeatureMap(tensor_BCHW=dense_BDHW, stride=self.stride), self._whole(trunk)

    def encode_dense(self, images_BCHW: Tensor) -> FeatureMap:
        trunk = self._trunk(images_BCHW)
        return FeatureMap(tensor_BCHW=F.normalize(self.values(trunk, images_BCHW.shape[2:]), dim=1), stride=self.stride)

    def encode_image(self, images_BCHW: Tensor) -> Tensor:
        return self._whole(self._trunk(images_BCHW))

    def settings(self) -> dict[str, Any]:
        return {"model": self.model_name, "mean": self.mean, "std": self.std}

    def features(self, images_BCHW: Tensor) -> Tensor:
        """Return the value path's output before it is normalised, (B, D, h, w)."""
        return self.values(self._trunk(images_BCHW), images_BCHW.shape[2:])

    def tokens(self, images_BCHW: Tensor, before: int) -> Tensor:
        """Return a ViT's tokens (B, 1 + h * w, C) before block `before` (from 0, or from the end), [CLS] first."""
        return self._trunk(images_BCHW, before)

    def values(self, trunk: Tensor, size_hw: tuple[int, int]) -> Tensor:
        """Return (B, D, h, w) from the trunk of images of `size_hw`: the last attention's values, projected."""
        if self.is_resnet:
            pool = self.visual.attnpool
            value_BCHW = F.conv2d(trunk, pool.v_proj.weight[:, :, None, None], pool.v_proj.bias)
            return F.conv2d(value_BCHW, pool.c_proj.weight[:, :, None, None], pool.c_proj.bias)
        block = self.visual.transformer.resblocks[-1]
        attention = block.attn
        width = trunk.shape[-1]
        value_BLC = F.linear(block.ln_1(trunk), attention.in_proj_weight[2 * width :], attention.in_proj_bias[2 * width :])
        hidden_BLC = trunk + block.ls_1(attention.out_proj(value_BLC))
        hidden_BLC = hidden_BLC + block.ls_2(block.mlp(block.ln_2(hidden_BLC)))
        out_BLD = self.visual.ln_post(hidden_BLC[:, 1:]) @ self.visual.proj
        height, width = (s // p for s, p in zip(size_hw, self.visual.patch_size))
        return out_BLD.transpose(1, 2).unflatten(2, (height, width))

    def _trunk(self, images_BCHW: Tensor, before: int = -1) -> Tensor:
        """Return the last stage's map (ResNet), or the tokens before block `before`, [CLS] first (ViT)."""
        visual, least = self.visual, self.stride - self.is_resnet  # a ResNet's convolutions round up at first
        if min(images_BCHW.shape[2:]) < least:
            raise ValueError(f"{self.model_name} reads images of at least {least} pixels a side, got {tuple(images_BCHW.shape[2:])}; enlarge the image")
        if self.is_resnet:
            return visual.layer4(visual.layer3(visual.layer2(visual.layer1(visual.stem(images_BCHW)))))
        patch_BCHW = visual.conv1(images_BCHW)
        positions_LC = resize_positions(visual.positional_embedding, visual.grid_size, patch_BCHW.shape[2:], align_corners=False)
        token_BLC = torch.cat([visual.class_embedding.expand(len(images_BCHW), 1, -1), patch_BCHW.flatten(2).transpose(1, 2)], dim=1)
        token_BLC = visual.ln_pre(token_BLC + positions_LC)
        for block in visual.transformer.resblocks[:before]:
            token_BLC = block(token_BLC)
        return token_BLC

    def _whole(self, trunk: Tensor) -> Tensor:
        if not self.is_resnet:
            return F.normalize(self.visual.ln_post(self.visual.transformer.resblocks[-1](trunk)[:, 0]) @ self.visual.proj, dim=1)
        pool = self.visual.attnpool
        side = round((len(pool.positional_embedding) - 1) ** 0.5)
        positions = resize_positions(pool.positional_embedding, (side, side), trunk.shape[2:], align_corners=True)
        return F.normalize(torch.func.functional_call(pool, {"positional_embedding": positions}, (trunk,)), dim=1)


def _check_vit(visual: nn.Module, name: str) -> None:
    wanted = ("conv1", "class_embedding", "positional_embedding", "ln_pre", "transformer", "ln_post", "proj")
    lacking = [part for part in wanted if getattr(visual, part, None) is None]
    if lacking or visual.attn_pool is not None or visual.pool_type != "tok" or not visual.transformer.batch_first:
        raise ValueError(
            f"the image tower must be CLIP's ResNet or a ViT that reads the class token out, {name!r} is not"
            + (f" (it has no {', '.join(lacking)})" if lacking else "") + "; choose for example 'RN50' or 'ViT-B-16'"
        )
