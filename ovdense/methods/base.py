"""What every method shares: the four verbs, image preprocessing, and MMEngine's three modes (here and nowhere else)."""
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.model import BaseDataPreprocessor, BaseModel
from mmengine.registry import build_from_cfg
from torch import Tensor, nn
from torch.nn import functional as F

from ovdense.image_cache import ImageFeatureCache
from ovdense.registry import MODELS
from ovdense.structures import ImageTarget, Results, Vocabulary
from ovdense.text.prompts import PromptChunk, describe_templates

PROMPTS = ("names", "descriptions", "texts")
EXAMPLES_ARE_OLD = "the weights have changed since the example pictures were read; give them again (use_exemplars, or set_exemplars of a predictor)"


def built(part: dict | nn.Module | None) -> nn.Module | None:
    """Return a part of a model that is given as itself, by its config, or not at all."""
    return part if part is None or isinstance(part, nn.Module) else build_from_cfg(part, MODELS)


def asked_vocabulary(model: "OpenVocabModel") -> Vocabulary:
    """Return the vocabulary that was set; ValueError where none was."""
    if model.vocabulary is None:
        raise ValueError("the classes must be known first; call set_vocabulary(...)")
    return model.vocabulary


def only_names(model: nn.Module, prompt: str) -> str:
    """Return the prompt of a model that is asked by names alone; ValueError for another."""
    if prompt != "names":
        raise ValueError(f'{type(model).__name__} is asked by names, got prompt={prompt!r}; set prompt="names"')
    return prompt


def is_training_free(cfg: Any) -> bool:
    """Return whether the model of a config is of a method that is not trained (`OpenVocabModel.training_free`)."""
    kind = (cfg.get("model") or {}).get("type")
    return bool(getattr(MODELS.get(kind) if isinstance(kind, str) else kind, "training_free", False))


