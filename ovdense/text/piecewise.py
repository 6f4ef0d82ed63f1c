"""Sub-sentence text features: each piece of a caption is read on its own (Grounding DINO, arXiv 2303.05499, Sec. 3.4).

In a caption of several classes the words of one say nothing about another. Read apart, the features of a piece do not
depend on its neighbours, so a frozen encoder needs to read each piece only once, whatever captions it comes in.
B captions, L tokens, D width.
"""
import re
from collections.abc import Iterator
from itertools import compress
from typing import NamedTuple

import torch
from mmengine.registry import build_from_cfg
from torch import Tensor, nn

from ovdense.registry import MODELS
from ovdense.structures import TokenizedText

_BORDER = re.compile(r"(?<=\.)\s+|(?<=^Detect:)\s+")
NO_PIECE = -1
_AT_A_TIME = 64


def split_pieces(caption: str) -> list[tuple[int, int]]:
    """Return the character spans of a caption's pieces: parts that end in a full stop and a blank, and a leading "Detect:".

    That is how `prompts` writes them; it keeps such stops out of class names. In a description a full stop and a blank
    end a piece too.
    """
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

    The caption's own special tokens get zeros. A frozen encoder remembers what it read last, up to `max_mib` MiB of features. In training it reads each
    piece alone, so that its numbers depend on nothing else to the last bit; at test time new pieces of equal length are read together, without padding,
    which is faster and the same to rounding.
    """

    def __init__(self, encoder: dict | nn.Module, *, max_mib: float = 512) -> None:
        super().__init__()
        self.encoder = encoder if isinstance(encoder, nn.Module) else build_from_cfg(encoder, MODELS)
        self.width, self.tokenizer = self.encoder.width, self.encoder.tokenizer
        if max_mib < 0:
            raise ValueError(f"max_mib must be at least 0, got {max_mib}")
        self._max_bytes = max_mib * 2**20
        self._memory: dict[str, _Read] = {}
        self._version: tuple | None = None
        self._in_company: set[str] = set()

    def fingerprint(self) -> str:
        """Return the encoder's fingerprint, marked: features of pieces are not those of whole captions."""
        return f"pieces-{self.encoder.fingerprint()}"

    def encode(self, tokenized: TokenizedText) -> Tensor:
        """Return `hidden_BLD` for the tokens of whole captions; ValueError when a piece read alone has other tokens than in its caption."""
        pieces = [[caption[slice(*span)] for span in split_pieces(caption)] for caption in tokenized.captions]
        features = self._features(sorted({p for row in pieces for p in row}))
        device = self.encoder.device
        # every piece's tokens in order, then each real token of the caption takes the next one
        special = next(iter(features.values())).hidden_LD.new_zeros(1, self.width) if features else torch.zeros(1, self.width, device=device)
        rows = []
        for b, row in enumerate(pieces):
            tokens = torch.cat([features[p].hidden_LD for p in row]) if row else special[:0]
            words = [s is not None for s in tokenized.char_spans[b]]
            _require_same(tokenized.captions[b], list(compress(tokenized.ids_BL[b].tolist(), words)), [i for p in row for i in features[p].ids])
            is_word = torch.tensor(words, device=device)
            place = torch.where(is_word, is_word.cumsum(0), torch.zeros_like(is_word, dtype=torch.long))
            rows.append(torch.cat([special, tokens])[place])
        return torch.stack(rows)

    forward = encode

    def _features(self, pieces: list[str]) -> "dict[str, _Read]":
        """Return what was read of each piece, on the encoder's device."""
        remember = self.encoder.frozen
        if remember:
            version = (self.encoder.fingerprint(), str(self.encoder.device))
            if version != self._version:
                self._memory, self._version, self._in_company = {}, version, set()
        known = self._memory if remember else {}
        new = [p for p in pieces if p not in known]
        for tokenized in self._groups(new, remember):
            device_type = self.encoder.device.type
            with torch.autocast(device_type, enabled=not remember and torch.is_autocast_enabled(device_type)):
                hidden = self.encoder.encode(tokenized)
            for b, piece in enumerate(tokenized.captions):
                words = [s is not None for s in tokenized.char_spans[b]]
                ids = tuple(compress(tokenized.ids_BL[b].tolist(), words))
                known[piece] = _Read(ids, hidden[b][torch.tensor(words, device=hidden.device)])
        if remember and not self.training:
            self._in_company.update(new)
        read = {p: known[p] for p in pieces}
        if remember and new:
            self._forget()
        return read

    def _groups(self, pieces: list[str], remember: bool) -> Iterator[TokenizedText]:
        """Yield the pieces in the groups that are read at a time: those of a trained encoder all at once, for a frozen one see the class."""
        if not pieces:
            return
        if not remember:
            yield self.tokenizer.encode(pieces)
            return
        if self.training:
            yield from (self.tokenizer.encode([piece]) for piece in pieces)
            return
        tokenized = self.tokenizer.encode(pieces)
        rows: dict[int, list[int]] = {}
        for b, length in enumerate(tokenized.valid_BL.sum(1).tolist()):
            rows.setdefault(length, []).append(b)
        for length, group in rows.items():
            for start in range(0, len(group), _AT_A_TIME):
                yield _cut(tokenized, group[start : start + _AT_A_TIME], length)

    def train(self, mode: bool = True) -> "PiecewiseTextEncoder":
        """Set the mode; for training, forget what was read in company: a run that is resumed must read the same, to the last bit."""
        if mode:
            for piece in self._in_company:
                self._memory.pop(piece, None)
            self._in_company = set()
        return super().train(mode)

    def _forget(self) -> None:
        """Drop what was read first until the memory is small enough."""
        used = sum(read.num_bytes for read in self._memory.values())
        while used > self._max_bytes:
            first = next(iter(self._memory))
            used -= self._memory.pop(first).num_bytes
            self._in_company.discard(first)


def _cut(tokenized: TokenizedText, rows: list[int], length: int) -> TokenizedText:
    """Return some of the captions, all of `length` tokens, without padding."""
    return TokenizedText(captions=tuple(tokenized.captions[b] for b in rows), ids_BL=tokenized.ids_BL[rows, :length],
                         valid_BL=tokenized.valid_BL[rows, :length], char_spans=tuple(tokenized.char_spans[b][:length] for b in rows))  # fmt: skip


class _Read(NamedTuple):
    """A piece's tokens, without special ones: `ids`, and features `hidden_LD`."""

    ids: tuple[int, ...]
    hidden_LD: Tensor

    @property
    def num_bytes(self) -> int:
        return self.hidden_LD.numel() * self.hidden_LD.element_size()


def _require_same(caption: str, ids: list[int], piece_ids: list[int]) -> None:
    """Raise ValueError unless the caption's tokens are those of its pieces, up to where the caption was cut off."""
    if ids != piece_ids[: len(ids)]:
        n = next((n for n, (a, b) in enumerate(zip(ids, piece_ids)) if a != b), min(len(ids), len(piece_ids)))
        raise ValueError(
            f"a caption's pieces must have the caption's tokens, but in {caption[:60]!r} ({len(ids)} tokens, {len(piece_ids)} in pieces) token {n} "
            "differs: this tokenizer cuts a word otherwise after a blank (byte-level BPE); use the encoder without PiecewiseTextEncoder"
        )
