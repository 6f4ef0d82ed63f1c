"""CLIP's image towers from open_clip as dense encoders (DenseCLIP, arXiv 2112.01518, Sec. 3.1).

open_clip builds them and owns their parameters (under `net.`, named as OpenAI's); here is what it lacks: the attention pool
at every place, tables of positions for any image size, a pyramid for the ViT. QuickGELU, as OpenAI's weights want it.
"""
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from timm.layers import DropPath
from torch import Tensor, nn
from torch.nn import functional as F

from ovdense.compat.weights import load_checked, read_state_dict
from ovdense.registry import MODELS
from ovdense.structures import FeatureMap
from ovdense.vision.dense_features import DenseFeatures
from ovdense.vision.freezing import hold
from ovdense.vision.positions import FitPositions, fit_positions

CLIP_MEAN = (122.771, 116.746, 104.094)
CLIP_STD = (68.501, 66.632, 70.323)
_STRIDES = (4, 8, 16, 32)


def dense_attention_pool(pool: nn.Module, x_BCHW: Tensor, positions: FitPositions = "interpolate") -> tuple[Tensor, Tensor]:
    """Return CLIP's attention pool as it was trained, (B, D), and read at every place, (B, D, H, W).

    `pool` has the parameters of open_clip's AttentionPool2d. The mean of the places comes first and every place is a query
    too: softmax(q k / sqrt d) v over all of them, then the output projection (arXiv 2112.01518, Eq. 1).
    """
    batch, _, height, width = x_BCHW.shape
    tokens_BNC = x_BCHW.flatten(2).transpose(1, 2)
    tokens_BNC = torch.cat([tokens_BNC.mean(1, keepdim=True), tokens_BNC], 1)
    tokens_BNC = tokens_BNC + fit_positions(pool.positional_embedding, (height, width), positions)
    query, key, value = (p(tokens_BNC).unflatten(-1, (pool.num_heads, -1)).transpose(1, 2) for p in (pool.q_proj, pool.k_proj, pool.v_proj))
    out_BND = pool.c_proj(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))
    return out_BND[:, 0], out_BND[:, 1:].transpose(1, 2).unflatten(2, (height, width))


def new_attention_pool(table_size: int, width: int, heads: int, embed_width: int) -> nn.Module:
    """Return open_clip's attention pool with fresh weights, for a map of `width` channels; read it with `dense_attention_pool`."""
    from open_clip.modified_resnet import AttentionPool2d

    pool = AttentionPool2d(table_size, width, heads, embed_width)
    for linear in (pool.q_proj, pool.k_proj, pool.v_proj, pool.c_proj):
        nn.init.normal_(linear.weight, std=width**-0.5)
        nn.init.zeros_(linear.bias)
    return pool


@MODELS.register_module()
class ClipResNet(nn.Module):
    """CLIP's ResNet: maps of stride 4 to 32, and its attention pool at every place of the last (stride 32).

    The defaults are RN50; RN101 has layers (3, 4, 23, 3) and embed_width 512. `table_size`: the side of the table of
    positions (input pixels / 32), `positions` how it meets other sizes; `pool=False` leaves the pool out (plain CLIP-FPN).
    `weights`: OpenAI's file or a state dict with its names, the table is resized; None: random. `norm_eval`: BatchNorm keeps
    its statistics in training.
    """

    mean, std = CLIP_MEAN, CLIP_STD
    strides = _STRIDES

    def __init__(self, layers: Sequence[int] = (3, 4, 6, 3), *, width: int = 64, embed_width: int = 1024, table_size: int = 7,
                 positions: FitPositions = "interpolate", pool: bool = True, norm_eval: bool = False, weights: str | Path | None = None) -> None:
        super().__init__()
        from open_clip.modified_resnet import ModifiedResNet

        # the pool has 32 heads at every width, as published
        self.net = ModifiedResNet(list(layers), output_dim=embed_width, heads=32, image_size=32 * table_size, width=width)
        self.channels = tuple(width * 4 * 2**i for i in range(4))
        self.embed_width, self.positions, self.norm_eval = embed_width, positions, norm_eval
        if not pool:
            self.net.attnpool = None
        if weights is not None:
            load_clip_tower(self.net, weights)

    def forward(self, images_BCHW: Tensor) -> list[FeatureMap]:
        """Return the maps of stride 4, 8, 16, 32 of images normalised with `mean` and `std`."""
        _require_size(images_BCHW, self.strides[-1] - 1)  # convolutions round up at first
        x, maps = self.net.stem(images_BCHW), []
        for stage, stride in zip((self.net.layer1, self.net.layer2, self.net.layer3, self.net.layer4), self.strides):
            x = stage(x)
            maps.append(FeatureMap(tensor_BCHW=x, stride=stride))
        return maps

    def dense(self, images_BCHW: Tensor) -> DenseFeatures:
        """Return the maps with the pool's vectors, of width `embed_width`."""
        if self.net.attnpool is None:
            raise ValueError("vectors in the text's space need the attention pool; build the tower with pool=True")
        maps = self(images_BCHW)
        pooled_BC, local_BCHW = dense_attention_pool(self.net.attnpool, maps[-1].tensor_BCHW, self.positions)
        return DenseFeatures(maps=tuple(maps), global_BC=pooled_BC, local=FeatureMap(tensor_BCHW=local_BCHW, stride=self.strides[-1]))

    def train(self, mode: bool = True) -> "ClipResNet":
        """Set the mode; with `norm_eval` every BatchNorm stays in eval mode."""
        super().train(mode)
        hold([], self, self.norm_eval)
        return self


