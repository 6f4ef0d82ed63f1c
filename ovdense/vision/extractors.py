"""Features of places for prototypes: raw (not normalised) maps of any frozen network, for crops of any size.

OVDiff's three (arXiv 2306.09316, Sec. 3.5; diffusion queries, DINO keys, CLIP keys) and what comes with pip. Images are RGB in 0..1; the sizes that
each network reads support and query images at belong to it. B images, C width.
"""
import hashlib
import json
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovdense.compat.hub import hub_access
from ovdense.compat.weights import load_checked, read_state_dict, weights_state
from ovdense.registry import MODELS
from ovdense.vision.backbones import TimmBackbone
from ovdense.vision.dense import DenseImageEncoder
from ovdense.vision.dense_clip import ClipDenseEncoder
from ovdense.vision.diffusion import QueryReader, load_pipeline, pipeline_fingerprint, ready

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class ReadingSize:
    """At which size a network reads an image: `square` pixels with the aspect lost, or `short` on the short side (`longest` at most).

    `multiple`: sides are rounded to multiples of it. `only_shrink`: with `short`, images whose sides are no longer are read as they are. None for both:
    as it is. Bilinear; without antialiasing as in the releases, unless `antialias`.
    """

    square: int | None = None
    short: int | None = None
    longest: int | None = None
    multiple: int = 1
    only_shrink: bool = False
    antialias: bool = False

    def of(self, size_hw: Sequence[int]) -> tuple[int, int]:
        height, width = size_hw
        if self.square is not None:
            height = width = self.square
        elif self.short is not None and not (self.only_shrink and max(size_hw) <= self.short):
            scale = self.short / min(size_hw)
            if self.longest is not None:
                scale = min(scale, self.longest / max(size_hw))
            height, width = (int(side * scale) if side != min(size_hw) else round(side * scale) for side in size_hw)
        return tuple(max(self.multiple, round(side / self.multiple) * self.multiple) for side in (height, width))

    def __call__(self, image_BCHW: Tensor) -> Tensor:
        size_hw = self.of(image_BCHW.shape[2:])
        if size_hw == tuple(image_BCHW.shape[2:]):
            return image_BCHW
        return F.interpolate(image_BCHW, size=size_hw, mode="bilinear", align_corners=False, antialias=self.antialias)


class FeatureExtractor(nn.Module):
    """Frozen. `features` of read images; `forward` reads a query crop, `support` a support image. `width` is known after the first use at the latest."""

    query_size = ReadingSize()
    support_size = ReadingSize()
    _fingerprint: tuple[tuple[int, ...], str] | None = None  # and the state of the weights that it is of

    @abstractmethod
    def features(self, image_BCHW: Tensor) -> Tensor:
        """Return (B, C, h, w) float32 of images in 0..1 at the network's size."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Return what, besides the weights, decides the outputs, as JSON values."""

    @torch.no_grad()
    def forward(self, image_BCHW: Tensor) -> Tensor:
        return self._numbers(self.query_size(image_BCHW))

    @torch.no_grad()
    def support(self, image_BCHW: Tensor) -> Tensor:
        return self._numbers(self.support_size(image_BCHW))

    def _numbers(self, image_BCHW: Tensor) -> Tensor:
        """Return the features; ValueError where they are no numbers, which float16 can give and every place would be called background for."""
        feat_BCHW = self.features(image_BCHW)
        if not bool(feat_BCHW.isfinite().all()):
            raise ValueError(f"{type(self).__name__} must give finite features, got others of images {tuple(image_BCHW.shape)}; run it in float32")
        return feat_BCHW

    def fingerprint(self) -> str:
        """Return a hash of settings and weights: the key of prototypes made with it."""
        state = weights_state(self)
        if self._fingerprint is None or self._fingerprint[0] != state:
            digest = hashlib.sha256(json.dumps([type(self).__name__, self.settings(), str(self.support_size)], sort_keys=True).encode())
            for name, value in [*self.named_parameters(), *self.named_buffers()]:
                digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
                digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
            self._fingerprint = (state, digest.hexdigest()[:32])
        return self._fingerprint[1]

    def train(self, mode: bool = True) -> "FeatureExtractor":
        """Stay in evaluation mode."""
        return super().train(False)


