"""The published square inputs of ReCo: shorter side to a size, the middle cut out (torchvision's arithmetic on PIL images)."""
from typing import Literal

import numpy as np
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as T

from ovdense.data.transforms import change_pixels
from ovdense.registry import TRANSFORMS

Interpolation = Literal["nearest", "bilinear", "bicubic"]


def center_square(image: np.ndarray, size: int, interpolation: Interpolation = "bilinear") -> np.ndarray:
    """Return the middle (size, size) of the (H, W, 3) or (H, W) uint8 image whose shorter side was brought to `size`."""
    if size < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    picture = T.resize(Image.fromarray(image), size, InterpolationMode(interpolation))
    return np.asarray(T.center_crop(picture, size))


@TRANSFORMS.register_module()
class CenterSquare:
    """Make image and label map a square of `size`; it is then the file, as far as the results and the measure go.

    ReCo's release measures Cityscapes and COCO-Stuff so, with `interpolation` "nearest" for the image as well (Pascal Context:
    "bilinear"). Put LoadLabelMap before it. Boxes are dropped.
    """

    def __init__(self, size: int = 320, interpolation: Interpolation = "nearest") -> None:
        self.size, self.interpolation = size, interpolation

    def __call__(self, sample: dict) -> dict:
        sample["image"] = center_square(sample["image"], self.size, self.interpolation)
        sample = change_pixels(sample, lambda pixels: center_square(pixels, self.size, "nearest"))
        sample["original_size_hw"] = (self.size, self.size)
        sample["boxes_xyxy"], sample["labels"] = np.zeros((0, 4), dtype=np.float32), np.zeros(0, dtype=np.int64)
        return sample
