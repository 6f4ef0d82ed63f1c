"""Sub-sentence text features: each piece of a caption is read on its own (Grounding DINO, arXiv 2303.05499, Sec. 3.4).

In a caption of several classes the words of one say nothing about another. Read apart, the features of a piece do not
depend on its neighbours, so a frozen encoder needs to read each piece only once, whatever captions it comes in.
"""
import re

import torch
from mmengine.registry import build_from_cfg
from torch import Tensor, nn

from ovdense.registry import MODELS
from ovdense.structures import TokenizedText

_BORDER = re.compile(r"(?<=\.)\s+|(?<=^Detect:)\s+")
NO_PIECE = -1


def split_pieces(caption: str) -> list[tuple[int, int]]:
    """Return the character spans of a caption's pieces: parts that end in a full stop and a blank, and a leading "Detect:"."""
    spans, start = [], 0
    for border in [*_BORDER.finditer(caption), None]:
        end = border.start() if border else len(caption.rstrip())
        if end > start:
            spans.append((start, end))
        start = border.end() if border else end
    return spans


def piece_of_token(tokenized: TokenizedText) -> Tensor:
    """Return (B, L) int64: the piece that each token belongs to, NO_PIECE for special tokens and padding."""
    out = torch.full(tokenized.ids_BL.shape, NO_PIECE, dtype=torch.long)
    for b, caption in enumerate(tokenized.captions):
        pieces, p = split_pieces(caption), 0
        for token, span in enumerate(tokenized.char_spans[b]):
            if span is None:
                continue
            while p + 1 < len(pieces) and span[0] >= pieces[p + 1][0]:
                p += 1
            out[b, token] = p
    return out.to(tokenized.ids_BL.device)


@MODELS.register_module()
class PiecewiseTextEncoder(nn.Module):
    """Read each piece of a caption apart with `encoder` (BERT family), special tokens around it, and put the tokens together.

    The caption's own special tokens get zeros. A frozen encoder remembers up to `max_pieces` pieces.
    """

    def __init__(self, encoder: dict | nn.Module, *, max_pieces: int = 50_000) -> None:
        super().__init__()
        self.encoder = encoder if isinstance(encoder, nn.Module) else build_from_cfg(encoder, MODELS)
        self.width, self.tokenizer = self.encoder.width, self.encoder.tokenizer
        self._max_pieces, self._memory, self._version = max_pieces, {}, None

    def fingerprint(self) -> str:
        """Return the encoder's fingerprint, marked: features of pieces are not those of whole captions."""
        return f"pieces-{self.encoder.fingerprint()}"

    def encode(self, tokenized: TokenizedText) -> Tensor:
        """Return `hidden_BLD` for the tokens of whole captions."""
        pieces = [[caption[slice(*span)] for span in split_pieces(caption)] for caption in tokenized.captions]
        features = self._features(sorted({p for row in pieces for p in row}))
        device = self.encoder.device
        # every piece's tokens in order, then each real token of the caption takes the next one
        special = next(iter(features.values())).new_zeros(1, self.width) if features else torch.zeros(1, self.width, device=device)
        rows = []
        for b, row in enumerate(pieces):
            tokens = torch.cat([features[p] for p in row]) if row else special[:0]
            is_word = torch.tensor([s is not None for s in tokenized.char_spans[b]], device=device)
            if int(is_word.sum()) > len(tokens):
                raise ValueError(f"a caption's pieces must give its tokens, but {tokenized.captions[b][:60]!r} has {int(is_word.sum())} and its pieces {len(tokens)}")
            place = torch.where(is_word, is_word.cumsum(0), torch.zeros_like(is_word, dtype=torch.long))
            rows.append(torch.cat([special, tokens])[place])
        return torch.stack(rows)

    forward = encode

    def _features(self, pieces: list[str]) -> dict[str, Tensor]:
        """Return each piece's token features (tokens, D), without its special tokens."""
        remember = self.encoder.frozen
        if remember:
            version = self.encoder.fingerprint()
            if version != self._version or len(self._memory) > self._max_pieces:
                self._memory, self._version = {}, version
        known = self._memory if remember else {}
        new = [p for p in pieces if p not in known]
        # a remembered piece is read alone: its numbers must not depend on what it was first seen with
        groups = [[p] for p in new] if remember else [new] if new else []
        for group in groups:
            tokenized = self.tokenizer.encode(group)
            with torch.autocast(self.encoder.device.type, enabled=not remember and torch.is_autocast_enabled(self.encoder.device.type)):
                hidden = self.encoder.encode(tokenized)
            for b, piece in enumerate(group):
                is_word = torch.tensor([s is not None for s in tokenized.char_spans[b]], device=hidden.device)
                known[piece] = hidden[b][is_word]
        return {p: known[p] for p in pieces}
