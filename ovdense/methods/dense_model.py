"""What training-free segmenters share: image after image without padding, class maps to label maps at the file's size."""
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ovdense.compat.weights import weights_fingerprint, weights_state
from ovdense.heads.segment import best_class
from ovdense.methods.base import EXAMPLES_ARE_OLD, OpenVocabModel, asked_vocabulary, only_names
from ovdense.structures import ImageTarget, Results, Vocabulary


class TrainingFreeSegmenter(OpenVocabModel):
    """A segmenter that learns nothing: text once a vocabulary, then `score` maps (K, h, w) image by image.

    Images of a batch are run one by one, each cut out of its padding, so that a result does not depend on its neighbours.
    """

    training_free = True

    background_thr: float | None = None

    def __init__(self, *, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__(mean=mean, std=std, divisor=1)
        self._text: Any = None
        self._text_of: tuple[Any, ...] = ()  # all that the text depends on
        self._examples_of = ""  # the weights that read the example pictures

    @property
    def wants_background(self) -> bool:
        return self.background_thr is not None

    def set_vocabulary(self, vocabulary: Vocabulary, prompt: str = "names") -> None:
        """Predict these classes from now on. `prompt` must be "names"."""
        super().set_vocabulary(vocabulary, only_names(self, prompt))
        self._text, self._text_of = self.encode_text(vocabulary), self._text_key()

    def _ask_by_examples(self, vocabulary: Vocabulary, text: Any) -> None:
        """Predict these classes from now on with a text that was made of example pictures."""
        super().set_vocabulary(vocabulary)
        self.prompt, self._text = "exemplars", text
        self._text_of, self._examples_of = self._text_key(), weights_fingerprint(self)

    def text(self) -> Any:
        """Return the vocabulary's text; encoded anew where weights have changed since. ValueError where nothing was asked, or examples cannot be read anew."""
        vocabulary = asked_vocabulary(self)
        if self._text_of != self._text_key():
            if self.prompt != "exemplars":
                self._text = self.encode_text(vocabulary)
            elif self._examples_of != weights_fingerprint(self):  # else the model was moved or copied
                raise ValueError(EXAMPLES_ARE_OLD)
            self._text_of = self._text_key()
        return self._text

    def _text_key(self) -> tuple[Any, ...]:
        return self.vocabulary, self.prompt, weights_state(self)

    @abstractmethod
    def score(self, features: Any, text: Any) -> Tensor:
        """Return (K, h, w) of one image's features."""

    @torch.no_grad()
    def predict(self, images: Tensor, targets: Sequence[ImageTarget]) -> list[Results]:
        """Return the label map of each image at its file's size."""
        return self.decode(self.score_maps(images, targets), targets)

    @torch.no_grad()
    def score_maps(self, images: Tensor, targets: Sequence[ImageTarget]) -> list[Tensor]:
        text = self.text()
        return [self.score(self.features(image[None, :, : t.size_hw[0], : t.size_hw[1]]), text) for image, t in zip(images, targets)]

    def decode(self, scored: Sequence[Tensor], targets: Sequence[ImageTarget]) -> list[Results]:
        """Return the best class of every pixel of the file; scores are resized bilinearly first."""
        names = self.vocabulary.names
        return [Results.of_label_map(best_class(s, t.size_hw, t), names, t.image_id) for s, t in zip(scored, targets, strict=True)]

    def loss(self, images: Tensor, targets: Sequence[ImageTarget]) -> dict[str, Tensor]:
        raise NotImplementedError(f"{type(self).__name__} is not trained; test it or show it")
