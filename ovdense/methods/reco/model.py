"""ReCo (arXiv 2206.07045): retrieve images of each class, co-segment them, compare places with what they have in common.

Nothing is trained: `set_vocabulary` builds the references of names never seen before, and keeps them. B images, K classes.
"""
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ovdense.heads.background import with_background
from ovdense.heads.crf import CrfSettings, dense_crf, require_densecrf
from ovdense.methods.base import built
from ovdense.methods.dense_model import TrainingFreeSegmenter
from ovdense.methods.reco.cosegment import class_scores
from ovdense.methods.reco.references import CosegmentRules, ReferenceBuilder, Retrieval
from ovdense.registry import MODELS
from ovdense.structures import Vocabulary


@dataclass(frozen=True, kw_only=True)
class Inference:
    """`dense`: multiply by the text attention. `background_thr`: the score of background classes (the release has none: None).

    `crf`: refine by a dense CRF (in a config True: as the release). Its image is rounded to bytes; the release cuts off, and may lose a grey level by it.
    """

    dense: bool = True
    background_thr: float | None = None
    crf: CrfSettings | None = None


class _Features(NamedTuple):
    feat_BCHW: Tensor
    dense_BDHW: Tensor | None
    images_BCHW: Tensor


class _Text(NamedTuple):
    """Rows of the classes that are looked for; `class_of_row` their places among the K classes."""

    reference_MC: Tensor
    text_MD: Tensor
    class_of_row_M: Tensor
    background_K: Tensor