class ImagePreprocessor(BaseDataPreprocessor):
    """Normalise uint8 RGB images (3, H, W), pad each with zeros to the batch's largest size, a multiple of `divisor`.

    `mean` and `std` are on the 0-255 scale, RGB. Returns dict(images=(B, 3, H, W) float32, targets=as given).
    """

    def __init__(self, *, mean: Sequence[float], std: Sequence[float], divisor: int = 32) -> None:
        super().__init__()
        self.divisor = divisor
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32)[:, None, None], persistent=False)

    def forward(self, data: dict[str, Any], training: bool = False) -> dict[str, Any]:
        images = []
        for image in data["images"]:
            if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3:
                raise ValueError(f"an image must be uint8 of shape (3, H, W), RGB, got {image.dtype} {tuple(image.shape)}")
            images.append((image.to(self.mean.device).float() - self.mean) / self.std)
        height, width = (-(-max(i.shape[d] for i in images) // self.divisor) * self.divisor for d in (1, 2))
        batch = torch.stack([F.pad(i, (0, width - i.shape[2], 0, height - i.shape[1])) for i in images])
        return {"images": batch, "targets": data.get("targets")}


class OpenVocabModel(BaseModel):
    """A model whose classes are given as text: `set_vocabulary` once, then predict many times.

    Subclasses give the four verbs `encode_image`, `encode_text`, `score`, `decode`, and `loss`. `training_free` says that a model
    has no weights but those that its config names, so that it is tested and shown without a checkpoint. `rivals_within`: background
    classes compete with the others at every place by their own names, so that they serve as negatives.
    """

    training_free = False
    apart_from_images: tuple[str, ...] = ("text_encoder",)  # submodules that `encode_image` does not read
    image_cache: ImageFeatureCache | None = None
    rivals_within = False

    @property
    def wants_background(self) -> bool:
        """Return whether the model can leave pixels to a background class, so that a demo adds one to what is asked for."""
        return False

    def __init__(self, *, mean: Sequence[float], std: Sequence[float], divisor: int = 32) -> None:
        super().__init__(data_preprocessor=ImagePreprocessor(mean=mean, std=std, divisor=divisor))
        self.vocabulary: Vocabulary | None = None
        self.prompt = "names"
        self.asked: tuple[PromptChunk, ...] | None = None

    def set_vocabulary(self, vocabulary: Vocabulary, prompt: str = "names") -> None:
        """Predict these classes from now on.

        `prompt`: "names", "descriptions" (names and what they look like), or "texts" (names that are whole texts, asked as
        OmniLabel's are: more than two words alone, shorter ones together).
        """
        if prompt not in PROMPTS:
            raise ValueError(f"prompt must be one of {', '.join(PROMPTS)}, got {prompt!r}")
        self.vocabulary, self.prompt, self.asked = vocabulary, prompt, None

    def ask(self, prompts: Sequence[PromptChunk], vocabulary: Vocabulary) -> None:
        """Predict these classes from now on, asked by these very captions; each class stands in one of them, by its spans.

        `prompt` is then "captions", and `asked` has them. For models that read captions; NotImplementedError says so of the others.
        """
        raise NotImplementedError(f"{type(self).__name__} does not read captions, so it cannot be asked by them; call set_vocabulary(vocabulary) instead")

    def use_exemplars(self, vocabulary: Vocabulary, source: Any) -> None:
        """Predict these classes from now on, each asked by example pictures instead of its name.

        `source` gives `support_set(class)`, such as `ovdense.support.sources.FolderSupport(folder)`. `prompt` is then "exemplars". For
        segmenters that compare places with vectors; NotImplementedError says so of the others.
        """
        raise NotImplementedError(f"{type(self).__name__} cannot be asked by example pictures; OVDiff, MaskClip, ReCo and DenseClip with an open decoder can")

    @abstractmethod
    def encode_image(self, images: Tensor) -> Any:
        """Return the features of (B, 3, H, W) normalised images; called once an image."""

    def features(self, images: Tensor, *args: Any) -> Any:
        """Return `encode_image(images, *args)`: from `image_cache`, where one is set and the model is used, not trained."""
        if self.image_cache is None or self.training or torch.is_grad_enabled():
            return self.encode_image(images, *args)
        return self.image_cache.features(self, images, args)

    @abstractmethod
    def encode_text(self, vocabulary: Vocabulary) -> Any:
        """Return all that the text gives for this vocabulary; called once a vocabulary."""

    @abstractmethod
    def score(self, features: Any, text: Any) -> Any:
        """Return how well places match texts."""

    @abstractmethod
    def decode(self, scored: Any, targets: Sequence[ImageTarget]) -> list[Results]:
        """Return each image's results."""

    @abstractmethod
    def loss(self, images: Tensor, targets: Sequence[ImageTarget]) -> dict[str, Tensor]:
        """Return the losses of a batch."""

    @abstractmethod
    def predict(self, images: Tensor, targets: Sequence[ImageTarget]) -> list[Results]:
        """Return each image's results for the vocabulary that was set."""

    def score_maps(self, images: Tensor, targets: Sequence[ImageTarget]) -> list[Tensor]:
        """Return how well every place of each image matches every class, (K, h, w): the vocabulary's classes, any resolution, padding cut off.

        The units are the method's own (cosines, probabilities); more is better. For methods that score places; NotImplementedError says so of the others.
        """
        raise NotImplementedError(f"{type(self).__name__} scores objects, not places, so that it has no heat maps; DesCo and all segmenters have")

    def protocol(self) -> dict[str, Any]:
        """Return what a number measured with this model depends on: stored and printed with every result."""
        known = {"vocabulary_sha256": self.vocabulary.fingerprint()} if self.vocabulary else {}
        sets = dict.fromkeys(describe_templates(m.templates) for m in self.modules() if getattr(m, "templates", None))
        templates = {"templates": ", ".join(sets)} if sets and self.prompt == "names" else {}
        return {"classes": len(self.vocabulary) if self.vocabulary else 0, **known, "prompt": self.prompt, **templates}

    def forward(self, images: Tensor, targets: Sequence[ImageTarget] | None = None, mode: str = "tensor") -> Any:
        """Run in MMEngine's mode: "loss", "predict" (a list of mmdet's DetDataSample or mmseg's SegDataSample), or "tensor" (image features)."""
        if mode == "loss":
            return self.loss(images, targets)
        if mode == "predict":
            from ovdense.compat.mm import to_data_sample

            return [to_data_sample(r, t) for r, t in zip(self.predict(images, targets), targets, strict=True)]
        if mode == "tensor":
            return self.encode_image(images)
        raise ValueError(f'mode must be "loss", "predict" or "tensor", got {mode!r}')
