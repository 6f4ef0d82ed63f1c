"""From targets in pixels and characters to what the criterion compares with: boxes in shares of the image, tokens of each box."""
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ovdense.methods.mdetr.criterion import ImageTruth
from ovdense.methods.mdetr.head import ANSWERS, QUESTION_TYPES
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


def image_truths(tokenized: TokenizedText, targets: Sequence[ImageTarget], device: torch.device, *, published: bool = False,
                 final: bool = False) -> list[ImageTruth]:  # fmt: skip
    """Return the truth of each image; a span that was cut off with its caption's end gives its box no tokens.

    ValueError names an image whose boxes are not finite, or that lacks `final` where the head has it.
    """
    truths = []
    for b, target in enumerate(targets):
        if not bool(target.boxes_xyxy.isfinite().all()):
            raise ValueError(f"boxes must be finite numbers, those of image {target.file_name} are not: {target.boxes_xyxy.tolist()[:3]}")
        if final and target.final is None and len(target.boxes_xyxy):
            raise ValueError(f"the head says which boxes a caption is about (final), but image {target.file_name} does not; "
                             "take a data set that says it (CLEVR-Ref+), or leave out final in the head")  # fmt: skip
        tokens = phrase_map(tokenized, b, target.positive_spans).tokens_PL.to(device)
        truth = ImageTruth(boxes=normalised_boxes(target.boxes_xyxy.to(device), target.size_hw), tokens_nL=tokens)
        if published:
            spans = target.positive_spans if target.align_spans is None else target.align_spans
            truth = replace(truth, align_tokens_nL=published_alignment_tokens(tokenized, b, spans).to(device))
        if target.final is not None or final:
            truth = replace(truth, final_n=torch.zeros(0, device=device) if target.final is None else target.final.to(device))
        truths.append(truth)
    return truths


def image_answers(targets: Sequence[ImageTarget], kind: str) -> list[Mapping[str, int]]:
    """Return each image's answers; ValueError names an image that has none, or not the one that its question's type asks for."""
    types = QUESTION_TYPES[kind]
    for target in targets:
        said = target.answers or {}
        name = types[said["type"]] if 0 <= said.get("type", -1) < len(types) else None
        if name is None or not 0 <= said.get(name, -1) < max(2, ANSWERS[kind][name]):  # a head of one number says yes or no
            raise ValueError(f'the model answers questions, so image {target.file_name} must come with answers such as {{"type": 0, "{types[0]}": 1}} '
                             f"(types, with their numbers of answers: {', '.join(f'{t} {max(2, ANSWERS[kind][t])}' for t in types)}), got {target.answers}; "
                             "take a data set of questions, or leave out answers in the head")  # fmt: skip
    return [target.answers for target in targets]