@MODELS.register_module()
class ReCo(TrainingFreeSegmenter):
    """Label maps from references that co-segmentation finds in retrieved images.

    `encoder`: a backbone (its last map is used), or its config: published, `VitBackbone`, DeiT-S/16 trained on stylised ImageNet.
    `dense`: the DualEncoder of text attention (published: CLIP RN50x16), `retriever` that of retrieval (published: CLIP ViT-L/14 at
    336 px; None: `dense`). `retrieval`, `cosegmentation`, `inference`: the fields of Retrieval, CosegmentRules, Inference.
    With a background threshold the vocabulary's background classes are not retrieved: they score the threshold everywhere.
    """

    apart_from_images = ("retriever", "dense.text")

    def __init__(
        self,
        encoder: dict | nn.Module,
        *,
        dense: dict | nn.Module,
        retriever: dict | nn.Module | None = None,
        retrieval: dict | Retrieval,
        cosegmentation: dict | CosegmentRules | None = None,
        inference: dict | Inference | None = None,
    ) -> None:
        encoder, dense = built(encoder), built(dense)
        super().__init__(mean=encoder.mean, std=encoder.std)
        self.encoder, self.dense = encoder, dense
        self.retriever = dense if retriever is None else built(retriever)
        self.requires_grad_(False)
        self.inference = _settings(inference, Inference, crf=CrfSettings)
        if self.inference.crf is not None:
            require_densecrf()  # said before the long work
        self.background_thr = self.inference.background_thr
        self.builder = ReferenceBuilder(encoder, dense, self.retriever, _settings(retrieval, Retrieval), _settings(cosegmentation, CosegmentRules))

    @torch.no_grad()
    def encode_image(self, images: Tensor) -> _Features:
        return _Features(*self.builder.encode(images, self.inference.dense), images)

    def encode_text(self, vocabulary: Vocabulary) -> _Text:
        asked, background_K = self._asked_for(vocabulary)
        classes = [vocabulary[k] for k in asked]
        return _Text(self.builder.references(classes), self.builder.texts(self.dense, classes), torch.tensor(asked), background_K)

    @torch.no_grad()
    def use_exemplars(self, vocabulary: Vocabulary, source: Any) -> None:
        """Co-segment example pictures in place of retrieved ones (see `ReferenceBuilder.of_examples`).

        The names still serve the text attention, where it is used: of pictures without masks, and at inference.
        """
        asked, background_K = self._asked_for(vocabulary)
        classes = [vocabulary[k] for k in asked]
        references_MC = torch.stack([self.builder.of_examples(entry, source.support_set(entry)) for entry in classes])
        self._ask_by_examples(vocabulary, _Text(references_MC, self.builder.texts(self.dense, classes), torch.tensor(asked), background_K))

    def _asked_for(self, vocabulary: Vocabulary) -> tuple[list[int], Tensor]:
        """Return the indices of the classes that have a reference, and which are background (K,)."""
        background_K = torch.tensor([entry.is_background for entry in vocabulary])
        threshold = self.inference.background_thr
        with_background(torch.zeros(len(vocabulary), 1, 1), background_K, threshold)  # says what is wrong before the long work
        asked = [k for k, entry in enumerate(vocabulary) if threshold is None or not entry.is_background]
        if not asked:
            raise ValueError("a vocabulary must have a class that is not background to look for, got none")
        return asked, background_K

    def score(self, features: _Features, text: _Text) -> Tensor:
        """Return (K, H, W) in 0..1 at the size of the network's input: sigmoid(cos(feature, reference)) x text attention (Sec. 3.4)."""
        size_hw = features.images_BCHW.shape[2:]
        rules = self.builder.rules
        score_MHW = class_scores(features.feat_BCHW, text.reference_MC, size_hw, features.dense_BDHW, text.text_MD,
                                 temperature=rules.temperature, centre=rules.centre)[0]  # fmt: skip
        score_KHW = score_MHW.new_zeros(len(text.background_K), *size_hw)
        score_KHW[text.class_of_row_M] = score_MHW
        score_KHW = with_background(score_KHW, text.background_K, self.inference.background_thr)
        if self.inference.crf is None:
            return score_KHW
        mean, std = (torch.tensor(v).view(3, 1, 1).to(features.images_BCHW) for v in (self.encoder.mean, self.encoder.std))
        pixels = (features.images_BCHW[0] * std + mean).clamp(0, 255).round().byte().permute(1, 2, 0).cpu().numpy()
        return dense_crf(score_KHW.log_softmax(0), pixels, self.inference.crf).to(score_KHW)

    def _background(self) -> str:
        if self.vocabulary is None or not any(e.is_background for e in self.vocabulary):
            return "no class of it"
        return "retrieved by its name" if self.background_thr is None else f"score below {self.background_thr}"

    def protocol(self) -> dict[str, Any]:
        rules, retrieval, chosen = self.builder.rules, self.builder.retrieval, self.inference
        by_examples = self.prompt == "exemplars" and not (rules.context_elimination and rules.contexts)  # the archive is not looked at
        index = self.builder.index if self._text is not None and not by_examples else None
        return {
            **super().protocol(),
            "archive_images": len(index) if index else 0,
            "archive": index.fingerprint()[:12] if index else "",
            "k": retrieval.k,
            "synonyms": retrieval.use_synonyms,
            "window": rules.window,
            "text_attention": f"sigmoid({rules.temperature:g} (cos - {rules.centre:g}))" if rules.text_attention else "none",
            "contexts": ", ".join(rules.contexts) if rules.context_elimination else "none",
            "dense_inference": chosen.dense,
            "background_rule": self._background(),
            "crf": chosen.crf is not None,
        }


def _settings(given: Any, kind: type, **inner: type) -> Any:
    """Return settings from a config's dict; what has a kind of its own inside becomes that: of a dict, of True its defaults, of False or None nothing."""
    if isinstance(given, kind):
        return given
    plain = {k: tuple(v) if isinstance(v, list) else dict(v) if isinstance(v, Mapping) else v for k, v in (given or {}).items()}
    fields = {k: _inner(k, v, inner[k]) if k in inner else v for k, v in plain.items()}
    try:
        return kind(**fields)
    except TypeError as error:
        raise ValueError(f"{kind.__name__} has the settings {', '.join(kind.__dataclass_fields__)}: {error}") from None


def _inner(name: str, given: Any, kind: type) -> Any:
    if given is None or given is False or isinstance(given, kind):
        return given or None
    if given is not True and not isinstance(given, Mapping):
        raise ValueError(f"{name} must be True (its defaults), None, or a dict of {', '.join(kind.__dataclass_fields__)}, got {given!r}")
    return _settings({} if given is True else given, kind)
