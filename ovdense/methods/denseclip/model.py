"""DenseCLIP (arXiv 2112.01518): segmenters and detectors on pixel-text score maps, with the text given at run time.

Flow: backbone -> maps and local vectors; vocabulary -> text, once; pixel_text -> cosines of places and classes; decoder ->
label maps or boxes. Without a text encoder it is the same network without language (the paper's CLIP-FPN baselines).
"""
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovdense.compat.weights import call_after_load, weights_fingerprint, weights_state
from ovdense.heads.segment import label_maps, resized, slide, without_padding
from ovdense.methods.base import EXAMPLES_ARE_OLD, OpenVocabModel, built
from ovdense.methods.denseclip.backbones import PairedBackbone
from ovdense.methods.denseclip.decoders import stacked_labels
from ovdense.methods.denseclip.pixel_text import ClassText, PixelScores, PixelText
from ovdense.methods.dual_encoder import DualEncoder
from ovdense.registry import MODELS
from ovdense.structures import IGNORE_LABEL, FeatureMap, ImageTarget, Results, ScoreMaps, Vocabulary
from ovdense.text.vocabulary import load_vocabulary
from ovdense.vision.dense_features import DenseFeatures


@dataclass(frozen=True, kw_only=True)
class SegmentTest:
    """How a segmenter is tested: windows of `crop` (height, width) every `stride` pixels, or the whole image (None).

    `scales`: the input is resized by each, and with `flip` mirrored too; the softmax of all views is averaged at the input's size (mmseg resizes the file
    by each, without antialiasing, and averages at the file's size).
    """

    crop: tuple[int, int] | None = None
    stride: tuple[int, int] | None = None
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False

    def __post_init__(self) -> None:
        if (self.crop is None) != (self.stride is None):
            raise ValueError(f"crop and stride must be given together, or neither, got crop={self.crop} and stride={self.stride}")
        if not self.scales or min(self.scales) <= 0:
            raise ValueError(f"scales must be one or more positive numbers, got {self.scales}")

    @property
    def views(self) -> list[tuple[float, bool]]:
        """Return (scale, mirrored) of every view."""
        return [(scale, mirrored) for scale in self.scales for mirrored in ((False, True) if self.flip else (False,))]


_CLOSED = "this model's score maps are channels of its pyramid, so that it knows only"
_OPEN = "ask for those, or train a model with OpenSemanticFpn, which takes any vocabulary"


