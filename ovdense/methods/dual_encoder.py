"""Zero-shot dual encoders: texts, whole images and places of images as unit vectors of one space.

    encoder = ConseDualEncoder()                       # all weights come with pip
    bank = encoder.encode_text(["cat", "sofa"])        # ClassBank
    places = encoder.encode_dense(images_BCHW)         # FeatureMap of unit vectors; cosines with bank.rows_MD

Methods use them as their dense prior (ReCo, DenseCLIP), to retrieve images, and to filter classes (OVDiff).
"""
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from mmengine.registry import build_from_cfg
from PIL import Image
from torch import Tensor, nn

from ovdense.compat.weights import call_after_load
from ovdense.data.center_crop import center_square
from ovdense.registry import MODELS
from ovdense.structures import ClassBank, FeatureMap, Vocabulary
from ovdense.text.anchored import AnchoredTextEncoder
from ovdense.text.bank import class_bank
from ovdense.text.cache import EmbeddingCache, Embeds
from ovdense.text.encoders import BertTextEncoder, OpenClipTextEncoder
from ovdense.text.prompts import find_templates
from ovdense.vision.dense import ConseEncoder, DenseImageEncoder
from ovdense.vision.dense_clip import ClipDenseEncoder
from ovdense.vision.imagenet import imagenet_glosses, imagenet_names


class DualEncoder(nn.Module):
    """A text encoder and a dense image encoder of one space, both frozen.

    `templates`: the prompts that a name's row is averaged over, a set's name or strings with "{}". Images are RGB of one
    size, normalised with `mean` and `std` (of 0..255).
    """

    def __init__(self, text: Embeds, image: DenseImageEncoder, templates: str | Sequence[str] = "clip_photo") -> None:
        super().__init__()
        self.text, self.image, self.templates = text, image, templates
        self.mean, self.std, self.width = image.mean, image.std, image.width
        self.requires_grad_(False)

    def encode_text(self, classes: Vocabulary | Sequence[str], use_synonyms: bool = False, cache: EmbeddingCache | None = None) -> ClassBank:
        """Return unit rows of a vocabulary, or of bare names in their order; synonyms are further rows of their class."""
        vocabulary = classes if isinstance(classes, Vocabulary) else Vocabulary.of(classes)
        return class_bank(vocabulary, self.text, self.templates, use_synonyms=use_synonyms, cache=cache)

    def embed(self, words: Sequence[str], cache: EmbeddingCache | None = None) -> Tensor:
        """Return a unit row (M, D) on the CPU for each of M words or phrases, said in the templates; for many at once, whatever classes they belong to."""
        templates = find_templates(self.templates) if isinstance(self.templates, str) else tuple(self.templates)
        return (cache.embed(self.text, words, templates) if cache else self.text.embed(words, templates)).cpu()

    @torch.no_grad()
    def encode_image(self, images_BCHW: Tensor) -> Tensor:
        """Return one unit vector an image, (B, D)."""
        return self.image.encode_image(images_BCHW)

    @torch.no_grad()
    def encode_dense(self, images_BCHW: Tensor) -> FeatureMap:
        """Return a unit vector a place, (B, D, h, w)."""
        return self.image.encode_dense(images_BCHW)

    @torch.no_grad()
    def encode_places(self, images_BCHW: Tensor) -> tuple[FeatureMap, Tensor]:
        """Return `encode_dense` and `encode_image` from one run of the network."""
        return self.image.encode_places(images_BCHW)

    @property
    def device(self) -> torch.device:
        return next((tensor.device for tensor in chain(self.parameters(), self.buffers())), torch.device("cpu"))

    def fingerprint(self) -> str:
        """Return a hash of both encoders and the templates."""
        templates = self.templates if isinstance(self.templates, str) else "|".join(self.templates)
        return f"{self.text.fingerprint()}-{self.image.fingerprint()}-{templates}"


