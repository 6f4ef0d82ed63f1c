"""Dense image encoders: a unit vector for every place of an image, and one for the whole, in the space of a text encoder.

`DenseImageEncoder` says what they have in common; `ConseEncoder` mixes class vectors by an ImageNet classifier's posterior.
CLIP's is in `vision/dense_clip.py`. B images, D width, M anchor classes.
"""
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovdense.compat.weights import load_checked, read_state_dict, weights_fingerprint
from ovdense.structures import FeatureMap
from ovdense.vision.embedded import embedded_state_dict


class DenseImageEncoder(nn.Module):
    """Frozen. Takes RGB images of one size without padding, normalised with `mean` and `std` (of 0..255).

    What is given back has length 1 along the width; scale and temperature belong to the heads.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    width: int

    @abstractmethod
    def encode_places(self, images_BCHW: Tensor) -> tuple[FeatureMap, Tensor]:
        """Return the vectors of all places, (B, D, h, w) with their stride, and those of the whole images, (B, D)."""

    def encode_dense(self, images_BCHW: Tensor) -> FeatureMap:
        """Return the unit vector of every place, (B, D, h, w)."""
        return self.encode_places(images_BCHW)[0]

    @abstractmethod
    def encode_image(self, images_BCHW: Tensor) -> Tensor:
        """Return one unit vector an image, (B, D)."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Return what, besides the weights, decides the outputs, as JSON values."""

    def fingerprint(self) -> str:
        """Return a hash of settings and weights: the key of everything computed with them."""
        return weights_fingerprint(self, self.settings())

    def train(self, mode: bool = True) -> "DenseImageEncoder":
        """Stay in evaluation mode."""
        return super().train(False)


class ConseEncoder(DenseImageEncoder):
    """Dense ConSE (arXiv 1312.5650, at every place): an ImageNet classifier's posterior mixes the vectors of its classes.

    The classifier of timm's architecture `name` runs as a 1x1 convolution over the un-pooled features (stride 32); the
    posteriors of the image at several `short_sides` (pixels, the long side follows, both multiples of 32) are averaged on
    the grid of the first one, so that the map's stride in input pixels is only near the stated one: resize maps by size.
    `anchors_MD`: unit vectors of its M classes in the text space. `weights`: "embedded", a path, or None.
    """

    STRIDE, MOST_LONG = 32, 6

    def __init__(
        self,
        name: str = "tf_efficientnet_lite0",
        *,
        anchors_MD: Tensor,
        short_sides: Sequence[int] = (384, 224, 512),
        weights: str | Path | None = "embedded",
    ) -> None:
        super().__init__()
        if not short_sides or min(short_sides) < self.STRIDE:
            raise ValueError(f"short_sides must be one or more numbers of at least {self.STRIDE}, got {tuple(short_sides)}")
        self.name, self.short_sides = name, tuple(short_sides)
        self.net = timm.create_model(name, pretrained=False)
        if weights == "embedded":
            self.net.load_state_dict(embedded_state_dict(name, self.net))
        elif weights is not None:
            load_checked(self.net, read_state_dict(weights), str(weights))
        classifier = self.net.get_classifier()
        if not isinstance(classifier, nn.Linear) or len(anchors_MD) != classifier.out_features:
            raise ValueError(f"{name} must end in a linear classifier of {len(anchors_MD)} classes, one an anchor, got {classifier}")
        config = timm.get_pretrained_cfg(name)
        self.mean, self.std = (tuple(round(255 * v, 3) for v in values) for values in (config.mean, config.std))
        self.width = anchors_MD.shape[1]
        self.register_buffer("anchors_MD", anchors_MD.detach().clone(), persistent=False)
        self.requires_grad_(False).train(False)

    def class_probs(self, images_BCHW: Tensor, short_side: int) -> Tensor:
        """Return the posterior (B, M, h, w) over the classifier's classes at every place of the images at this short side."""
        head = self.net.get_classifier()
        feat_BCHW = self.net.forward_features(self._resized(images_BCHW, short_side))
        return F.conv2d(feat_BCHW, head.weight[:, :, None, None], head.bias).softmax(1)

    def encode_places(self, images_BCHW: Tensor) -> tuple[FeatureMap, Tensor]:
        probs = [self.class_probs(images_BCHW, side) for side in self.short_sides]
        size_hw = probs[0].shape[2:]
        mean_BMHW = sum(F.interpolate(p, size=size_hw, mode="bilinear") for p in probs) / len(probs)
        dense_BDHW = F.normalize(torch.einsum("bmhw,md->bdhw", mean_BMHW, self.anchors_MD), dim=1)
        stride = max(1, round(min(images_BCHW.shape[2:]) / min(size_hw)))
        return FeatureMap(tensor_BCHW=dense_BDHW, stride=stride), self._whole(probs[0])

    def encode_image(self, images_BCHW: Tensor) -> Tensor:
        """Return the mixture by the mean posterior over all places, at the first short side, (B, D)."""
        return self._whole(self.class_probs(images_BCHW, self.short_sides[0]))

    def settings(self) -> dict[str, Any]:
        return {"name": self.name, "short_sides": self.short_sides}

    def _whole(self, probs_BMHW: Tensor) -> Tensor:
        return F.normalize(probs_BMHW.mean((2, 3)) @ self.anchors_MD, dim=1)

    def size_at(self, size_hw: Sequence[int], short_side: int) -> list[int]:
        """Return [height, width], multiples of the stride, for images of this size at this short side.

        The long side is at most `MOST_LONG` short sides, and a strip's short side is stretched: 1 x 400 pixels would become 512 x 200,000.
        """
        scale = min(short_side / min(size_hw), self.MOST_LONG * short_side / max(size_hw))
        return [max(self.STRIDE, round(side * scale / self.STRIDE) * self.STRIDE) for side in size_hw]

    def _resized(self, images_BCHW: Tensor, short_side: int) -> Tensor:
        """Return the images with this short side; the range of pixels is kept, as when images are resized as bytes."""
        height, width = images_BCHW.shape[2:]
        size = self.size_at((height, width), short_side)
        if size == [height, width]:
            return images_BCHW
        low, high = images_BCHW.amin((2, 3), keepdim=True), images_BCHW.amax((2, 3), keepdim=True)
        return F.interpolate(images_BCHW, size=size, mode="bicubic", antialias=True).clamp(low, high)
