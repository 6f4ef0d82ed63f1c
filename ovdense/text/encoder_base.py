"""What all text encoders share: freezing, pooled unit rows averaged over templates, the fingerprint.

B captions, L tokens, D width, T templates.
"""
import hashlib
import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ovdense.structures import TokenizedText
from ovdense.text.prompts import average_unit, fill_template, unit
from ovdense.text.tokenizers import check_captions

EMBED_BATCH = 64


class TextEncoder(nn.Module):
    """What all encoders share: freezing, pooled embedding with templates, the fingerprint.

    A part has `tokenizer`, `width` (of `encode`), `max_tokens`, and gives `hidden` and `pool`.
    """

    tokenizer: Any
    width: int
    max_tokens: int

    def __init__(self, *, frozen: bool) -> None:
        super().__init__()
        self.frozen = frozen
        self._fingerprint_key: tuple | None = None
        self._fingerprint = ""

    def _settle(self) -> None:
        """Freeze what must be frozen and set the mode, once the parts are there."""
        self.requires_grad_(not self.frozen)
        self.train(not self.frozen)

    def train(self, mode: bool = True) -> "TextEncoder":
        """Set training mode; a frozen encoder stays in evaluation mode."""
        return super().train(mode and not self.frozen)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def hidden(self, tokenized: TokenizedText) -> Tensor:
        """Return the last layer, (B, L, D)."""
        raise NotImplementedError

    def pool(self, tokenized: TokenizedText) -> Tensor:
        """Return one vector a caption, not yet of unit length."""
        raise NotImplementedError

    def encode(self, tokenized: TokenizedText) -> Tensor:
        """Return the last layer's `hidden_BLD` on the encoder's device; padded places hold numbers that mean nothing.

        A frozen encoder works without gradients and without dropout.
        """
        self._check_length(tokenized)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            return self.hidden(tokenized.to(self.device))

    forward = encode

    def _check_length(self, tokenized: TokenizedText) -> None:
        length = tokenized.ids_BL.shape[1]
        if length > self.max_tokens:
            raise ValueError(
                f"a text must have at most {self.max_tokens} tokens for this encoder, got {length}; encode with max_tokens={self.max_tokens}"
            )

    @torch.no_grad()
    def embed(self, sentences: Sequence[str], templates: Sequence[str] = ("{}",)) -> Tensor:
        """Return one unit row a sentence, float32: pooled, averaged over the templates (normalise, mean, normalise).

        Runs in evaluation mode, without gradients and in the weights' own precision, whatever autocast is on: rows are kept, in memory and on
        disk, for others who ask. ValueError when a sentence has too many tokens.
        """
        sentences = check_captions(sentences)
        if isinstance(templates, str) or not templates:
            raise ValueError(f"templates must be a non-empty sequence of strings, got {templates!r}")
        texts = [fill_template(template, sentence) for sentence in sentences for template in templates]
        was_training = self.training
        self.eval()
        try:
            with torch.autocast(self.device.type, enabled=False):
                return average_unit(self._embed_texts(texts).view(len(sentences), len(templates), -1))
        finally:
            self.train(was_training)

    def _embed_texts(self, texts: list[str]) -> Tensor:
        distinct = sorted(set(texts), key=lambda text: (len(text), text))  # similar lengths together: little padding
        rows: dict[str, Tensor] = {}
        for start in range(0, len(distinct), EMBED_BATCH):
            batch = distinct[start : start + EMBED_BATCH]
            tokenized = self.tokenizer.encode(batch, self.max_tokens).to(self.device)
            rows.update(zip(batch, unit(self.pool(tokenized).float())))
        return torch.stack([rows[text] for text in texts])

    def settings(self) -> dict[str, Any]:
        """Return what, besides the weights, decides the outputs, as JSON values."""
        raise NotImplementedError

    def fingerprint(self) -> str:
        """Return a hash of settings, tokenizer and weights (bytes, names, dtypes): the key of everything computed with them.

        A frozen encoder computes it once and again after load_state_dict or a change of dtype or device. One that trains
        computes it at every call: weight averaging writes through `.data`, which leaves no trace to look for.
        """
        state = self.state_dict(keep_vars=True)
        key = tuple((name, id(value), value.data_ptr(), value._version, value.dtype) for name, value in state.items())
        if not self.frozen or key != self._fingerprint_key:
            digest = hashlib.sha256(json.dumps([self.settings(), self.tokenizer.fingerprint()], sort_keys=True).encode())
            for name, value in state.items():
                digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
                digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
            self._fingerprint_key, self._fingerprint = key, digest.hexdigest()[:32]
        return self._fingerprint