@MODELS.register_module()
class ClipVit(nn.Module):
    """CLIP's ViT: a simple pyramid of stride 4 to 32 from the blocks `out_blocks`, and the projected tokens (stride `patch_size`).

    The defaults are ViT-B/16. `table_size`: side of the table of positions (input pixels / patch); it is interpolated to every
    size. `class_token_twice`: the release adds the class embedding to the class token a second time; its checkpoints
    need that. `embeddings=False` leaves out the last norm and the projection (plain CLIP-FPN). `drop_path_rate` rises
    linearly to this value. `weights`: OpenAI's file or a state dict with its names; the pyramid starts random.
    """

    mean, std = CLIP_MEAN, CLIP_STD
    strides = _STRIDES

    def __init__(self, patch_size: int = 16, *, width: int = 768, layers: int = 12, heads: int = 12, embed_width: int = 512, table_size: int = 40,
                 out_blocks: Sequence[int] = (3, 5, 7, 11), drop_path_rate: float = 0.1, embeddings: bool = True, class_token_twice: bool = True,
                 weights: str | Path | None = None) -> None:
        super().__init__()
        from open_clip.transformer import QuickGELU, VisionTransformer

        if len(out_blocks) != len(self.strides) or max(out_blocks) >= layers:
            raise ValueError(f"out_blocks must be {len(self.strides)} numbers below {layers}, got {tuple(out_blocks)}")
        self.net = VisionTransformer(patch_size * table_size, patch_size, width, layers, heads, 4.0, output_dim=embed_width, act_layer=QuickGELU)
        self.channels, self.embed_width, self.patch_size = (width,) * 4, embed_width, patch_size
        self.out_blocks, self.class_token_twice = tuple(out_blocks), class_token_twice
        if not embeddings:
            self.net.ln_post, self.net.proj = None, None
        self.drop_paths = nn.ModuleList(DropPath(drop_path_rate * i / max(layers - 1, 1)) for i in range(layers))
        self.pyramid = nn.ModuleList(_scale(width, patch_size, stride) for stride in self.strides)
        if weights is not None:
            load_clip_tower(self.net, weights)

    def forward(self, images_BCHW: Tensor) -> list[FeatureMap]:
        """Return the maps of stride 4, 8, 16, 32 of images normalised with `mean` and `std`."""
        return self._run(images_BCHW)[0]

    def dense(self, images_BCHW: Tensor) -> DenseFeatures:
        """Return the maps with the projected tokens, of width `embed_width`."""
        if self.net.proj is None:
            raise ValueError("vectors in the text's space need the projection; build the tower with embeddings=True")
        maps, tokens_BNC, size_hw = self._run(images_BCHW)
        vector_BND = self.net.ln_post(tokens_BNC) @ self.net.proj
        local = FeatureMap(tensor_BCHW=vector_BND[:, 1:].transpose(1, 2).unflatten(2, size_hw), stride=self.patch_size)
        return DenseFeatures(maps=tuple(maps), global_BC=vector_BND[:, 0], local=local)

    def _run(self, images_BCHW: Tensor) -> tuple[list[FeatureMap], Tensor, tuple[int, int]]:
        _require_size(images_BCHW, self.strides[-1])
        net, patches_BCHW = self.net, self.net.conv1(images_BCHW)
        size_hw = tuple(patches_BCHW.shape[2:])
        class_token = net.class_embedding.expand(len(images_BCHW), 1, -1).to(patches_BCHW.dtype)
        tokens_BNC = torch.cat([class_token * (2 if self.class_token_twice else 1), patches_BCHW.flatten(2).transpose(1, 2)], 1)
        tokens_BNC = net.ln_pre(tokens_BNC + fit_positions(net.positional_embedding, size_hw).to(tokens_BNC.dtype))
        found: dict[int, Tensor] = {}
        for i, (block, drop) in enumerate(zip(net.transformer.resblocks, self.drop_paths)):
            tokens_BNC = tokens_BNC + drop(block.attention(block.ln_1(tokens_BNC)))
            tokens_BNC = tokens_BNC + drop(block.mlp(block.ln_2(tokens_BNC)))
            if i in self.out_blocks:
                found[i] = tokens_BNC[:, 1:].transpose(1, 2).unflatten(2, size_hw).contiguous()
        maps = [FeatureMap(tensor_BCHW=scale(found[i]), stride=s) for scale, i, s in zip(self.pyramid, self.out_blocks, self.strides)]
        return maps, tokens_BNC, size_hw


