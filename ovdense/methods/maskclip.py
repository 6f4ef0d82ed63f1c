"""MaskCLIP (arXiv 2112.01071): a dual encoder's text vectors against its vectors of places. Nothing is trained.

With the dual encoder that comes with pip it gives masks right after install; with CLIP's value path it is MaskCLIP itself.
"""
from typing import Any, NamedTuple

import torch
from mmengine.registry import build_from_cfg
from torch import Tensor, nn

from ovdense.heads.background import with_background
from ovdense.heads.similarity import pool_rows, row_logits
from ovdense.methods.dense_model import TrainingFreeSegmenter
from ovdense.registry import MODELS
from ovdense.structures import ClassBank, FeatureMap, Vocabulary


class _Text(NamedTuple):
    bank: ClassBank
    context: ClassBank | None


@MODELS.register_module()
class MaskClip(TrainingFreeSegmenter):
    """Label maps by the cosine of every place with every class name, and of the whole image with it.

    score_k = cos(place, t_k) + `image_weight` * cos(image, t_k), the best of a class's names. Background classes of the
    vocabulary score `background_thr` everywhere, or the best of the names in `contexts` where that is more; with None and no
    contexts they are asked by their own names. `encoder`: a DualEncoder, or its config. MaskCLIP's key smoothing and prompt denoising (Sec. 3.2, off in
    the release's configs) are not here.
    """

    apart_from_images = ("encoder.text",)

    def __init__(
        self,
        encoder: dict | nn.Module,
        *,
        image_weight: float = 0.25,
        background_thr: float | None = None,
        contexts: tuple[str, ...] = (),
        use_synonyms: bool = False,
    ) -> None:
        encoder = encoder if isinstance(encoder, nn.Module) else build_from_cfg(encoder, MODELS)
        super().__init__(mean=encoder.mean, std=encoder.std)
        self.encoder, self.image_weight, self.use_synonyms = encoder, image_weight, use_synonyms
        self.background_thr, self.contexts = background_thr, tuple(contexts)

    @property
    def wants_background(self) -> bool:
        return super().wants_background or bool(self.contexts)

    @torch.no_grad()
    def encode_image(self, images: Tensor) -> tuple[FeatureMap, Tensor]:
        return self.encoder.encode_places(images)

    @torch.no_grad()
    def encode_text(self, vocabulary: Vocabulary) -> _Text:
        bank = self.encoder.encode_text(vocabulary, use_synonyms=self.use_synonyms)
        if self.background_thr is not None:
            with_background(torch.zeros(len(vocabulary), 1, 1), bank.background_K, self.background_thr)  # says what is wrong now
        elif self.contexts and not bool(bank.background_K.any()):
            raise ValueError("contexts need a background class in the vocabulary, whose places they are, got none; drop contexts or add the class")
        return _Text(bank, self.encoder.encode_text(self.contexts) if self.contexts else None)

    @torch.no_grad()
    def use_exemplars(self, vocabulary: Vocabulary, source: Any) -> None:
        """Compare places with prototypes of example pictures; where a picture has no mask, the class's name finds it in the picture."""
        from ovdense.support.exemplar_bank import exemplar_bank
        from ovdense.support.mask_sources import SupportMasker
        from ovdense.support.sources import TextHeat
        from ovdense.vision.extractors import DenseEncoderFeatures

        heat = TextHeat(self.encoder)
        named = self.encode_text(vocabulary)
        background = {k: named.bank.rows_MD[named.bank.class_of_row_M == k] for k, e in enumerate(vocabulary) if e.is_background}
        bank = exemplar_bank(vocabulary, source, DenseEncoderFeatures(self.encoder), SupportMasker(None, heat, heat.settings()), background_rows=background)
        self._ask_by_examples(vocabulary, named._replace(bank=bank))

    def score(self, features: tuple[FeatureMap, Tensor], text: _Text) -> Tensor:
        score_KHW = self._cosines(features, text.bank)
        background_K = text.bank.background_K
        if self.background_thr is not None:
            score_KHW = with_background(score_KHW, background_K, self.background_thr)
        if text.context is not None and bool(background_K.any()):
            rival_1HW = self._cosines(features, text.context).amax(0, keepdim=True)
            raised = score_KHW[background_K].maximum(rival_1HW) if self.background_thr is not None else rival_1HW.expand(int(background_K.sum()), -1, -1)
            score_KHW = score_KHW.masked_scatter(background_K.to(score_KHW.device)[:, None, None], raised)
        return score_KHW

    def _cosines(self, features: tuple[FeatureMap, Tensor], bank: ClassBank) -> Tensor:
        places, image_BD = features
        unit_HWD = places.tensor_BCHW[0].permute(1, 2, 0)
        logit_HWM = row_logits(unit_HWD, bank, 1.0) + self.image_weight * row_logits(image_BD[0], bank, 1.0)
        return pool_rows(logit_HWM, bank).permute(2, 0, 1)

    def protocol(self) -> dict[str, Any]:
        said = "not asked for" if self.vocabulary is None or not any(e.is_background for e in self.vocabulary) else (
            f"score below {self.background_thr}" if self.background_thr is not None else "by its name" if not self.contexts else "by contexts")
        return {**super().protocol(), "background_rule": said, "contexts": ", ".join(self.contexts) or "none", "image_weight": self.image_weight}
