"""From MDETR's outputs to detections: boxes in pixels, scores of objects, phrases and referred things. Pure functions.

Q slots, P phrases, T token columns (the last one "no object").
"""
import torch
from torch import Tensor

from ovdense.losses import cxcywh_to_xyxy
from ovdense.structures import Results


def pixel_boxes(boxes_cxcywh_norm: Tensor, size_hw: tuple[int, int], *, clip: bool = False) -> Tensor:
    """Return (..., 4) xyxy in pixels of an image of `size_hw`; with `clip` cut at its border (the release does not)."""
    h, w = size_hw
    scale = boxes_cxcywh_norm.new_tensor([w, h, w, h])
    boxes = cxcywh_to_xyxy(boxes_cxcywh_norm) * scale
    return boxes.clamp(min=0).minimum(scale) if clip else boxes


def object_scores(logit_QT: Tensor) -> Tensor:
    """Return (..., Q): the probability that a slot holds any object at all, 1 - P("no object")."""
    return 1 - logit_QT.float().softmax(-1)[..., -1]


PHRASE_SCORES = ("sum", "max", "object")


def phrase_scores(logit_QT: Tensor, tokens_PL: Tensor, how: str = "sum", final_Q: Tensor | None = None) -> Tensor:
    """Return (..., Q, P) in 0..1: how surely a slot speaks of a phrase. `tokens_PL` bool; a phrase without tokens scores 0.

    "sum": the probability of all its tokens, what the paper's target (1 shared among a phrase's tokens) makes of them; "max": of its
    best token (the release's rule for Flickr30k; lower, the longer a phrase); "object": of any object at all, whatever the phrase (the release's
    rule for referring expressions, where the caption is about one thing), times that of being what the caption is about where the head says so
    (`final_Q` logits; CLEVR-Ref+).
    """
    if how == "object":
        score = object_scores(logit_QT) if final_Q is None else object_scores(logit_QT) * final_Q.float().sigmoid()
        return score[..., None] * tokens_PL.any(1)
    prob = logit_QT.float().softmax(-1)
    length = min(tokens_PL.shape[1], prob.shape[-1] - (how == "sum"))  # a token in the last column: as published with "max"
    prob, tokens = prob[..., :length], tokens_PL[:, :length]
    if how == "sum":
        return prob @ tokens.to(prob).T
    if how == "max":
        return (prob[..., None, :] * tokens).amax(-1)
    raise ValueError(f'how must be "sum", "max" or "object", got {how!r}')


def referring_order(scores_Q: Tensor, boxes_Q4: Tensor) -> Tensor:
    """Return (Q,) the slots by (score, then box) from the largest down: how the release ranks the answers to a referring expression."""
    columns = torch.cat([scores_Q[:, None], boxes_Q4], dim=1).flip(1)
    order = torch.arange(len(scores_Q), device=scores_Q.device)
    for column in columns.unbind(1):
        order = order[column[order].argsort(descending=True, stable=True)]
    return order


def phrase_results(score_QP: Tensor, boxes_Q4: Tensor, labels_P: Tensor, *, score_thr: float, max_dets: int | None, names: tuple[str, ...],
                   size_hw: tuple[int, int], image_id: int) -> tuple[Results, Tensor]:
    """Return the pairs of slots and phrases with a score above `score_thr`, best first, and the slot of each (N,).

    A box may be given to several phrases; a phrase that no slot speaks of gets none. Kept in arrays: 28 bytes a detection.
    """
    flat = score_QP.flatten()
    keep = (flat > score_thr).nonzero()[:, 0] if score_thr > 0 else torch.arange(len(flat), device=flat.device)
    order = flat[keep].argsort(descending=True, stable=True)[:max_dets]
    keep = keep[order]
    num_phrases = max(score_QP.shape[1], 1)
    slot, phrase = keep // num_phrases, keep % num_phrases
    results = Results(boxes_xyxy=boxes_Q4[slot], scores=flat[keep], labels=labels_P[phrase], names=names, size_hw=size_hw, image_id=image_id)
    return results, slot
