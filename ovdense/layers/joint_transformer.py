"""MDETR's transformer (arXiv 2104.12763, after DETR, arXiv 2005.12872): image and text tokens in one sequence, then slots that look at both.

Post-norm layers; positions are added to queries and keys, never to values. C width, L tokens of the joint sequence, Q slots.
"""
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovdense.layers.attention import attend


def sine_positions(valid_BHW: Tensor, width: int, *, temperature: float = 10_000.0) -> Tensor:
    """Return (B, H * W, width) float32: sine codes of each place's row, then of its column, counted over valid places in 0..2 pi.

    `valid_BHW` bool, True where the image is; a place of padding counts as the last valid one before it.
    """
    valid = valid_BHW.float()
    rows, columns = valid.cumsum(1), valid.cumsum(2)
    share = torch.stack([columns / (columns[:, :, -1:] + 1e-6), rows / (rows[:, -1:] + 1e-6)], dim=-1)
    return sine_of_points(share.flatten(1, 2), width, temperature=temperature)


def sine_of_points(points: Tensor, width: int, *, temperature: float = 10_000.0) -> Tensor:
    """Return (..., width) codes of points (..., 2), (x, y) in 0..1: y's half first, sines and cosines alternating."""
    half = width // 2
    if width % 4:
        raise ValueError(f"the width of position codes must be a multiple of 4, got {width}")
    step = torch.arange(half, dtype=torch.float32, device=points.device)
    wave = temperature ** (2 * (step // 2) / half)
    angle = points.float()[..., None] * (2 * math.pi) / wave  # (..., 2, half)
    code = torch.stack([angle[..., 0::2].sin(), angle[..., 1::2].cos()], dim=-1).flatten(-2)
    return torch.cat([code[..., 1, :], code[..., 0, :]], dim=-1)


class PackedAttention(nn.Module):
    """Multi-head attention with the three input projections in one matrix, as torch.nn.MultiheadAttention names them; (B, L, C)."""

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        if width % num_heads:
            raise ValueError(f"width must be a multiple of num_heads, got {width} and {num_heads}")
        self.num_heads, self.dropout = num_heads, dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.xavier_uniform_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)

    def _heads(self, x_BLC: Tensor) -> Tensor:
        return x_BLC.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def _project(self, x: Tensor, first: int, last: int) -> Tensor:
        width = self.in_proj_weight.shape[1]
        rows = slice(first * width, last * width)
        return F.linear(x, self.in_proj_weight[rows], self.in_proj_bias[rows])

    def forward(self, query: Tensor, key: Tensor, value: Tensor, valid: Tensor | None = None) -> Tensor:
        """Return (B, queries, C); `valid` (B, keys) bool, True where a key counts, None: everywhere. `query is key` is projected at once."""
        if query is key:
            q, k = self._project(query, 0, 2).chunk(2, dim=-1)
        else:
            q, k = self._project(query, 0, 1), self._project(key, 1, 2)
        v = self._project(value, 2, 3)
        mixed = attend(self._heads(q), self._heads(k), self._heads(v), valid, dropout=self.dropout if self.training else 0.0)
        return self.out_proj(mixed.transpose(1, 2).flatten(2))


class _FeedForward(nn.Module):
    """What both layers end with: two linear maps and ReLU, parameters `linear1`, `linear2`."""

    def __init__(self, width: int, ffn_width: int, dropout: float) -> None:
        super().__init__()
        self.linear1, self.linear2 = nn.Linear(width, ffn_width), nn.Linear(ffn_width, width)
        self.dropout = nn.Dropout(dropout)
        for linear in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(linear.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear2(self.dropout(F.relu(self.linear1(x), inplace=True)))


class JointEncoderLayer(nn.Module):
    """Self-attention over image and text tokens, then a feed-forward network."""

    def __init__(self, width: int, num_heads: int, ffn_width: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = PackedAttention(width, num_heads, dropout)
        self.ffn = _FeedForward(width, ffn_width, dropout)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BLC: Tensor, positions: Tensor, valid_BL: Tensor | None) -> Tensor:
        placed = x_BLC + positions
        x_BLC = self.norm1(x_BLC + self.dropout(self.self_attn(placed, placed, x_BLC, valid_BL)))
        return self.norm2(x_BLC + self.dropout(self.ffn(x_BLC)))


class SlotDecoderLayer(nn.Module):
    """Slots look at each other, then at image and text tokens in one sequence; then a feed-forward network."""

    def __init__(self, width: int, num_heads: int, ffn_width: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = PackedAttention(width, num_heads, dropout)
        self.cross_attn = PackedAttention(width, num_heads, dropout)
        self.ffn = _FeedForward(width, ffn_width, dropout)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, slot_BQC: Tensor, slot_positions: Tensor, memory_BLC: Tensor, placed_BLC: Tensor, valid_BL: Tensor | None) -> Tensor:
        placed = slot_BQC + slot_positions
        slot_BQC = self.norm1(slot_BQC + self.dropout(self.self_attn(placed, placed, slot_BQC)))
        seen = self.cross_attn(slot_BQC + slot_positions, placed_BLC, memory_BLC, valid_BL)
        slot_BQC = self.norm2(slot_BQC + self.dropout(seen))
        return self.norm3(slot_BQC + self.dropout(self.ffn(slot_BQC)))


class JointEncoder(nn.Module):
    """Image tokens, then text tokens, through `num_layers` layers; text has no position codes (its encoder gave it some)."""

    def __init__(self, width: int, num_layers: int, num_heads: int, ffn_width: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(JointEncoderLayer(width, num_heads, ffn_width, dropout) for _ in range(num_layers))

    def forward(self, tokens_BLC: Tensor, positions_BLC: Tensor, valid_BL: Tensor | None) -> Tensor:
        for layer in self.layers:
            tokens_BLC = layer(tokens_BLC, positions_BLC, valid_BL)
        return tokens_BLC


class SlotDecoder(nn.Module):
    """Slots through `num_layers` layers; every layer's output goes through the same last norm."""

    def __init__(self, width: int, num_layers: int, num_heads: int, ffn_width: int, dropout: float) -> None:
        super().__init__()
        if num_layers < 1:
            raise ValueError(f"a decoder must have at least one layer, got {num_layers}")
        self.layers = nn.ModuleList(SlotDecoderLayer(width, num_heads, ffn_width, dropout) for _ in range(num_layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, slot_BQC: Tensor, slot_positions: Tensor, memory_BLC: Tensor, positions_BLC: Tensor, valid_BL: Tensor | None, *,
                last_only: bool = False) -> Tensor:
        """Return (layers, B, Q, C), or with `last_only` (1, B, Q, C)."""
        placed, states = memory_BLC + positions_BLC, []
        for n, layer in enumerate(self.layers):
            slot_BQC = layer(slot_BQC, slot_positions, memory_BLC, placed, valid_BL)
            if not last_only or n + 1 == len(self.layers):
                states.append(self.norm(slot_BQC))
        return torch.stack(states)
