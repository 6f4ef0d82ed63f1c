"""A frozen text encoder that remembers: a caption that comes back in training is not read twice."""
import hashlib

import torch
from mmengine.registry import build_from_cfg
from torch import Tensor, nn

from ovdense.compat.feature_files import FeatureFiles
from ovdense.compat.weights import call_after_load
from ovdense.registry import MODELS
from ovdense.structures import TokenizedText


@MODELS.register_module()
class RememberingTextEncoder(nn.Module):
    """Wrap a wholly frozen `encoder`; in training, keep up to `max_mib` MiB of its captions' features, rounded to float16.

    Each caption is read alone, remembered or not, so that its numbers depend on nothing else. When the memory is full, what came
    first stays. Test time passes through. `on_disk` keeps them in the cache folder as well, for other runs.
    """

    def __init__(self, encoder: dict | nn.Module, *, max_mib: float = 1024, on_disk: bool = False) -> None:
        super().__init__()
        self.encoder = encoder if isinstance(encoder, nn.Module) else build_from_cfg(encoder, MODELS)
        trained = [n for n, p in self.encoder.named_parameters() if p.requires_grad]
        if trained:
            raise ValueError(f"only a wholly frozen encoder can be remembered, but {len(trained)} parameters are trained, the first: {trained[0]}")
        self.width, self.tokenizer, self.max_tokens = self.encoder.width, self.encoder.tokenizer, self.encoder.max_tokens
        self._room, self._memory = int(max_mib * 2**20), {}
        self._max_bytes = self._room
        self._on_disk, self._files = on_disk, None
        call_after_load(self, "forget")

    def forget(self) -> None:
        """Drop all features: the encoder has other weights now."""
        self._memory, self._room, self._files = {}, self._max_bytes, None

    def fingerprint(self) -> str:
        return self.encoder.fingerprint()

    def encode(self, tokenized: TokenizedText) -> Tensor:
        """Return the last layer's `hidden_BLD`, see the encoder; places of padding are 0."""
        if not self.training:
            return self.encoder.encode(tokenized)
        rows = [self._recall(tokenized, b) for b in range(len(tokenized.captions))]
        padded = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        return nn.functional.pad(padded, (0, 0, 0, tokenized.ids_BL.shape[1] - padded.shape[1]))

    forward = encode

    @torch.no_grad()
    def _recall(self, tokenized: TokenizedText, b: int) -> Tensor:
        length = int(tokenized.valid_BL[b].sum())
        key = tuple(tokenized.ids_BL[b, :length].tolist())
        hidden = self._memory.get(key)
        if hidden is None:
            hidden = self._from_disk(tokenized, b, length) if self._on_disk else self._read(tokenized, b, length)
            if hidden.nbytes <= self._room:
                self._room -= hidden.nbytes
                self._memory[key] = hidden
        return hidden.to(tokenized.ids_BL.device).float()

    def _from_disk(self, tokenized: TokenizedText, b: int, length: int) -> Tensor:
        if self._files is None:
            self._files = FeatureFiles(f"text{self.fingerprint()}")
        key = hashlib.sha1(repr(tokenized.ids_BL[b, :length].tolist()).encode(), usedforsecurity=False).digest()
        found = self._files.get(key)
        if found is None:
            found = [self._read(tokenized, b, length)]
            self._files.put(key, found)
        return found[0]

    def _read(self, tokenized: TokenizedText, b: int, length: int) -> Tensor:
        """Return (L, D) float16 of one caption."""
        one = TokenizedText(captions=(tokenized.captions[b],), ids_BL=tokenized.ids_BL[b : b + 1, :length], valid_BL=tokenized.valid_BL[b : b + 1, :length],
                            char_spans=(tokenized.char_spans[b][:length],))  # fmt: skip
        with torch.autocast(tokenized.ids_BL.device.type, enabled=False):
            return self.encoder.encode(one)[0].half().cpu().contiguous()