def _normalised(image_BCHW: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    mean_, std_ = (image_BCHW.new_tensor(v)[:, None, None] for v in (mean, std))
    return (image_BCHW - mean_) / std_


@MODELS.register_module()
class DiffusionQueries(FeatureExtractor):
    """Cross-attention queries of a text-to-image pipeline's UNet at `timestep`, empty prompt: for Stable Diffusion 1.5, 7,680 features on 64 x 64.

    `pipeline`: folder or hub name (loaded at the first use), or a diffusers pipeline. `layers`: numbers among its cross-attention layers, None
    the published ones. `image_px`: images are read as squares of this side (None: what the pipeline draws); `grid_px`: side of the feature
    map (None: the latents').
    """

    def __init__(self, pipeline: Any, *, layers: Sequence[int] | None = None, timestep: int = 200, seed: int = 43, image_px: int | None = None,
                 grid_px: int | None = None, device: str | None = None, dtype: str | None = None) -> None:  # fmt: skip
        super().__init__()
        self._source, self._read, self._print = pipeline, None, ""
        self.layers, self.timestep, self.seed, self.device, self.dtype = layers, timestep, seed, device, dtype
        self._image_px, self._grid_px = image_px, grid_px

    @property
    def reader(self) -> QueryReader:
        """Return the reader; the pipeline is loaded when it is first asked for."""
        if self._read is None:
            local = isinstance(self._source, (str, Path))
            pipeline = load_pipeline(self._source, device=self.device, dtype=self.dtype) if local else ready(self._source, self.device)
            self._print = pipeline_fingerprint(pipeline)
            self._read = QueryReader(pipeline, self.layers, self.timestep, self.seed)
        return self._read

    @property
    def width(self) -> int:
        return self.reader.width

    @property
    def image_px(self) -> int:
        return self._image_px or self.reader.pipeline.unet.config.sample_size * self.reader.pipeline.vae_scale_factor

    @property
    def query_size(self) -> ReadingSize:
        return ReadingSize(square=self.image_px)

    support_size = query_size

    def features(self, image_BCHW: Tensor) -> Tensor:
        side = self._grid_px or self.reader.pipeline.unet.config.sample_size
        return self.reader(image_BCHW, (side, side)).to(image_BCHW.device)

    def settings(self) -> dict[str, Any]:
        return {"layers": self.reader.layers, "pipeline": self._print, "timestep": self.timestep, "seed": self.seed, "grid_px": self._grid_px}


_NO_KEYS = "must be a ViT of timm with joint queries, keys and values; choose one such as vit_base_patch8_224.dino"


@MODELS.register_module()
class VitKeys(FeatureExtractor):
    """Keys of one attention of a timm ViT; by default DINO's ViT-B/8, last block, as in the release.

    `weights`: a file of timm's names, "hub" (timm's own download), or None for random ones. A query crop is read as it is up to `query_px`
    pixels, else with that short side and 800 at most; a support image with `support_px` square. Sides are brought to the nearest multiple of the patch
    (the release leaves out what is over at the right and below).
    """

    def __init__(self, name: str = "vit_base_patch8_224.dino", *, weights: str | Path | None, block: int = -1, query_px: int = 448,
                 support_px: int = 512) -> None:  # fmt: skip
        super().__init__()
        import timm

        try:
            with hub_access(name if weights == "hub" else None, "model.extractors.2.weights=/FILE"):
                self.net = timm.create_model(name, pretrained=weights == "hub", num_classes=0, dynamic_img_size=True)
        except TypeError:  # networks that are no ViT know nothing of dynamic_img_size
            raise ValueError(f"{name} {_NO_KEYS}") from None
        if not hasattr(self.net, "blocks") or not hasattr(getattr(self.net.blocks[block], "attn", None), "qkv"):
            raise ValueError(f"{name} {_NO_KEYS}")
        if weights not in (None, "hub"):
            load_checked(self.net, read_state_dict(weights), str(weights))
        self.name, self.block, self.width = name, block, self.net.embed_dim
        patch = self.net.patch_embed.patch_size[0]
        self.query_size = ReadingSize(short=query_px, longest=800, only_shrink=True, multiple=patch)
        self.support_size = ReadingSize(square=support_px, multiple=patch)
        self.requires_grad_(False).train(False)

    def features(self, image_BCHW: Tensor) -> Tensor:
        found: list[Tensor] = []
        hook = self.net.blocks[self.block].attn.qkv.register_forward_hook(lambda _m, _i, out: found.append(out))
        try:
            self.net.forward_features(_normalised(image_BCHW, IMAGENET_MEAN, IMAGENET_STD))
        finally:
            hook.remove()
        key_BLC = found[0].chunk(3, dim=-1)[1][:, self.net.num_prefix_tokens :]
        patch = self.net.patch_embed.patch_size
        return key_BLC.transpose(1, 2).unflatten(2, tuple(s // p for s, p in zip(image_BCHW.shape[2:], patch))).float()

    def settings(self) -> dict[str, Any]:
        return {"name": self.name, "block": self.block}


@MODELS.register_module()
class ClipKeys(FeatureExtractor):
    """Keys of one attention of an open_clip ViT; by default of ViT-B/16's last but one, with ImageNet's mean and std, as in the release.

    `pretrained`: a local file, a tag of open_clip, or None for random weights; `visual`: a tower that is there already, instead. Images are read as
    squares: queries of `query_px`, support of `support_px` pixels.
    """

    def __init__(self, model_name: str = "ViT-B-16", *, pretrained: str | Path | None = None, visual: nn.Module | None = None, block: int = -2,
                 query_px: int = 448, support_px: int = 512) -> None:  # fmt: skip
        super().__init__()
        self.encoder = ClipDenseEncoder(model_name, pretrained=pretrained, visual=visual)
        if self.encoder.is_resnet:
            raise ValueError(f"keys are those of a ViT, {model_name} is a ResNet; choose one such as ViT-B-16")
        self.block, self.width = block, self.encoder.visual.transformer.width
        self.query_size, self.support_size = (ReadingSize(square=px, multiple=self.encoder.stride) for px in (query_px, support_px))
        self.requires_grad_(False).train(False)

    def features(self, image_BCHW: Tensor) -> Tensor:
        block = self.encoder.visual.transformer.resblocks[self.block]
        token_BLC = self.encoder.tokens(_normalised(image_BCHW, IMAGENET_MEAN, IMAGENET_STD), self.block)
        weight_CC, bias_C = block.attn.in_proj_weight.chunk(3)[1], block.attn.in_proj_bias.chunk(3)[1]
        key_BLC = F.linear(block.ln_1(token_BLC), weight_CC, bias_C)[:, 1:]
        return key_BLC.transpose(1, 2).unflatten(2, tuple(s // self.encoder.stride for s in image_BCHW.shape[2:])).float()

    def settings(self) -> dict[str, Any]:
        return {"model": self.encoder.model_name, "block": self.block}


@MODELS.register_module()
class DenseEncoderFeatures(FeatureExtractor):
    """The vectors of a dense image encoder, such as the embedded one, in the space of its text encoder.

    `encoder`: a DenseImageEncoder, or a dual encoder (or its config) whose image side is taken.
    """

    def __init__(self, encoder: dict | nn.Module) -> None:
        super().__init__()
        encoder = MODELS.build(encoder) if isinstance(encoder, dict) else encoder
        self.encoder: DenseImageEncoder = getattr(encoder, "image", encoder)
        self.width = self.encoder.width

    def features(self, image_BCHW: Tensor) -> Tensor:
        return self.encoder.encode_dense(_normalised(255 * image_BCHW, self.encoder.mean, self.encoder.std)).tensor_BCHW

    def settings(self) -> dict[str, Any]:
        return self.encoder.settings()


@MODELS.register_module()
class BackboneFeatures(FeatureExtractor):
    """Maps of a convolutional network of timm at several strides, each place of length 1 times its weight, joined on the finest grid.

    `name`, `weights`: see `TimmBackbone`; by default the embedded EfficientNet-Lite0. `query_px`, `support_px`: the short side that images are read at.
    """

    def __init__(self, name: str = "tf_efficientnet_lite0", *, weights: str | Path | None = "embedded", out_strides: Sequence[int] = (8, 16, 32),
                 stride_weights: Sequence[float] | None = None, query_px: int = 384, support_px: int = 384) -> None:  # fmt: skip
        super().__init__()
        self.name, self.out_strides = name, tuple(out_strides)
        self.stride_weights = tuple(stride_weights or (1.0,) * len(self.out_strides))
        if len(self.stride_weights) != len(self.out_strides):
            raise ValueError(f"stride_weights must have one number a stride, {len(self.out_strides)}, got {self.stride_weights}")
        self.net = TimmBackbone(name, out_strides=self.out_strides, weights=weights, frozen_stages=4)
        self.width = sum(self.net.channels)
        most = max(self.out_strides)
        self.query_size, self.support_size = (ReadingSize(short=px, multiple=most, antialias=True) for px in (query_px, support_px))
        self.requires_grad_(False).train(False)

    def features(self, image_BCHW: Tensor) -> Tensor:
        maps = self.net(_normalised(255 * image_BCHW, self.net.mean, self.net.std))
        size_hw = maps[0].tensor_BCHW.shape[2:]
        return torch.cat([w * F.interpolate(F.normalize(m.tensor_BCHW, dim=1), size=size_hw, mode="bilinear") for w, m in zip(self.stride_weights, maps)], 1)

    def settings(self) -> dict[str, Any]:
        return {"name": self.name, "strides": self.out_strides, "weights": self.stride_weights}
