"""The parts of the Swin Transformer (arXiv 2103.14030) as detectors use it, for maps of any size.

Maps are padded to whole windows in every block, as in Microsoft's detection code. Parameter names follow the
published checkpoints, so that a conversion only drops prefixes and computed buffers. `SwinBackbone` joins the parts.
"""
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

BETWEEN_REGIONS = -100.0  # added to attention logits between parts that a shift has brought together; the published value


def to_windows(x_BHWC: Tensor, window: int) -> Tensor:
    """Return (B, windows, window * window, C), windows in row order; H and W are multiples of `window`."""
    b, h, w, c = x_BHWC.shape
    return x_BHWC.view(b, h // window, window, w // window, window, c).transpose(2, 3).reshape(b, -1, window * window, c)


def from_windows(x_BNLC: Tensor, window: int, size_hw: tuple[int, int]) -> Tensor:
    """Undo `to_windows`: return (B, H, W, C)."""
    (h, w), (b, c) = size_hw, (x_BNLC.size(0), x_BNLC.size(-1))
    return x_BNLC.view(b, h // window, w // window, window, window, c).transpose(2, 3).reshape(b, h, w, c)


def shift_mask(size_hw: tuple[int, int], window: int, shift: int, like: Tensor) -> Tensor:
    """Return (windows, L, L), BETWEEN_REGIONS where two places of a shifted map were not neighbours, else 0."""

    def part(n: int) -> Tensor:
        place = torch.arange(n, device=like.device)
        return (place >= n - window).long() + (place >= n - shift).long()

    region_HW = 3 * part(size_hw[0])[:, None] + part(size_hw[1])[None]
    region_NL = to_windows(region_HW[None, ..., None], window)[0, ..., 0]
    return (region_NL[:, :, None] != region_NL[:, None]).to(like.dtype) * BETWEEN_REGIONS


class WindowAttention(nn.Module):
    """Self-attention within windows, with a learned bias for every relative position."""

    def __init__(self, width: int, *, num_heads: int, window: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, num_heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        place = torch.cartesian_prod(torch.arange(window), torch.arange(window))
        step = place[:, None] - place[None] + window - 1  # (L, L, 2), from 0
        self.register_buffer("position_LL", step[..., 0] * (2 * window - 1) + step[..., 1], persistent=False)

    def forward(self, x_BNLC: Tensor, mask_NLL: Tensor | None) -> Tensor:
        query, key, value = self.qkv(x_BNLC).unflatten(-1, (3, self.num_heads, -1)).permute(3, 0, 1, 4, 2, 5)
        bias = self.relative_position_bias_table[self.position_LL].permute(2, 0, 1)[None]  # (1, heads, L, L)
        if mask_NLL is not None:
            bias = bias + mask_NLL[:, None]
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=bias[None].to(query.dtype))
        return self.proj(out.transpose(2, 3).flatten(3))


class FeedForward(nn.Module):
    def __init__(self, width: int, *, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class SwinBlock(nn.Module):
    def __init__(self, width: int, *, num_heads: int, window: int, shift: int, drop_path: float) -> None:
        super().__init__()
        self.window, self.shift = window, shift
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = WindowAttention(width, num_heads=num_heads, window=window)
        self.mlp = FeedForward(width, hidden=4 * width)
        self.drop_path = DropPath(drop_path)

    def forward(self, x_BHWC: Tensor, mask_NLL: Tensor) -> Tensor:
        h, w = x_BHWC.shape[1:3]
        x = self.norm1(x_BHWC)
        x = F.pad(x, (0, 0, 0, -w % self.window, 0, -h % self.window))  # after the norm: zeros take part in attention
        padded_hw = (x.size(1), x.size(2))
        if self.shift:
            x = x.roll((-self.shift, -self.shift), (1, 2))
        x = self.attn(to_windows(x, self.window), mask_NLL if self.shift else None)
        x = from_windows(x, self.window, padded_hw)
        if self.shift:
            x = x.roll((self.shift, self.shift), (1, 2))
        x_BHWC = x_BHWC + self.drop_path(x[:, :h, :w])
        return x_BHWC + self.drop_path(self.mlp(self.norm2(x_BHWC)))


class PatchMerging(nn.Module):
    """Join 2x2 places to one of twice the width; odd sizes are padded with zeros."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * width)
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        x = F.pad(x_BHWC, (0, 0, 0, x_BHWC.size(2) % 2, 0, x_BHWC.size(1) % 2))
        b, h, w, c = x.shape
        x = x.view(b, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 4, 2, 5).flatten(3)  # column by column, as published
        return self.reduction(self.norm(x))


class SwinStage(nn.Module):
    def __init__(self, width: int, *, depth: int, num_heads: int, window: int, drop_paths: Sequence[float], downsample: bool) -> None:
        super().__init__()
        self.window, self.use_checkpoint = window, False
        self.blocks = nn.ModuleList(
            SwinBlock(width, num_heads=num_heads, window=window, shift=i % 2 * (window // 2), drop_path=drop_paths[i]) for i in range(depth)
        )
        self.downsample = PatchMerging(width) if downsample else None

    def forward(self, x_BHWC: Tensor) -> Tensor:
        """Return the map of this stage, before the downsampling."""
        padded_hw = tuple(n + -n % self.window for n in x_BHWC.shape[1:3])
        mask_NLL = shift_mask(padded_hw, self.window, self.window // 2, x_BHWC)
        for block in self.blocks:
            if self.use_checkpoint and torch.is_grad_enabled():
                x_BHWC = checkpoint(block, x_BHWC, mask_NLL, use_reentrant=False)
            else:
                x_BHWC = block(x_BHWC, mask_NLL)
        return x_BHWC


class PatchEmbed(nn.Module):
    """Cut the image into 4x4 patches; sizes that are no multiples of 4 are padded with zeros."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, 4, stride=4)
        self.norm = nn.LayerNorm(width)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        images_BCHW = F.pad(images_BCHW, (0, -images_BCHW.size(3) % 4, 0, -images_BCHW.size(2) % 4))
        return self.norm(self.proj(images_BCHW).permute(0, 2, 3, 1))


def initialise(module: nn.Module) -> None:
    """Draw the weights of a linear layer as published; for `Module.apply`."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def swin_published_to_ours(state_dict: dict[str, Tensor], *, bgr_to_rgb: bool = False) -> dict[str, Tensor]:
    """Return the backbone's part of a published checkpoint under SwinBackbone's names.

    Takes names as of a classifier ("layers.0..."), a detector ("backbone.layers.0...") or GLIP / DesCo
    ("module.backbone.body.layers.0..."); other parts of a detector, computed buffers and the classifier are left out.
    GLIP's networks read BGR: `bgr_to_rgb` turns the first convolution, so that the result reads RGB.
    """
    first = next((name for name in state_dict if name.endswith("patch_embed.proj.weight")), None)
    if first is None:
        raise ValueError(f"a Swin checkpoint must hold '...patch_embed.proj.weight', got names like {list(state_dict)[:3]}")
    prefix = first.removesuffix("patch_embed.proj.weight")
    computed = ("relative_position_index", "attn_mask")
    classifier = ("head.", "norm.")
    ours = {}
    for name, value in state_dict.items():
        short = name.removeprefix(prefix)
        if name.startswith(prefix) and not short.endswith(computed) and not short.startswith(classifier):
            ours[short] = value
    if bgr_to_rgb:
        ours["patch_embed.proj.weight"] = ours["patch_embed.proj.weight"].flip(1)
    return ours
