"""MDETR's training loss (arXiv 2104.12763, Sec. 3.2): Hungarian matching, then soft tokens, boxes, contrastive alignment, masks, answers.

All decoder layers are matched and compared at once. N layers, B images, Q slots, T token columns, L tokens, M pairs.
"""
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ovdense.compat.ranks import per_rank
from ovdense.losses import alignment_loss, cxcywh_to_xyxy, dice_loss, giou, hungarian_match, mask_focal_loss, set_costs, soft_token_loss
from ovdense.methods.mdetr.head import ANSWERS, QUESTION_TYPES, MdetrOutputs
from ovdense.methods.mdetr.mask_head import resize_masks


@dataclass(frozen=True, kw_only=True)
class ImageTruth:
    """What one image must give: `boxes` (n, 4) cxcywh in shares of the image, `tokens_nL` bool, the tokens of each.

    `align_tokens_nL`: those for the alignment loss where they differ (published quirks); `final_n`: 0 or 1.
    """

    boxes: Tensor
    tokens_nL: Tensor
    align_tokens_nL: Tensor | None = None
    final_n: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Matches:
    """Pairs of slots and boxes, (M,) each: `layer`, `image`, `slot`, and `target`, the box within its image. `counts`: boxes an image."""

    layer: Tensor
    image: Tensor
    slot: Tensor
    target: Tensor
    counts: tuple[int, ...]

    def of_layer(self, layer: int) -> "Matches":
        """Return the pairs of one layer."""
        keep = self.layer == layer
        return Matches(layer=self.layer[keep], image=self.image[keep], slot=self.slot[keep], target=self.target[keep], counts=self.counts)

    def flat_target(self) -> Tensor:
        """Return (M,) the places of the pairs' boxes among those of all images, one after the other."""
        starts = torch.tensor([0, *self.counts], device=self.target.device).cumsum(0)[:-1]
        return self.target + starts[self.image]