def _require_size(images_BCHW: Tensor, least: int) -> None:
    if min(images_BCHW.shape[2:]) < least:
        raise ValueError(f"CLIP's tower with maps down to stride 32 reads images of at least {least} pixels a side, got {tuple(images_BCHW.shape[2:])}; "
                         "enlarge the image, or set a larger divisor of the model, which pads it")  # fmt: skip


def _scale(width: int, patch_size: int, stride: int) -> nn.Module:
    """Return the layers that bring a map of stride `patch_size` to `stride`: a norm over all, then learned or pooled steps of two.

    BatchNorm becomes SyncBatchNorm where a run asks for it (`sync_bn`), as published.
    """
    norm = nn.GroupNorm(1, width)
    if patch_size == stride:
        return norm
    if patch_size == 2 * stride:
        return nn.Sequential(norm, nn.ConvTranspose2d(width, width, 2, stride=2))
    if patch_size == 4 * stride:
        return nn.Sequential(norm, nn.ConvTranspose2d(width, width, 2, stride=2), nn.BatchNorm2d(width), nn.GELU(),
                             nn.ConvTranspose2d(width, width, 2, stride=2))  # fmt: skip
    if stride in (2 * patch_size, 4 * patch_size):
        return nn.Sequential(norm, nn.MaxPool2d(stride // patch_size))
    raise ValueError(f"patch_size must be 8 or 16 for a pyramid of strides 4 to 32, got {patch_size}")


def clip_tower_state(state: Mapping[str, Tensor], net: nn.Module) -> dict[str, Tensor]:
    """Return the image tower's part of CLIP's weights, float32, the table of positions interpolated to the one of `net`."""
    if any(name.startswith("visual.") for name in state):
        state = {name.removeprefix("visual."): value for name, value in state.items() if name.startswith("visual.")}
    own, found = net.state_dict(), {name: value.float() for name, value in state.items()}
    for table in ("attnpool.positional_embedding", "positional_embedding"):
        if table in own and table in found:
            side = round((len(own[table]) - 1) ** 0.5)
            found[table] = fit_positions(found[table], (side, side))
    return found


def load_clip_tower(net: nn.Module, weights: str | Path) -> None:
    """Load OpenAI's weights into an open_clip image tower.

    `weights`: OpenAI's TorchScript archive, or a state dict of the whole model or of the image tower. What the tower lacks
    (a pool that was left out) is printed; what the file lacks is a ValueError.
    """
    load_checked(net, clip_tower_state(read_state_dict(weights), net), str(weights))