class ImageEmbedder:
    """Whole images of any size through a dual encoder, for retrieval: (H, W, 3) uint8 RGB in, unit vectors out.

    The shorter side is brought to `px` (bicubic); with `square` the middle is cut out, as CLIP does, else images of one size are
    encoded together.
    """

    def __init__(self, encoder: DualEncoder, *, px: int = 384, square: bool = True) -> None:
        self.encoder, self.px, self.square, self.width = encoder, px, square, encoder.width

    def embed_images(self, images: Sequence[np.ndarray]) -> Tensor:
        """Return (N, D) unit vectors on the CPU, in the weights' own precision whatever autocast is on: an index on disk keeps them."""
        device = self.encoder.device
        mean, std = (torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (self.encoder.mean, self.encoder.std))
        sized = [center_square(image, self.px, "bicubic") if self.square else self._whole(image) for image in images]
        out = torch.zeros(len(images), self.width)
        for shape in dict.fromkeys(i.shape for i in sized):
            at = [n for n, image in enumerate(sized) if image.shape == shape]
            batch = torch.from_numpy(np.stack([sized[n] for n in at])).to(device).permute(0, 3, 1, 2).float()
            with torch.autocast(device.type, enabled=False):
                out[at] = self.encoder.encode_image((batch - mean) / std).float().cpu()
        return out

    def _whole(self, image: np.ndarray) -> np.ndarray:
        height, width = image.shape[:2]
        scale = min(self.px / min(height, width), ConseEncoder.MOST_LONG * self.px / max(height, width))  # else a strip grows without bound
        size = [max(32, round(side * scale / 32) * 32) for side in (width, height)]
        return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))

    def fingerprint(self) -> str:
        """Return a hash of the image encoder and of how images are brought to size."""
        return f"{self.encoder.image.fingerprint()}-{self.px}-{'square' if self.square else 'whole'}"


@MODELS.register_module()
class ConseDualEncoder(DualEncoder):
    """Dense ConSE from weights that come with pip: a sentence encoder, and an ImageNet classifier as 1x1 convolution.

    `text`: a TextEncoder or its config, by default the embedded MiniLM. `name`: the classifier, "tf_efficientnet_lite0" or
    "tf_efficientnet_lite2" (an extra package). `centering`: 0.5 for places and closed vocabularies, 1.0 to rank images for
    one text. See `AnchoredTextEncoder` and `ConseEncoder` for the rest.
    """

    def __init__(
        self,
        name: str = "tf_efficientnet_lite0",
        *,
        text: dict | nn.Module | None = None,
        short_sides: Sequence[int] = (384, 224, 512),
        centering: float = 0.5,
        gloss_weight: float = 0.5,
        templates: str | Sequence[str] = "clip_photo",
    ) -> None:
        encoder = BertTextEncoder(weights="embedded", frozen=True) if text is None else text
        anchored = AnchoredTextEncoder(
            encoder, names=imagenet_names(), glosses=imagenet_glosses(), gloss_weight=gloss_weight, centering=centering
        )
        super().__init__(anchored, ConseEncoder(name, anchors_MD=anchored.anchors_MD, short_sides=short_sides), templates)
        call_after_load(self, "_follow_text")

    def _follow_text(self) -> None:
        """Give the image side the anchors of the text side's weights."""
        self.text.follow_weights()
        if not torch.equal(self.image.anchors_MD, self.text.anchors_MD):
            with torch.no_grad():
                self.image.anchors_MD.copy_(self.text.anchors_MD)

    def encode_text(self, classes: Vocabulary | Sequence[str], use_synonyms: bool = False, cache: EmbeddingCache | None = None) -> ClassBank:
        self._follow_text()
        return super().encode_text(classes, use_synonyms, cache)

    def embed(self, words: Sequence[str], cache: EmbeddingCache | None = None) -> Tensor:
        self._follow_text()
        return super().embed(words, cache)


@MODELS.register_module()
class ClipDualEncoder(DualEncoder):
    """CLIP by open_clip, with MaskCLIP's value path for places: `model_name` such as "ViT-B-16", "RN50x16".

    `pretrained`: a local file of weights, a tag of open_clip, or None for random ones. `mean`, `std` override the tower's
    own normalisation. `text`, `image`: encoders that are there already, or configs of them, instead.
    """

    def __init__(
        self,
        model_name: str = "ViT-B-16",
        *,
        pretrained: str | Path | None = None,
        templates: str | Sequence[str] = "imagenet",
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
        text: dict | nn.Module | None = None,
        image: nn.Module | None = None,
    ) -> None:
        if text is None:
            text = OpenClipTextEncoder(model_name=model_name, pretrained=None if pretrained is None else str(pretrained))
        text = text if isinstance(text, nn.Module) else build_from_cfg(text, MODELS)
        super().__init__(text, image or ClipDenseEncoder(model_name, pretrained=pretrained, mean=mean, std=std), templates)
