"""A sentence encoder around anchors: texts and anchor classes in one space, freed of what all of them have in common.

The text half of ConSE (arXiv 1312.5650): an image classifier's classes become vectors, by name and definition, and an
image is the mixture of them that its posterior says. M anchors, D width.
"""
import hashlib
from collections.abc import Sequence

import torch
from mmengine.registry import build_from_cfg
from torch import Tensor, nn

from ovdense.compat.weights import weights_state
from ovdense.registry import MODELS
from ovdense.text.cache import EmbeddingCache
from ovdense.text.prompts import find_templates, unit


class AnchoredTextEncoder(nn.Module):
    """Unit rows of sentences less `centering` x the anchors' mean, which makes unlike things unlike; the anchors likewise.

    An anchor is the unit vector of its name in `template` + `gloss_weight` x the vector of its definition. The table is
    computed once and kept in the embedding cache under a key of all that it depends on (weights, template, texts).
    `encoder`: a TextEncoder, or its config. `centering` 0.5 separates classes of one vocabulary; 1.0 ranks images for one text.
    """

    def __init__(
        self,
        encoder: dict | nn.Module,
        *,
        names: Sequence[str],
        glosses: Sequence[str],
        template: str = "clip_photo",
        gloss_weight: float = 0.5,
        centering: float = 0.5,
        cache: EmbeddingCache | None = None,
    ) -> None:
        super().__init__()
        if len(names) != len(glosses) or not names:
            raise ValueError(f"each anchor must have a name and a gloss, got {len(names)} names and {len(glosses)} glosses")
        if not 0 <= centering <= 1:
            raise ValueError(f"centering must lie in 0..1, got {centering}")
        self.encoder = encoder if isinstance(encoder, nn.Module) else build_from_cfg(encoder, MODELS)
        self.names, self.glosses, self.template = tuple(names), tuple(glosses), template
        self.gloss_weight, self.centering, self.cache = gloss_weight, centering, cache or EmbeddingCache()
        mean_D, anchors_MD = self._table()
        self.register_buffer("mean_D", mean_D, persistent=False)
        self.register_buffer("anchors_MD", anchors_MD, persistent=False)
        self._state = weights_state(self.encoder)

    def _table(self) -> tuple[Tensor, Tensor]:
        """Return the mean (D,) and the anchors (M, D) of the encoder's weights."""
        raw_MD = self.cache.embed(self.encoder, self.names, find_templates(self.template)) + self.gloss_weight * self.cache.embed(self.encoder, self.glosses)
        raw_MD = unit(raw_MD)
        mean_D = self.centering * raw_MD.mean(0)
        return mean_D, unit(raw_MD - mean_D)

    @torch.no_grad()
    def follow_weights(self) -> None:
        """Make mean and anchors anew if the encoder's weights were written to since."""
        state = weights_state(self.encoder)
        if state != self._state:
            for own, new in zip((self.mean_D, self.anchors_MD), self._table()):
                own.copy_(new)
            self._state = state

    @property
    def width(self) -> int:
        return self.anchors_MD.shape[1]

    def embed(self, sentences: Sequence[str], templates: Sequence[str] = ("{}",)) -> Tensor:
        """Return one unit row a sentence, float32: the encoder's row (averaged over the templates) less the mean."""
        self.follow_weights()
        return unit(self.encoder.embed(sentences, templates) - self.mean_D)

    def fingerprint(self) -> str:
        """Return a hash of the encoder and of the anchors' mean: the key of everything computed with them."""
        self.follow_weights()
        digest = hashlib.sha256(self.encoder.fingerprint().encode())
        digest.update(self.mean_D.cpu().numpy().tobytes())
        digest.update(self.anchors_MD.cpu().numpy().tobytes())
        return digest.hexdigest()[:32]
