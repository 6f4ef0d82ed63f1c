"""From targets in pixels and characters to what the criterion compares with: boxes in shares of the image, tokens of each box."""
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ovdense.methods.mdetr.criterion import ImageTruth
from ovdense.structures import ImageTarget, TokenizedText
from ovdense.text.phrases import char_to_token, phrase_map


def normalised_boxes(boxes_xyxy: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Return (N, 4) cxcywh in shares of an image of `size_hw`, from pixels."""
    h, w = size_hw
    boxes = boxes_xyxy / boxes_xyxy.new_tensor([w, h, w, h])
    return torch.cat([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], dim=1)


def published_alignment_tokens(tokenized: TokenizedText, b: int, spans_per_box: Sequence[Sequence[tuple[int, int]]]) -> Tensor:
    """Return (N, L) bool as the release's alignment loss finds tokens.

    Where a span begins or ends on a blank it looks for the neighbouring characters, but forgets which caption it is at and takes those of
    the batch's first one.
    """

    def token(char: int, others: Sequence[int]) -> int | None:
        found = char_to_token(tokenized.char_spans[b], char)
        first = tokenized.char_spans[0]
        return found if found is not None else next((t for c in others if (t := char_to_token(first, c)) is not None), None)

    tokens = torch.zeros(len(spans_per_box), tokenized.ids_BL.shape[1], dtype=torch.bool)
    for n, spans in enumerate(spans_per_box):
        for begin, end in spans:
            first, last = token(begin, (begin + 1, begin + 2)), token(end - 1, (end - 2, end - 3))
            if first is not None and last is not None:
                tokens[n, first : last + 1] = True
    return tokens


def image_truths(tokenized: TokenizedText, targets: Sequence[ImageTarget], device: torch.device, *, published: bool = False) -> list[ImageTruth]:
    """Return the truth of each image; a span that was cut off with its caption's end gives its box no tokens."""
    truths = []
    for b, target in enumerate(targets):
        tokens = phrase_map(tokenized, b, target.positive_spans).tokens_PL.to(device)
        truth = ImageTruth(boxes=normalised_boxes(target.boxes_xyxy.to(device), target.size_hw), tokens_nL=tokens)
        if published:
            spans = target.positive_spans if target.align_spans is None else target.align_spans
            truth = replace(truth, align_tokens_nL=published_alignment_tokens(tokenized, b, spans).to(device))
        if target.final is not None:
            truth = replace(truth, final_n=target.final.to(device))
        truths.append(truth)
    return truths
