"""Comparing places with text: pure functions, no parameters."""
import torch
from torch import Tensor

from ovdense.structures import ClassBank

LOGIT_LIMIT = 50_000.0  # the releases' guard against overflow in half precision


def token_logits(place_BQC: Tensor, token_BLC: Tensor, bias_BL: Tensor, temperature: Tensor) -> Tensor:
    """Return (B, Q, L) dot products over `temperature`, plus a bias per token, clamped to +-50,000 (GLIP, Eq. 3)."""
    logit = place_BQC @ token_BLC.transpose(1, 2) / temperature + bias_BL[:, None]
    return logit.clamp(-LOGIT_LIMIT, LOGIT_LIMIT)


def row_logits(place_unit: Tensor, bank: ClassBank, temperature: Tensor | float, bias: Tensor | float = 0.0) -> Tensor:
    """Return (..., M) cosines with every row of `bank`, over `temperature`, plus `bias`; `place_unit` (..., D) of length 1."""
    return place_unit @ bank.rows_MD.to(place_unit).T / temperature + bias


def pool_rows(logit_M: Tensor, bank: ClassBank, how: str = "max") -> Tensor:
    """Return (..., K): the best ("max"), or the mean, of each class's rows. Negative rows are left out."""
    if how not in ("max", "mean"):
        raise ValueError(f'how must be "max" or "mean", got {how!r}')
    keep = bank.class_of_row_M.to(logit_M.device) >= 0
    classes = bank.class_of_row_M.to(logit_M.device)[keep].expand(*logit_M.shape[:-1], -1)
    out = logit_M.new_zeros(*logit_M.shape[:-1], bank.num_classes)
    return out.scatter_reduce(-1, classes, logit_M[..., keep], reduce="amax" if how == "max" else "mean", include_self=False)


POOLS = ("mean", "max", "power")


def pool_tokens(score_BQL: Tensor, tokens_KL: Tensor, how: str = "mean") -> Tensor:
    """Return (B, Q, K): each phrase's score from its tokens' scores in 0..1.

    `tokens_KL` bool; a phrase without tokens scores 0. "mean" is the published default (score_agg MEAN); "max" and
    "power" (the geometric mean) are the release's other two.
    """
    weight = tokens_KL.to(score_BQL)
    count = weight.sum(1)
    if how == "mean":
        return score_BQL @ (weight / count.clamp(min=1)[:, None]).T
    if how == "max":
        columns = [score_BQL[..., row].amax(-1) if bool(row.any()) else score_BQL.new_zeros(score_BQL.shape[:-1]) for row in tokens_KL]
        return torch.stack(columns, dim=-1) if columns else score_BQL.new_zeros(*score_BQL.shape[:-1], 0)
    if how == "power":
        log = score_BQL.clamp(min=torch.finfo(score_BQL.dtype).tiny).log()
        return (log @ (weight / count.clamp(min=1)[:, None]).T).exp() * (count > 0)
    raise ValueError(f'how must be "mean", "max" or "power", got {how!r}')