@dataclass(frozen=True, kw_only=True)
class MdetrCriterion:
    """Losses of a batch; no weights. The defaults are the published coefficients.

    `published` follows the release where it differs from the paper: a box's tokens are 1 each instead of sharing 1 among them; the
    alignment softmax also counts padding tokens, so that the loss depends on the rest of the batch; tokens past the last column are
    cut off and one *in* the last column speaks for "no object" as well. `proposal_repeats`: slots a target gets among the encoder's proposals.
    `auxiliary`: all decoder layers are trained by their own predictions, not the last one alone (the release's GQA runs: --no_aux_loss).
    """

    class_cost: float = 1.0
    box_cost: float = 5.0
    giou_cost: float = 2.0
    token_weight: float = 1.0
    box_weight: float = 5.0
    giou_weight: float = 2.0
    align_weight: float = 1.0
    mask_weight: float = 1.0
    dice_weight: float = 1.0
    final_weight: float = 1.0
    answer_weight: float = 1.0
    early_weight: float = 1.0
    no_object_weight: float = 0.1
    proposal_repeats: int = 4
    auxiliary: bool = True
    published: bool = False

    def positive_columns(self, tokens_nL: Tensor, columns: int) -> Tensor:
        """Return (n, T): the share of each token column in a box's target; a box without tokens has zeros."""
        room = columns if self.published else columns - 1
        kept = F.pad(tokens_nL[:, :room].float(), (0, columns - min(room, tokens_nL.shape[1])))
        return kept if self.published else kept / kept.sum(1, keepdim=True).clamp(min=1)

    def match(self, outputs: MdetrOutputs, truth: Sequence[ImageTruth], *, repeats: int = 1) -> Matches:
        """Return the cheapest pairs of slots and boxes for every layer."""
        counts = tuple(len(t.boxes) for t in truth)
        layers, batch, _, columns = outputs.logit_NBQT.shape
        most, device = max(counts, default=0), outputs.logit_NBQT.device
        positive, boxes = torch.zeros(batch, most, columns, device=device), torch.full((batch, most, 4), 0.5, device=device)
        for b, (t, count) in enumerate(zip(truth, counts)):
            positive[b, :count], boxes[b, :count] = self.positive_columns(t.tokens_nL, columns).to(device), t.boxes.to(device)
        with torch.no_grad():
            cost = set_costs(outputs.logit_NBQT.float().softmax(-1), outputs.boxes_NBQ4, positive, boxes,
                             class_weight=self.class_cost, box_weight=self.box_cost, giou_weight=self.giou_cost)
            group, slot, target = hungarian_match(cost.flatten(0, 1), counts * layers, repeats=repeats)
        return Matches(layer=group // batch, image=group % batch, slot=slot, target=target, counts=counts)

    def num_boxes(self, truth: Sequence[ImageTruth], device: torch.device) -> float:
        """Return the mean number of boxes of a rank, what the losses are divided by; 1 over all ranks at least (the release: 1 a rank)."""
        return per_rank(torch.tensor(float(sum(len(t.boxes) for t in truth)), device=device))

    def __call__(self, outputs: MdetrOutputs, truth: Sequence[ImageTruth], matches: Matches | None = None) -> dict[str, Tensor]:
        """Return the weighted losses, the last layer's without a suffix, the others with _0, _1 ...; and `cardinality_error`, a figure to watch.

        With no box at all the box and alignment losses are 0 and stay part of the graph.
        """
        losses = self._layer_losses(outputs, truth, self.match(outputs, truth) if matches is None else matches)
        if outputs.proposals is not None:
            pairs = self.match(outputs.proposals, truth, repeats=self.proposal_repeats)
            found = self._layer_losses(outputs.proposals, truth, pairs)
            losses |= {f"{name}_proposals": value / self.proposal_repeats for name, value in found.items() if name.startswith("loss")}
        return losses

    def _layer_losses(self, outputs: MdetrOutputs, truth: Sequence[ImageTruth], matches: Matches) -> dict[str, Tensor]:
        logit, device = outputs.logit_NBQT, outputs.logit_NBQT.device
        layers, _, _, columns = logit.shape
        total, place, goal = self.num_boxes(truth, device), (matches.layer, matches.image, matches.slot), matches.flat_target()
        target = torch.zeros_like(logit, dtype=torch.float32)
        target[..., -1] = 1
        target[place] = torch.cat([self.positive_columns(t.tokens_nL, columns).to(device) for t in truth])[goal]
        weight = torch.full(logit.shape[:-1], self.no_object_weight, device=device)
        weight[place] = 1
        boxes, wanted = outputs.boxes_NBQ4[place], torch.cat([t.boxes.to(device) for t in truth])[goal]
        off = (boxes - wanted).abs().sum(-1)
        apart = 1 - giou(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(wanted), eps=1e-12)

        def by_layer(value_M: Tensor) -> Tensor:
            return value_M.new_zeros(layers).index_add(0, matches.layer, value_M)

        parts = {
            "loss_token": self.token_weight * soft_token_loss(logit, target, weight),
            "loss_box": self.box_weight * by_layer(off),
            "loss_giou": self.giou_weight * by_layer(apart),
        }
        if outputs.align_NBQL is not None and self.align_weight:
            parts["loss_align"] = self.align_weight * self._align(outputs, truth, place, goal)
        if outputs.final_NBQ is not None and all(t.final_n is not None for t in truth):
            wanted_final = torch.cat([t.final_n.to(device) for t in truth])[goal].float()
            parts["loss_final"] = self.final_weight * by_layer(F.binary_cross_entropy_with_logits(outputs.final_NBQ[place], wanted_final, reduction="none"))
        counted = (logit.argmax(-1) != columns - 1).sum(-1) - torch.tensor(matches.counts, device=device)
        losses = {}
        for n in range(layers):
            suffix = "" if n == layers - 1 else f"_{n}"
            losses |= {f"{name}{suffix}": value[n] / total for name, value in parts.items()}
            losses[f"cardinality_error{suffix}"] = counted[n].abs().float().mean()
        return losses

    def _align(self, outputs: MdetrOutputs, truth: Sequence[ImageTruth], place: tuple[Tensor, ...], goal: Tensor) -> Tensor:
        logit = outputs.align_NBQL
        positive = torch.zeros(logit.shape, dtype=torch.bool, device=logit.device)
        tokens = torch.cat([(t.tokens_nL if t.align_tokens_nL is None else t.align_tokens_nL).to(logit.device) for t in truth])
        positive[place] = tokens[goal]
        counted = torch.ones_like(outputs.valid_BL) if self.published else outputs.valid_BL
        return torch.stack([alignment_loss(layer, wanted, counted) for layer, wanted in zip(logit, positive)])

    def early_loss(self, logit_BPL: Tensor, valid_BL: Tensor, centres_BP2: Tensor, truth: Sequence[ImageTruth]) -> dict[str, Tensor]:
        """Return loss_early: image places, before they meet the caption, against the tokens of all boxes whose inside they are the centre of.

        Ours, for short trainings (it aligns before it fuses, as arXiv 2107.07651 does with whole images); not in the paper.
        """
        positive = torch.zeros_like(logit_BPL, dtype=torch.bool)
        for b, t in enumerate(truth):
            boxes = cxcywh_to_xyxy(t.boxes)
            inside_Pn = ((centres_BP2[b, :, None] > boxes[None, :, :2]) & (centres_BP2[b, :, None] < boxes[None, :, 2:])).all(-1)
            positive[b] = (inside_Pn.float() @ t.tokens_nL.float()) > 0
        pairs = per_rank(positive.any(-1).sum())
        return {"loss_early": self.early_weight * alignment_loss(logit_BPL, positive, valid_BL) / pairs}

    def mask_losses(
        self, logit_MHW: Tensor, masks: Sequence[Tensor], pairs: Matches, truth: Sequence[ImageTruth], padded_hw: tuple[int, int]
    ) -> dict[str, Tensor]:
        """Return loss_mask (focal) and loss_dice of the pairs' masks: `masks[b]` (n, h, w) bool at the input's size, padded with 0 to `padded_hw`."""
        total = self.num_boxes(truth, logit_MHW.device)
        if len(logit_MHW):
            whole = [F.pad(m, (0, padded_hw[1] - m.shape[2], 0, padded_hw[0] - m.shape[1])) for m in masks]
            wanted = torch.cat(whole).to(logit_MHW.device)[pairs.flat_target()].flatten(1).float()
            logit = resize_masks(logit_MHW, padded_hw).flatten(1)
        else:
            logit = wanted = logit_MHW.flatten(1)
        return {"loss_mask": self.mask_weight * mask_focal_loss(logit, wanted) / total, "loss_dice": self.dice_weight * dice_loss(logit, wanted) / total}

    def answer_losses(self, answers: Mapping[str, Tensor], wanted: Sequence[Mapping[str, int]], kind: str) -> dict[str, Tensor]:
        """Return the losses of the question's type and of its answers, each over all ranks' questions of that type (arXiv 2104.12763, Sec. 4.2.4).

        `wanted[b]`: {"type": index among the other heads, <name of that head>: its answer}.
        """
        names = [name for name in ANSWERS[kind] if name != "type"]
        device = answers["type"].device
        types = torch.tensor([w["type"] for w in wanted], device=device)
        losses = {"loss_answer_type": self.answer_weight * F.cross_entropy(answers["type"], types)}
        for name in names:
            mine = types == QUESTION_TYPES[kind].index(name)
            goal = torch.tensor([w[name] for w, m in zip(wanted, mine.tolist()) if m], device=device)
            logit = answers[name][mine]
            if name == "binary":
                each = F.binary_cross_entropy_with_logits(logit.squeeze(-1), goal.float(), reduction="sum")
            else:
                each = F.cross_entropy(logit, goal.long(), reduction="sum")
            losses[f"loss_answer_{name}"] = self.answer_weight * each / per_rank(mine.sum())
        return losses
