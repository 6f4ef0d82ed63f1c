"""The captions of a vocabulary, encoded, and how several of them are laid side by side for the head."""
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ovdense.structures import TokenizedText
from ovdense.text.phrases import Span, phrase_map
from ovdense.text.piecewise import NO_PIECE


@dataclass(frozen=True, kw_only=True)
class EncodedChunk:
    """One caption of the vocabulary, encoded: `hidden_LD`, no padding; `tokens_KL` (its classes, L); `classes` their indices.

    `piece_L`: the piece of each token where pieces are read apart, else None. `background_NL`: the tokens of the background classes.
    """

    hidden_LD: Tensor
    piece_L: Tensor | None
    tokens_KL: Tensor
    background_NL: Tensor
    classes: Tensor

    def to(self, device: torch.device) -> "EncodedChunk":
        """Return the chunk with its tensors on `device`."""
        return EncodedChunk(hidden_LD=self.hidden_LD.to(device), piece_L=None if self.piece_L is None else self.piece_L.to(device),
                            tokens_KL=self.tokens_KL.to(device), background_NL=self.background_NL.to(device), classes=self.classes.to(device))


def looks_at(piece_BL: Tensor, valid_BL: Tensor) -> Tensor:
    """Return (B, L, L) bool: tokens see the valid tokens of their own piece; those of no piece see all valid ones."""
    same = piece_BL[:, :, None] == piece_BL[:, None, :]
    return (same | (piece_BL == NO_PIECE)[:, :, None]) & valid_BL[:, None, :]


def chunk_rows(group: Sequence[EncodedChunk], batch: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the tokens (G * batch, L, D), which are real, and what may be looked at, padded to the longest; chunk by chunk, `batch` rows each."""
    hidden = nn.utils.rnn.pad_sequence([c.hidden_LD for c in group], batch_first=True)
    lengths = torch.tensor([len(c.hidden_LD) for c in group], device=hidden.device)
    valid = torch.arange(hidden.shape[1], device=hidden.device)[None] < lengths[:, None]
    together = None
    if group[0].piece_L is not None:
        pieces = nn.utils.rnn.pad_sequence([c.piece_L for c in group], batch_first=True, padding_value=NO_PIECE)
        together = looks_at(pieces, valid).repeat_interleave(batch, 0)
    return hidden.repeat_interleave(batch, 0), valid.repeat_interleave(batch, 0), together


def class_tokens(tokenized: TokenizedText, b: int, spans_per_class: Sequence[Sequence[Span]]) -> Tensor:
    """Return (K, L) bool, the tokens of each class; ValueError for text that gives none, which no place could ever match."""
    tokens_KL = phrase_map(tokenized, b, spans_per_class).tokens_PL
    for spans, found in zip(spans_per_class, tokens_KL.any(1).tolist()):
        if spans and not found:
            text = " ".join(tokenized.captions[b][begin:end] for begin, end in spans)
            raise ValueError(f"the text of a class must give a token, {text!r} gives none in {tokenized.captions[b][:80]!r}; name the class in words")
    return tokens_KL
