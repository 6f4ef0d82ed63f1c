"""Fused attention, in the precision and with the memory that suit the device."""
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

LARGE_WEIGHTS = 2**23  # numbers: 32 MiB of float32


class DropoutAttention(torch.autograd.Function):
    """Attention with dropout on its weights, head by head: what torch has no fused kernel for on a CPU.

    Kept for the backward pass: the inputs, the weights and the dropout's pattern; torch's own path also keeps scaled copies of
    queries and keys and the dropped weights, and works on all heads at once.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
        scale, grow = query.shape[-1] ** -0.5, 1 / (1 - dropout)
        weights, kept = [], []
        out = query.new_empty(*query.shape[:-1], value.shape[-1])
        for h in range(query.shape[1]):
            logit = torch.matmul(query[:, h], key[:, h].transpose(1, 2)).mul_(scale)
            if mask is not None:
                logit.masked_fill_(~mask[:, h if mask.shape[1] > 1 else 0], float("-inf"))
            weight = logit.softmax(-1)
            keep = torch.rand_like(weight) >= dropout
            torch.matmul(weight * keep, value[:, h], out=out[:, h]).mul_(grow)
            weights.append(weight)
            kept.append(keep)
        ctx.scale, ctx.grow = scale, grow
        ctx.save_for_backward(query, key, value, *weights, *kept)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, *rest = ctx.saved_tensors
        heads = query.shape[1]
        d_query, d_key, d_value = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
        for h, (weight, keep) in enumerate(zip(rest[:heads], rest[heads:])):
            g = grad[:, h] * ctx.grow
            torch.matmul((weight * keep).transpose(1, 2), g, out=d_value[:, h])
            d_weight = torch.matmul(g, value[:, h].transpose(1, 2)).mul_(keep)
            d_logit = (d_weight - (d_weight * weight).sum(-1, keepdim=True)).mul_(weight).mul_(ctx.scale)
            torch.matmul(d_logit, key[:, h], out=d_query[:, h])
            torch.matmul(d_logit.transpose(1, 2), query[:, h], out=d_key[:, h])
        return d_query, d_key, d_value, None, None


def attend(query: Tensor, key: Tensor, value: Tensor, valid: Tensor | None = None, *, dropout: float = 0.0) -> Tensor:
    """Return softmax(query key^T / sqrt(width)) value; all (B, heads, length, width).

    `valid` bool, True where a key counts: (B, keys), or (B, queries, keys).

    On a CPU it runs in float32 under autocast too: the backward pass of the bfloat16 kernel takes twice as long. With dropout it goes
    head by head there once the weights of all heads are over `LARGE_WEIGHTS` numbers; below, torch's own path is quicker.
    """
    mask = None if valid is None else valid[:, None, None, :] if valid.ndim == 2 else valid[:, None]
    if query.device.type != "cpu":
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
    with torch.autocast("cpu", enabled=False):
        exact = [t if t.dtype == torch.float64 else t.float() for t in (query, key, value)]
        if dropout and query.shape[:-1].numel() * key.shape[-2] > LARGE_WEIGHTS:
            mixed = DropoutAttention.apply(*exact, mask, dropout)
        else:
            mixed = F.scaled_dot_product_attention(*exact, attn_mask=mask, dropout_p=dropout)
    return mixed.to(query.dtype)
