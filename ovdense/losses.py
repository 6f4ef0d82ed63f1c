"""Matching and losses as pure functions of tensors: no modules, no state, no distributed calls.

Boxes are xyxy with continuous coordinates (x2 = x1 + width). GLIP's release counts pixels instead (x2 = x1 + width - 1);
where that changes a number, `inset` is 1 for its way and 0 for the plain one.
"""
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_iou

from ovdense.structures import IGNORE_LABEL

UNMATCHED = -1


def token_focal_loss(logit_BQL: Tensor, target_BQL: Tensor, valid_BL: Tensor, *, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Return the summed sigmoid focal loss (arXiv 1708.02002, Eq. 5) over valid tokens; targets 0 or 1, any float dtype."""
    logit, target = logit_BQL.float(), target_BQL.float()
    # -log p_t and p_t follow from one log-sigmoid of the signed logit
    log_p_t = F.logsigmoid(logit * (2 * target - 1))
    weight = alpha * target + (1 - alpha) * (1 - target)
    loss = -weight * (1 - log_p_t.exp()) ** gamma * log_p_t
    return (loss * valid_BL[:, None].to(loss)).sum()


def giou(boxes_xyxy: Tensor, target_xyxy: Tensor, *, eps: float = 1e-7) -> Tensor:
    """Return the generalised IoU (arXiv 1902.09630) of pairs (broadcast over all but the last axis): in -1..1. Inverted boxes count as flat.

    `eps` is added to areas: boxes in shares of the image need a smaller one than boxes in pixels.
    """
    x1, y1, x2, y2 = boxes_xyxy.unbind(-1)
    x2, y2 = torch.maximum(x1, x2), torch.maximum(y1, y2)
    tx1, ty1, tx2, ty2 = target_xyxy.unbind(-1)
    overlap = (torch.minimum(x2, tx2) - torch.maximum(x1, tx1)).clamp(min=0) * (torch.minimum(y2, ty2) - torch.maximum(y1, ty1)).clamp(min=0)
    hull = (torch.maximum(x2, tx2) - torch.minimum(x1, tx1)) * (torch.maximum(y2, ty2) - torch.minimum(y1, ty1)) + eps
    union = (x2 - x1) * (y2 - y1) + (tx2 - tx1) * (ty2 - ty1) - overlap + eps
    return overlap / union - (hull - union) / hull


def giou_loss(boxes_xyxy: Tensor, target_xyxy: Tensor, weight_N: Tensor, *, inset: float = 0.0) -> Tensor:
    """Return the weighted sum of 1 - GIoU. With `inset` 1 boxes lose one pixel of width and height first (GLIP's release)."""
    shift = boxes_xyxy.new_tensor([0.0, 0.0, inset, inset])
    return ((1 - giou(boxes_xyxy - shift, target_xyxy - shift)) * weight_N).sum()


def centerness_target(points: Tensor, boxes_xyxy: Tensor, *, inset: float = 0.0) -> Tensor:
    """Return sqrt(min/max of left-right x min/max of top-bottom) for points inside their boxes (arXiv 1904.01355, Eq. 3)."""
    left_top = points - boxes_xyxy[:, :2] - inset / 2
    right_bottom = boxes_xyxy[:, 2:] - points - inset / 2
    ratio = torch.minimum(left_top, right_bottom) / torch.maximum(left_top, right_bottom).clamp(min=1e-6)
    return ratio.clamp(min=0).prod(-1).sqrt()


def atss_assign(anchors_xyxy: Tensor, num_per_level: Sequence[int], boxes_xyxy: Tensor, *, top_k: int = 9, inset: float = 0.0) -> Tensor:
    """Return for each anchor the index of its box, or UNMATCHED (ATSS, arXiv 1912.02424, Algorithm 1).

    Candidates: per level the `top_k` anchors whose centres are nearest to the box's. A candidate is positive when its
    IoU reaches the candidates' mean plus standard deviation and its centre lies inside the box by 0.01 pixels. An anchor
    of several boxes goes to the one of highest IoU. No boxes: all unmatched.
    """
    num_anchors, num_boxes = len(anchors_xyxy), len(boxes_xyxy)
    if num_boxes == 0:
        return torch.full((num_anchors,), UNMATCHED, dtype=torch.long, device=anchors_xyxy.device)
    iou = box_iou(anchors_xyxy, boxes_xyxy)
    points = (anchors_xyxy[:, :2] + anchors_xyxy[:, 2:]) / 2
    centres = (boxes_xyxy[:, :2] + boxes_xyxy[:, 2:]) / 2
    distance = (points[:, None] - centres[None]).pow(2).sum(-1).sqrt()
    candidates, start = [], 0
    for count in num_per_level:
        candidates.append(distance[start : start + count].topk(min(top_k, count), dim=0, largest=False).indices + start)
        start += count
    candidate = torch.cat(candidates)  # (candidates, boxes)
    column = torch.arange(num_boxes, device=candidate.device)
    candidate_iou = iou[candidate, column]
    positive = candidate_iou >= candidate_iou.mean(0) + candidate_iou.std(0)
    point = points[candidate]
    margin = torch.cat([point - boxes_xyxy[:, :2], boxes_xyxy[:, 2:] - point], dim=-1).amin(-1) - inset / 2
    positive &= margin > 0.01
    best = torch.full_like(iou, -torch.inf)
    rows, columns = candidate[positive], column.expand_as(candidate)[positive]
    best[rows, columns] = iou[rows, columns]
    value, box = best.max(1)
    return torch.where(value > -torch.inf, box, torch.full_like(box, UNMATCHED))


def centerness_loss(logit_N: Tensor, target_N: Tensor) -> Tensor:
    """Return the summed binary cross entropy of centerness logits."""
    return F.binary_cross_entropy_with_logits(logit_N.float(), target_N, reduction="sum")


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Return boxes (..., 4) as corners."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def set_costs(prob_BQT: Tensor, boxes_BQ4: Tensor, positive_BNT: Tensor, target_BN4: Tensor, *, class_weight: float = 1.0, box_weight: float = 5.0,
              giou_weight: float = 2.0) -> Tensor:
    """Return (..., B, Q, N) costs of giving slot q the target n (arXiv 2104.12763, Sec. 3.2; DETR's, arXiv 2005.12872, Eq. 1).

    `prob_BQT` softmax over token columns, `positive_BNT` the target's share of each column; boxes are (cx, cy, w, h) in shares of the image.
    """
    cost = class_weight * -(prob_BQT @ positive_BNT.transpose(-1, -2))
    cost = cost + box_weight * (boxes_BQ4.unsqueeze(-2) - target_BN4.unsqueeze(-3)).abs().sum(-1)
    pairs = giou(cxcywh_to_xyxy(boxes_BQ4).unsqueeze(-2), cxcywh_to_xyxy(target_BN4).unsqueeze(-3), eps=1e-12)
    return cost - giou_weight * pairs


def hungarian_match(cost_GQN: Tensor, counts: Sequence[int], *, repeats: int = 1) -> Tensor:
    """Return (3, M) int64 rows (group, slot, target): for each group the cheapest one-to-one assignment of its first `counts[g]` targets.

    `repeats` > 1 gives each target up to so many slots (arXiv 2207.13080's extra branch). More targets than slots: the cheapest stay.
    """
    from scipy.optimize import linear_sum_assignment

    costs, found = cost_GQN.detach().float().cpu().numpy(), []
    if not np.isfinite(costs).all():
        raise ValueError("the costs of pairs of slots and targets must be finite, some are not; the training has diverged, or boxes hold nan")
    for g, count in enumerate(counts):
        block = costs[g, :, :count]
        slots, targets = linear_sum_assignment(block if repeats == 1 else block.repeat(repeats, axis=1))
        if repeats > 1:
            targets = targets // repeats
        found += [(g, s, t) for s, t in zip(slots.tolist(), targets.tolist())]
    return torch.tensor(found, dtype=torch.int64, device=cost_GQN.device).reshape(-1, 3).T


def soft_token_loss(logit_BQT: Tensor, target_BQT: Tensor, weight_BQ: Tensor) -> Tensor:
    """Return (...,) summed over B and Q: cross entropy of the token columns with soft targets, weighted by slot."""
    return (-(logit_BQT.float().log_softmax(-1) * target_BQT).sum(-1) * weight_BQ).sum((-1, -2))


def alignment_loss(logit_BQL: Tensor, positive_BQL: Tensor, counted_BL: Tensor) -> Tensor:
    """Return (...,) summed over B: slots find their tokens and tokens their slots, halved (arXiv 2104.12763, Eq. 1 and 2).

    `positive_BQL` bool; `counted_BL` bool, the tokens that a slot chooses among.
    """
    logit, positive = logit_BQL.float(), positive_BQL
    rival = logit.masked_fill(~counted_BL[:, None], float("-inf"))
    held = logit.masked_fill(~positive, 0.0)

    def one_way(axis: int, all_logits: Tensor) -> Tensor:
        has = positive.any(axis)
        mean = held.sum(axis) / (positive.sum(axis) + 1e-6)
        return torch.where(has, all_logits.logsumexp(axis) - mean, torch.zeros_like(mean)).sum((-1, -2))

    return (one_way(-1, rival) + one_way(-2, logit)) / 2


def dice_loss(logit_NP: Tensor, target_NP: Tensor) -> Tensor:
    """Return the sum over masks of 1 - (2 overlap + 1) / (area + area + 1); logits and targets (N, pixels)."""
    share = logit_NP.float().sigmoid()
    return (1 - (2 * (share * target_NP).sum(1) + 1) / (share.sum(1) + target_NP.sum(1) + 1)).sum()


def mask_focal_loss(logit_NP: Tensor, target_NP: Tensor, *, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Return the sum over masks of the pixels' mean focal loss; logits and targets (N, pixels)."""
    if not logit_NP.numel():
        return logit_NP.sum()
    valid = torch.ones(1, logit_NP.shape[1], dtype=torch.bool, device=logit_NP.device)
    return token_focal_loss(logit_NP[None], target_NP[None], valid, alpha=alpha, gamma=gamma) / logit_NP.shape[1]


def pixel_cross_entropy(logit_BKHW: Tensor, label_BHW: Tensor, *, ignore_label: int = IGNORE_LABEL, over: str = "all", step: int = 1,
                        weight_K: Tensor | None = None) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return the cross entropy of logits, resized to the labels (bilinear), summed over pixels, and the number of pixels to divide it by.

    Ignored pixels add nothing to the sum. `step` n looks at one pixel of every n x n block only, which costs n * n times less. `over` "all" counts all
    pixels, as mmseg and the releases built on it do; "labelled" those that have a label, which with `weight_K` count as much as their class weighs.
    """
    if weight_K is not None and over != "labelled":
        raise ValueError('classes that weigh unequally need over="labelled"')
    if over not in ("all", "labelled"):
        raise ValueError(f'over must be "all" or "labelled", got {over!r}')
    if step > 1:
        label_BHW = label_BHW[:, step // 2 :: step, step // 2 :: step]
    if logit_BKHW.shape[-2:] != label_BHW.shape[-2:]:
        logit_BKHW = F.interpolate(logit_BKHW, size=label_BHW.shape[-2:], mode="bilinear", align_corners=False)
    loss = F.cross_entropy(logit_BKHW.float(), label_BHW, ignore_index=ignore_label, reduction="sum", weight=weight_K)
    if weight_K is not None:
        return loss, weight_K[label_BHW[label_BHW != ignore_label]].sum()
    return loss, (label_BHW != ignore_label).sum() if over == "labelled" else loss.new_tensor(label_BHW.numel(), dtype=torch.int64)


def box_label_maps(boxes_xyxy: Sequence[Tensor], labels: Sequence[Tensor], num_classes: int, size_hw: tuple[int, int], stride: int) -> tuple[Tensor, Tensor]:
    """Return (B, K, H, W) float, 1 where a box of the class is, and (B, 1, H, W) bool, True where any box is, on a map of `size_hw` cells of `stride` pixels.

    Corners are cut down to cells and kept inside the map, the upper ends do not count (DenseCLIP's rule): a box below one
    cell covers nothing, and the last row and column are never covered.
    """
    height, width = size_hw
    like = boxes_xyxy[0]
    target = like.new_zeros(len(boxes_xyxy), num_classes, height, width, dtype=torch.float32)
    for b, (boxes, classes) in enumerate(zip(boxes_xyxy, labels, strict=True)):
        cells = (boxes / stride).long().clamp(min=0)
        for (x1, y1, x2, y2), k in zip(cells.tolist(), classes.tolist()):
            target[b, k, min(y1, height - 1) : min(y2, height - 1), min(x1, width - 1) : min(x2, width - 1)] = 1
    return target, target.amax(1, keepdim=True) > 0


def covered_cross_entropy(logit_BKHW: Tensor, target_BKHW: Tensor, covered_B1HW: Tensor) -> tuple[Tensor, Tensor]:
    """Return the binary cross entropy summed over covered pixels x classes, and their number, by which the release divides it (even by 0)."""
    weight = covered_B1HW.to(torch.float32).expand_as(logit_BKHW)
    loss = F.binary_cross_entropy_with_logits(logit_BKHW.float(), target_BKHW, weight=weight, reduction="sum")
    return loss, weight.sum()
