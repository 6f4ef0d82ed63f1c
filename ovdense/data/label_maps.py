"""Transforms for semantic training: label maps, random scale, crops, colours. Samples as in `transforms`; the class of a pixel is never interpolated."""
from collections.abc import Sequence

import cv2
import numpy as np

from ovdense.data.transforms import change_pixels, check_probability, nearest, resize_image
from ovdense.registry import TRANSFORMS
from ovdense.structures import IGNORE_LABEL


@TRANSFORMS.register_module()
class LoadLabelMap:
    """Add `label_map` (H, W) uint8. Before a resize it follows the image (training); after it the file's size stays (testing)."""

    def __call__(self, sample: dict) -> dict:
        if "read_label_map" not in sample:
            raise ValueError("LoadLabelMap needs a semantic dataset (ovdense.data.segmentation); this one has no label maps")
        sample["label_map"] = sample["read_label_map"]()
        return sample


@TRANSFORMS.register_module()
class RandomScale:
    """Scale image and labels to fit `scale` (long side, short side) times a factor drawn evenly from `ratio_range`; the aspect stays (mmseg's RandomResize)."""

    def __init__(self, scale: tuple[int, int] = (2048, 512), ratio_range: tuple[float, float] = (0.5, 2.0)) -> None:
        if min(scale) < 1 or not 0 < ratio_range[0] <= ratio_range[1]:
            raise ValueError(f"scale must be positive and ratio_range (low, high) with 0 < low <= high, got {scale} and {ratio_range}")
        self.scale, self.ratio_range = (max(scale), min(scale)), ratio_range

    def __call__(self, sample: dict) -> dict:
        height, width = sample["image"].shape[:2]
        ratio = float(sample["rng"].uniform(*self.ratio_range))
        factor = min(self.scale[0] * ratio / max(height, width), self.scale[1] * ratio / min(height, width))
        new_hw = (max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5)))
        sample["image"] = resize_image(sample["image"], new_hw)
        return change_pixels(sample, lambda pixels: nearest(pixels, new_hw))


@TRANSFORMS.register_module()
class CropPatch:
    """Cut a window of `size_hw` at a random place; smaller images are padded right and below with `pad_rgb`, labels with IGNORE_LABEL.

    mmseg pads after normalising, with zeros: there the border is never mirrored or recoloured.

    A window more than `max_share` of whose labelled pixels are one class is drawn again, up to 10 times (mmseg's cat_max_ratio).
    """

    def __init__(self, size_hw: tuple[int, int], max_share: float = 1.0, pad_rgb: Sequence[int] = (124, 116, 104)) -> None:
        if min(size_hw) < 1:
            raise ValueError(f"size_hw must be positive, got {size_hw}")
        self.size_hw, self.max_share, self.pad_rgb = tuple(size_hw), check_probability("max_share", max_share), tuple(pad_rgb)

    def __call__(self, sample: dict) -> dict:
        height, width = sample["image"].shape[:2]
        h, w = (min(have, want) for have, want in zip((height, width), self.size_hw))
        for _ in range(10):
            y, x = int(sample["rng"].integers(height - h + 1)), int(sample["rng"].integers(width - w + 1))
            if self.max_share >= 1 or "label_map" not in sample or self._varied(sample["label_map"][y : y + h, x : x + w]):
                break
        below, right = self.size_hw[0] - h, self.size_hw[1] - w
        image = sample["image"][y : y + h, x : x + w]
        if below or right:
            image = cv2.copyMakeBorder(image, 0, below, 0, right, cv2.BORDER_CONSTANT, value=tuple(int(v) for v in self.pad_rgb))
        sample["image"] = image
        if "label_map" in sample:
            sample["label_map"] = np.pad(sample["label_map"][y : y + h, x : x + w], ((0, below), (0, right)), constant_values=IGNORE_LABEL)
        return sample

    def _varied(self, labels: np.ndarray) -> bool:
        count = np.bincount(labels.reshape(-1), minlength=256)[:IGNORE_LABEL]
        return (count > 0).sum() > 1 and count.max() < self.max_share * count.sum()


@TRANSFORMS.register_module()
class PhotometricDistortion:
    """Change brightness, contrast, saturation and hue, each with probability one half (SSD's, as mmseg has it); contrast first or last by chance."""

    def __init__(self, brightness: float = 32, contrast: tuple[float, float] = (0.5, 1.5), saturation: tuple[float, float] = (0.5, 1.5), hue: int = 18) -> None:
        self.brightness, self.contrast, self.saturation, self.hue = brightness, contrast, saturation, hue

    def __call__(self, sample: dict) -> dict:
        rng: np.random.Generator = sample["rng"]
        image = sample["image"]
        if rng.random() < 0.5:
            image = _linear(image, 1.0, rng.uniform(-self.brightness, self.brightness))
        contrast_first = rng.random() < 0.5
        if contrast_first and rng.random() < 0.5:
            image = _linear(image, rng.uniform(*self.contrast), 0.0)
        hsv = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2HSV)
        if rng.random() < 0.5:
            hsv[..., 1] = _linear(hsv[..., 1], rng.uniform(*self.saturation), 0.0)
        if rng.random() < 0.5:
            hsv[..., 0] = (hsv[..., 0].astype(int) + int(rng.integers(-self.hue, self.hue))) % 180
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
        if not contrast_first and rng.random() < 0.5:
            image = _linear(image, rng.uniform(*self.contrast), 0.0)
        sample["image"] = image
        return sample


def _linear(pixels: np.ndarray, gain: float, shift: float) -> np.ndarray:
    return np.clip(pixels.astype(np.float32) * gain + shift, 0, 255).astype(np.uint8)
