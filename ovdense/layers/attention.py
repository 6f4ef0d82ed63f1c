"""Fused attention, in the precision that is fast on the device."""
import torch
from torch import Tensor
from torch.nn import functional as F


def attend(query: Tensor, key: Tensor, value: Tensor, valid: Tensor | None = None, *, dropout: float = 0.0) -> Tensor:
    """Return softmax(query key^T / sqrt(width)) value; all (B, heads, length, width).

    `valid` bool, True where a key counts: (B, keys), or (B, queries, keys).

    On a CPU it runs in float32 under autocast too: the backward pass of the bfloat16 kernel takes twice as long.
    """
    mask = None if valid is None else valid[:, None, None, :] if valid.ndim == 2 else valid[:, None]
    if query.device.type != "cpu" or query.dtype == torch.float32:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
    with torch.autocast("cpu", enabled=False):
        mixed = F.scaled_dot_product_attention(query.float(), key.float(), value.float(), attn_mask=mask, dropout_p=dropout)
    return mixed.to(query.dtype)
