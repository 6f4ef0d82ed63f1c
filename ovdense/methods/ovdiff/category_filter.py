"""The pre-filter's networks: which classes an image may hold (arXiv 2306.09316, Sec. 3.4)."""
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ovdense.compat.weights import weights_state
from ovdense.registry import MODELS
from ovdense.structures import ClassEntry
from ovdense.support.prefilter import TOP_K, best_subset
from ovdense.text.attributes import attribute_phrase
from ovdense.vision.extractors import ReadingSize

MOST_KEPT = 20_000  # texts of prompts at hand


class CategoryFilter(nn.Module):
    """Finds the classes that an image may hold with an image-text encoder; embeddings of prompts are kept, so that only new ones cost.

    `encoder`: a dual encoder, or its config. `square_px`: images are squeezed to this side first (the release: 224, aspect lost; it goes through 512
    pixels and then smooths nothing); None: as they are. `renamed`: {class name: what to ask for}, as the release asks by the words that it draws.
    """

    def __init__(self, encoder: dict | nn.Module, *, top_k: int = TOP_K, square_px: int | None = None, described: bool = False,
                 renamed: Mapping[str, str] | None = None) -> None:  # fmt: skip
        super().__init__()
        self.encoder = MODELS.build(encoder) if isinstance(encoder, dict) else encoder
        self.top_k, self.size, self.described = top_k, ReadingSize(square=square_px, antialias=True), described
        self.renamed = dict(renamed or {})
        self._rows: dict[str, Tensor] = {}
        self._rows_of: tuple[int, ...] = ()  # the state of the weights that they are of

    def embed(self, prompts: Sequence[str]) -> Tensor:
        """Return unit rows (N, D) of prompts, new ones encoded."""
        state = weights_state(self.encoder.text)
        if len(self._rows) > MOST_KEPT or state != self._rows_of:
            self._rows.clear()
            self._rows_of = state
        new = [p for p in dict.fromkeys(prompts) if p not in self._rows]
        if new:
            self._rows.update(zip(new, self.encoder.text.embed(new, ("{}",))))
        return torch.stack([self._rows[p] for p in prompts])

    @torch.no_grad()
    def encode_image(self, image_3HW: Tensor) -> Tensor:
        """Return the vector (D,) of an image in 0..1."""
        mean, std = (image_3HW.new_tensor(v)[:, None, None] for v in (self.encoder.mean, self.encoder.std))
        return self.encoder.encode_image((255 * self.size(image_3HW[None]) - mean) / std)[0]

    @torch.no_grad()
    def forward(self, image_D: Tensor, entries: Sequence[ClassEntry]) -> tuple[int, ...]:
        """Return the indices of the classes that the image of this vector may hold."""
        names = [self.renamed.get(e.name) or (attribute_phrase(e) if self.described else e.noun) for e in entries]
        return best_subset(image_D, names, self.embed([f"a {n}" for n in names]).to(image_D), lambda prompts: self.embed(prompts).to(image_D), self.top_k)
