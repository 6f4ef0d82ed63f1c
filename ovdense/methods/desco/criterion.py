"""DesCo's training loss (GLIP's): ATSS assignment, then token focal, GIoU and centerness losses."""
from collections.abc import Sequence

import torch
from torch import Tensor

from ovdense.compat.ranks import per_rank
from ovdense.heads.anchors import decode_deltas, grid_anchors
from ovdense.losses import UNMATCHED, atss_assign, centerness_loss, centerness_target, giou_loss, token_focal_loss
from ovdense.methods.desco.head import HeadOutputs


class DescoCriterion:
    """Losses of a batch; no weights.

    `published` follows the release where it differs from the plain mathematics: boxes one pixel narrower in GIoU, in
    the centre test and in centerness. `no_object_token` gives every unmatched anchor target 1 on the last of `max_tokens`
    tokens, as the release does unless MUTE_NOOBJ_TOKEN is set; only captions that fill them all are touched.
    """

    def __init__(self, *, anchor_scale: float = 8.0, top_k: int = 9, alpha: float = 0.25, gamma: float = 2.0, box_weight: float = 2.0,
                 token_weight: float = 1.0, max_tokens: int = 256, published: bool = True,
                 no_object_token: bool = True) -> None:
        self.anchor_scale, self.top_k, self.alpha, self.gamma = anchor_scale, top_k, alpha, gamma
        self.box_weight, self.token_weight = box_weight, token_weight
        self.max_tokens, self.published, self.no_object_token = max_tokens, published, no_object_token

    def assign(self, anchors: Tensor, num_per_level: Sequence[int], boxes: Sequence[Tensor]) -> Tensor:
        """Return (B, Q): the box of each anchor, or UNMATCHED."""
        inset = float(self.published)
        return torch.stack([atss_assign(anchors, num_per_level, b, top_k=self.top_k, inset=inset) for b in boxes])

    def token_target(self, match_BQ: Tensor, positive: Sequence[Tensor], length: int) -> Tensor:
        """Return (B, Q, L): the tokens of each anchor's box; `positive[b]` (N, L) bool."""
        target = torch.zeros(*match_BQ.shape, length, device=match_BQ.device)
        for b, tokens_NL in enumerate(positive):
            matched = match_BQ[b] != UNMATCHED
            if len(tokens_NL):
                target[b, matched] = tokens_NL.to(target)[match_BQ[b, matched]]
            if self.no_object_token and length == self.max_tokens:
                target[b, ~matched, -1] = 1.0
        return target

    def __call__(self, outputs: HeadOutputs, strides: Sequence[int], boxes: Sequence[Tensor], positive: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return loss_token, loss_box and loss_centerness.

        `boxes[b]` (N, 4) xyxy in input pixels; `positive[b]` (N, L) bool, the tokens of each box. A box without tokens
        still counts for boxes and centerness. Token and centerness losses are divided by the mean number of positive
        anchors of a rank (1 over all at least), the box loss by the sum of centerness targets.
        """
        logit, inset = outputs.tokens.logit_BQL, float(self.published)
        anchors = grid_anchors(outputs.sizes_hw, strides, scale=self.anchor_scale, device=logit.device)
        boxes = [b.to(anchors) for b in boxes]
        match_BQ = self.assign(anchors, [h * w for h, w in outputs.sizes_hw], boxes)
        target = self.token_target(match_BQ, positive, logit.shape[-1])
        is_positive = match_BQ != UNMATCHED
        num_positive = per_rank(is_positive.sum())
        loss_token = token_focal_loss(logit, target, outputs.tokens.valid_BL, alpha=self.alpha, gamma=self.gamma) / num_positive

        offset = torch.tensor([0, *(len(b) for b in boxes)], device=logit.device).cumsum(0)[:-1]
        all_boxes = torch.cat(boxes)
        goal = all_boxes[(match_BQ + offset[:, None])[is_positive]]
        anchor = anchors.expand(len(match_BQ), -1, -1)[is_positive]
        quality = centerness_target((anchor[:, :2] + anchor[:, 2:]) / 2, goal, inset=inset)
        total_quality = per_rank(quality.sum(), 1e-6)
        predicted = decode_deltas(outputs.delta_BQ4[is_positive], anchor)
        loss_box = giou_loss(predicted, goal, quality, inset=inset) / total_quality
        loss_centerness = centerness_loss(outputs.centerness_BQ[is_positive], quality) / num_positive
        # with no positive anchor the two sums are empty, yet stay part of the graph: every rank has the same gradients to reduce
        return {"loss_token": self.token_weight * loss_token, "loss_box": self.box_weight * loss_box, "loss_centerness": loss_centerness}