@MODELS.register_module()
class DenseClip(OpenVocabModel):
    """A segmenter or detector, by its `decoder` (`SemanticFpn`, `OpenSemanticFpn`, `RetinaNetDecoder`, `MaskRcnnDecoder`).

    `backbone`: a tower with `dense` (`ClipResNet`, `ClipVit`, `PooledBackbone`), or without text any backbone. `text_encoder`:
    `ClipContextEncoder`, or without contexts any encoder with `embed`; None: no language. A `DualEncoder` gives the text and the local
    vectors, resized to the map of `score_stride`, and the backbone only its maps. `pixel_text`: arguments of `PixelText`.
    `vocabulary`: the classes that it is trained on (names, a file, "ade150", ...); a decoder that is not open takes no others. None:
    those of the training data, which `VocabularyHook` says. `test`: arguments of `SegmentTest`. `divisor`: sides of a batch are
    padded to multiples of it.
    """

    def __init__(self, *, backbone: dict | nn.Module, decoder: dict | nn.Module, text_encoder: dict | nn.Module | None = None,
                 pixel_text: dict | None = None, score_stride: int = 32, vocabulary: str | Path | Sequence[str] | Vocabulary | None = None,
                 test: dict | None = None, divisor: int = 32) -> None:
        backbone, text_encoder = built(backbone), built(text_encoder)
        if isinstance(text_encoder, DualEncoder):
            backbone, text_encoder = PairedBackbone(backbone, text_encoder.image, stride=score_stride), text_encoder.text
        super().__init__(mean=backbone.mean, std=backbone.std, divisor=divisor)
        self.backbone, self.text_encoder, self.decoder = backbone, text_encoder, built(decoder)
        self.trained_on = None if vocabulary is None else load_vocabulary(vocabulary)
        self.trained_prompt = "names"
        self.test = SegmentTest(**(test or {}))
        if self.text_encoder is not None:
            token_width = getattr(self.text_encoder, "width", None) if hasattr(self.text_encoder, "encode_names") else None
            self.pixel_text = PixelText(backbone.embed_width, **{"token_width": token_width, **(pixel_text or {})})
        elif pixel_text is not None or self.decoder.is_open:
            raise ValueError("pixel-text scores need a text encoder, got none; give one, or leave out pixel_text and take a decoder that is not open")
        if self.trained_on is not None:
            self._check_count(self.trained_on)
        self._text: tuple[Any, ClassText] | None = None
        self._examples_of = ""  # the weights that read the example pictures
        call_after_load(self, "_forget")

    @property
    def wants_background(self) -> bool:
        """Return whether a background vector was learned and any vocabulary may be asked."""
        return self.text_encoder is not None and self.decoder.is_open and hasattr(self.pixel_text, "background_C")

    def train(self, mode: bool = True) -> "DenseClip":
        if mode:
            self._forget()  # contexts change: text is encoded anew at the next prediction
        return super().train(mode)

    def _forget(self) -> None:
        self._text = None

    def set_vocabulary(self, vocabulary: Vocabulary, prompt: str = "names") -> None:
        """Predict these classes from now on; a decoder that is not open takes only the names that it was trained on, in their order."""
        self._check_count(vocabulary)
        if not self.decoder.is_open and self.trained_on is not None and vocabulary.names != self.trained_on.names:
            k, asked, known = next((k, a, b) for k, (a, b) in enumerate(zip(vocabulary.names, self.trained_on.names)) if a != b)
            raise ValueError(f"{_CLOSED} the classes it was trained on, in their order; class {k} is {asked!r} where it knows {known!r}; {_OPEN}")
        super().set_vocabulary(vocabulary, prompt)

    def use_exemplars(self, vocabulary: Vocabulary, source: Any) -> None:
        """Ask for these classes by example pictures: the mean local vector of what they show stands for a class's text, in the space that both share.

        ValueError for a model that has no such space, or whose classes are fixed.
        """
        if self.text_encoder is None:
            raise ValueError("example pictures need a space that images and text share; this model has no text encoder")
        if not self.decoder.is_open:
            raise ValueError(f"example pictures cannot be asked for: {_CLOSED} the classes it was trained on; train a model with OpenSemanticFpn")
        if self.pixel_text.prompting == "pre":
            raise ValueError('example pictures need text that does not depend on the image; with prompting="pre" it does: use "post" or "none"')
        from ovdense.methods.denseclip.examples import text_of_examples

        text = text_of_examples(self, vocabulary, source)
        super().set_vocabulary(vocabulary)
        self.prompt = "exemplars"
        self._text, self._examples_of = (self._text_key(), text), weights_fingerprint(self)

    def _check_count(self, vocabulary: Vocabulary) -> None:
        if not self.decoder.is_open and self.decoder.num_classes != len(vocabulary):
            raise ValueError(f"{_CLOSED} its {self.decoder.num_classes} classes, got {len(vocabulary)}; {_OPEN}")

    def train_on(self, vocabulary: Vocabulary, prompt: str = "names") -> None:
        """Take the classes of the training data, whose labels are their indices; ValueError where the model was made for others."""
        if self.trained_on is not None and self.trained_on.names != vocabulary.names:
            raise ValueError(f"the model's vocabulary must be the training data's, got {self.trained_on.names[:5]}... and {vocabulary.names[:5]}...")
        self._check_count(vocabulary)
        self.trained_on, self.trained_prompt = vocabulary, prompt
        self._forget()

    def protocol(self) -> dict[str, Any]:
        test, stated = self.test, super().protocol()
        if self.decoder.task == "semantic":
            stated["windows"] = "whole image" if test.crop is None else f"{test.crop[0]}x{test.crop[1]} every {test.stride[0]}x{test.stride[1]}"
            stated["views"] = f"scales {', '.join(f'{s:g}' for s in test.scales)}{' with flips' if test.flip else ''}"
        return stated

    # the four verbs

    def encode_image(self, images: Tensor) -> DenseFeatures | list[FeatureMap]:
        return self.backbone(images) if self.text_encoder is None else self.backbone.dense(images)

    def encode_text(self, vocabulary: Vocabulary) -> ClassText | None:
        if self.prompt == "exemplars":
            raise ValueError(EXAMPLES_ARE_OLD)
        return None if self.text_encoder is None else self.pixel_text.encode(self.text_encoder, vocabulary, self.prompt)

    def compare(self, features: DenseFeatures | list[FeatureMap], text: ClassText | None) -> tuple[Sequence[FeatureMap], PixelScores | None]:
        """Return the maps, and the pixel-text scores (None without language)."""
        if text is None:
            return features, None
        return features.maps, self.pixel_text(self.text_encoder, features, text)

    def score(self, features: DenseFeatures | list[FeatureMap], text: ClassText | None) -> ScoreMaps:
        """Return a segmenter's logits at its finest map's size."""
        return ScoreMaps(logit_BKHW=self.decoder.logits(*self.compare(features, text)), activation="softmax")

    def decode(self, scored: Tensor, targets: Sequence[ImageTarget], input_hw: tuple[int, int] | None = None) -> list[Results]:
        """Return label maps from the scores (B, K, h, w) of a batch of `input_hw` pixels (None: the scores' own size)."""
        return label_maps(scored, targets, self.vocabulary.names, input_hw or tuple(scored.shape[-2:]))

    # modes

    def text(self) -> ClassText | None:
        """Return the vocabulary's text: encoded at the first call after it was set or the weights changed, then reused."""
        if self.vocabulary is None:
            raise ValueError("the model must know its classes first; call set_vocabulary(vocabulary)")
        if self.text_encoder is None:
            return None
        key = self._text_key()
        if self._text is not None and self.prompt == "exemplars" and self._text[0] != key and self._examples_of == weights_fingerprint(self):
            self._text = (key, self._text[1])  # the model was moved or copied
        if self._text is None or self._text[0] != key:
            with torch.no_grad(), torch.autocast(self.device.type, enabled=False):  # it is kept: whoever asks first does not decide the precision
                self._text = (key, self.encode_text(self.vocabulary))
        elif self._text[1].background_K.device != self.device:
            self._text = (key, self._text[1].to(self.device))
        return self._text[1]

    def _text_key(self) -> tuple[Any, ...]:
        """Return all that the text depends on: that of example pictures is the image side's as well."""
        parts = (self,) if self.prompt == "exemplars" else (self.text_encoder, self.pixel_text)
        return self.vocabulary, self.prompt, *(weights_state(p) for p in parts)

    @property
    def device(self) -> torch.device:
        return self.data_preprocessor.mean.device

    def _apart(self, answer: Callable[[Tensor, Sequence[ImageTarget]], list[Any]], images: Tensor, targets: Sequence[ImageTarget]) -> list[Any]:
        """Return what `answer` says of each image, asked for those of one size at a time, without the padding that larger ones brought.

        Attention pooling, context decoder and positions see a whole input, so that an image's answer would depend on its batch mates.
        """
        step, at, found = self.data_preprocessor.divisor, {}, {}
        for b, t in enumerate(targets):
            at.setdefault(tuple(min(-(-side // step) * step, most) for side, most in zip(t.size_hw, images.shape[-2:])), []).append(b)
        for (h, w), rows in at.items():
            alike = images[rows, :, :h, :w] if len(at) > 1 or (h, w) != tuple(images.shape[-2:]) else images
            found |= zip(rows, answer(alike, [targets[b] for b in rows]))
        return [found[b] for b in range(len(targets))]

    @torch.no_grad()
    def predict(self, images: Tensor, targets: Sequence[ImageTarget]) -> list[Results]:
        return self._apart(self._predict, images, targets)

    def _predict(self, images: Tensor, targets: Sequence[ImageTarget]) -> list[Results]:
        """Return the results of images of one size."""
        input_hw = tuple(images.shape[-2:])
        if self.decoder.task == "semantic":
            return self.decode(self.segment(images), targets, input_hw)
        maps, pixels = self.compare(self.features(images), self.text())
        return self.decoder.detections(self.decoder.pyramid(maps, pixels), targets, input_hw, self.vocabulary.names)

    @torch.no_grad()
    def segment(self, images: Tensor) -> Tensor:
        """Return the scores (B, K, h, w) of normalised images: logits (h, w as they fall), or with several views probabilities at the input's size."""
        if self.test.views == [(1.0, False)]:
            return self._windows(images)
        size_hw, step, total = tuple(images.shape[-2:]), self.data_preprocessor.divisor, 0.0
        for scale, mirrored in self.test.views:
            view_hw = tuple(max(step, round(side * scale / step) * step) for side in size_hw)
            view = F.interpolate(images, size=view_hw, mode="bilinear", align_corners=False, antialias=scale < 1) if view_hw != size_hw else images
            score = resized(self._windows(view.flip(3) if mirrored else view), size_hw).softmax(1)
            total = total + (score.flip(3) if mirrored else score)
        return total / len(self.test.views)

    @torch.no_grad()
    def score_maps(self, images: Tensor, targets: Sequence[ImageTarget]) -> list[Tensor]:
        """Return each class's probability at every place; of a detector the cosines of its pixel-text maps over tau, as probabilities too."""
        return self._apart(self._score_maps, images, targets)

    def _score_maps(self, images: Tensor, targets: Sequence[ImageTarget]) -> list[Tensor]:
        if self.decoder.task == "semantic":
            score = self.segment(images)
            score = score.softmax(1) if self.test.views == [(1.0, False)] else score
        else:
            _, pixels = self.compare(self.features(images), self.text())
            if pixels is None:
                raise NotImplementedError("a detector without language has no heat maps of texts")
            score = (pixels.score_BKHW / pixels.tau).softmax(1)
        return [without_padding(s, t.size_hw, tuple(images.shape[-2:])) for s, t in zip(score, targets, strict=True)]

    def _windows(self, images: Tensor) -> Tensor:
        text = self.text()

        def logits(crop: Tensor) -> Tensor:
            return self.score(self.features(crop), text).logit_BKHW

        return logits(images) if self.test.crop is None else slide(logits, images, self.test.crop, self.test.stride)

    def loss(self, images: Tensor, targets: Sequence[ImageTarget]) -> dict[str, Tensor]:
        """Return the losses of a batch whose labels are indices of `trained_on`."""
        input_hw = tuple(images.shape[-2:])
        maps, pixels = self.compare(self.encode_image(images), self._training_text())
        if self.decoder.task == "detection":
            return self.decoder.losses(maps, pixels, targets, input_hw)
        return self.decoder.losses(maps, pixels, stacked_labels(targets, input_hw, IGNORE_LABEL).to(images.device))

    def _training_text(self) -> ClassText | None:
        if self.text_encoder is None:
            return None
        if self.trained_on is None:
            raise ValueError("the model must know the classes of its training data; give vocabulary=, call train_on(...), or have VocabularyHook in the run")
        if self.pixel_text.learns() and self.pixel_text.prompting != "pre":
            return self.pixel_text.encode(self.text_encoder, self.trained_on, self.trained_prompt)
        if self._text is None or self._text[0] != "training":  # nothing in it is learned: it stays
            self._text = ("training", self.pixel_text.encode(self.text_encoder, self.trained_on, self.trained_prompt))
        return self._text[1].to(self.device)
