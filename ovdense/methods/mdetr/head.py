"""MDETR's heads: from slots to boxes, tokens, alignment, and where they are wanted final-ness and answers.

Boxes are (cx, cy, w, h) in shares of each image's own size. N layers, Q slots, T token columns, L tokens.
"""
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovdense.heads.embedding_head import AlignmentHead, SoftTokenHead

ANSWERS = {  # head -> number of answers, in the order of their slots (arXiv 2104.12763, Sec. 4.2.4)
    "gqa": {"type": 5, "obj": 3, "rel": 1594, "attr": 403, "cat": 678, "global": 111},
    "clevr": {"type": 3, "binary": 1, "reg": 20, "attr": 15},
}


QUESTION_TYPES = {"gqa": ("obj", "attr", "rel", "global", "cat"), "clevr": ("binary", "attr", "reg")}  # what the head "type" numbers


@dataclass(frozen=True, kw_only=True)
class MdetrOutputs:
    """Predictions of every decoder layer, the last one last.

    `logit_NBQT`: over token columns, the last one "no object"; `boxes_NBQ4`; `align_NBQL`: contrastive alignment, or None;
    `valid_BL`: real tokens; `final_NBQ`: logits, or None; `answers`: name -> logits (B, A); `proposals`: those of the
    encoder's image tokens (one layer), where slots come from them.
    """

    logit_NBQT: Tensor
    boxes_NBQ4: Tensor
    align_NBQL: Tensor | None
    valid_BL: Tensor
    final_NBQ: Tensor | None = None
    answers: Mapping[str, Tensor] = field(default_factory=dict)
    proposals: "MdetrOutputs | None" = None


class Mlp(nn.Module):
    """Linear maps with ReLU between them, under `layers.N`."""

    def __init__(self, width: int, out_width: int, num_layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width if n + 1 < num_layers else out_width) for n in range(num_layers))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = F.relu(layer(x), inplace=True)
        return self.layers[-1](x)


class AnswerHeads(nn.Module):
    """Answers to a question, each read from a slot of its own in the *first* decoder layer (as released; the paper does not say)."""

    def __init__(self, width: int, kind: str) -> None:
        super().__init__()
        if kind not in ANSWERS:
            raise KeyError(f"answers must be one of {', '.join(ANSWERS)}, got {kind!r}")
        self.kind = kind
        self.slots = nn.Embedding(len(ANSWERS[kind]), width)
        for name, count in ANSWERS[kind].items():
            self.add_module(f"to_{name}", Mlp(width, count, 3) if name == "reg" else nn.Linear(width, count))

    def read(self, answers: Mapping[str, Tensor], b: int) -> dict[str, int]:
        """Return what is answered to question b: its type, and the likeliest answer of the head of that type (a binary one: 1 for yes)."""
        kind = int(answers["type"][b].argmax())
        name = QUESTION_TYPES[self.kind][kind]
        logit = answers[name][b]
        return {"type": kind, name: int(logit.argmax()) if len(logit) > 1 else int(logit[0] > 0)}

    def forward(self, state_BAC: Tensor) -> dict[str, Tensor]:
        return {name: self.get_submodule(f"to_{name}")(state_BAC[:, n]) for n, name in enumerate(ANSWERS[self.kind])}


class MdetrHead(nn.Module):
    """Heads shared by all layers.

    `columns`: token columns, "no object" among them. `align_width`: width of the contrastive alignment, 0: none. `tokens`: "position"
    (published) or "alignment" (see `SoftTokenHead`). `final`: say whether a box is what the caption is about (CLEVR-Ref+).
    `answers`: "gqa", "clevr" or None.
    """

    def __init__(self, width: int, *, columns: int = 256, align_width: int = 64, temperature: float = 0.07, tokens: str = "position",
                 final: bool = False, answers: str | None = None) -> None:
        super().__init__()
        if tokens not in ("position", "alignment") or tokens == "alignment" and not align_width:
            raise ValueError(f'tokens must be "position", or "alignment" with align_width above 0, got {tokens!r} and {align_width}')
        self.align = AlignmentHead(width, width, width=align_width, temperature=temperature) if align_width else None
        self.tokens = SoftTokenHead(width, columns=columns, alignment=self.align if tokens == "alignment" else None)
        self.box = Mlp(width, 4, 3)
        self.final = nn.Linear(width, 1) if final else None
        self.answers = AnswerHeads(width, answers) if answers else None

    @property
    def columns(self) -> int:
        return self.tokens.columns

    def forward(self, state_NBQC: Tensor, text_BLC: Tensor, valid_BL: Tensor, reference_BQ4: Tensor | None = None, *, last_only: bool = False) -> MdetrOutputs:
        """Predict from slots and the encoder's text tokens; boxes are relative to `reference_BQ4` where there is one (in 0..1).

        `last_only`: predict from the last layer alone; answers are read from the first one all the same.
        """
        answers = {}
        if self.answers is not None:
            count = self.answers.slots.num_embeddings
            answers = self.answers(state_NBQC[0, :, -count:])
            state_NBQC = state_NBQC[:, :, :-count]
        state_NBQC = state_NBQC[-1:] if last_only else state_NBQC
        align = None if self.align is None else self.align(state_NBQC, text_BLC)
        offset = self.box(state_NBQC)
        boxes = (offset if reference_BQ4 is None else offset + torch.logit(reference_BQ4, eps=1e-4)).float().sigmoid()
        return MdetrOutputs(
            logit_NBQT=self.tokens(state_NBQC, align, valid_BL), boxes_NBQ4=boxes, align_NBQL=align, valid_BL=valid_BL,
            final_NBQ=None if self.final is None else self.final(state_NBQC).squeeze(-1), answers=answers,
        )
