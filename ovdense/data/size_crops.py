"""MDETR's augmentation (DETR's, kept to crops that lose no box): a choice of steps, and a window of random size in pixels."""
from collections.abc import Callable, Sequence

import numpy as np

from ovdense.data.transforms import change_pixels, clip_boxes, select_boxes
from ovdense.registry import TRANSFORMS


@TRANSFORMS.register_module()
class OneOf:
    """Run one of several lists of steps, each with equal probability."""

    def __init__(self, choices: Sequence[Sequence[dict | Callable[[dict], dict]]]) -> None:
        if not choices:
            raise ValueError("choices must hold at least one list of steps, got none")
        self.choices = [[TRANSFORMS.build(s) if isinstance(s, dict) else s for s in steps] for steps in choices]

    def __call__(self, sample: dict) -> dict:
        for step in self.choices[int(sample["rng"].integers(len(self.choices)))]:
            sample = step(sample)
        return sample


@TRANSFORMS.register_module()
class SizeCrop:
    """Cut a window whose sides are drawn from `min_size` (or the image's side where it is shorter) to `max_size` pixels.

    With `keep_boxes` (MDETR) a window is drawn again, up to `tries` times, until no box is lost altogether; else the last one stays. Boxes are clipped;
    those outside go with their spans. `published_spans`: see `RandomCrop`.
    """

    def __init__(self, min_size: int = 384, max_size: int = 1333, keep_boxes: bool = True, tries: int = 100, published_spans: bool = False) -> None:
        if not 1 <= min_size <= max_size or tries < 1:
            raise ValueError(f"1 <= min_size <= max_size and tries >= 1 are needed, got {min_size}, {max_size} and {tries}")
        self.min_size, self.max_size, self.keep_boxes, self.tries, self.published_spans = min_size, max_size, keep_boxes, tries, published_spans

    def __call__(self, sample: dict) -> dict:
        rng, boxes = sample["rng"], sample["boxes_xyxy"]
        height, width = sample["image"].shape[:2]
        for _ in range(self.tries):
            h, w = (int(rng.integers(min(self.min_size, side), min(side, self.max_size) + 1)) for side in (height, width))
            y, x = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
            inside = np.clip(boxes - np.array([x, y, x, y], dtype=np.float32), 0, np.array([w, h, w, h], dtype=np.float32))
            keep = (inside[:, 2:] > inside[:, :2]).all(1)
            if keep.all() or not self.keep_boxes:
                break
        if self.published_spans and "positive_spans" in sample:
            sample.setdefault("align_spans", sample["positive_spans"])
        sample["image"], sample["boxes_xyxy"] = sample["image"][y : y + h, x : x + w], inside
        sample = change_pixels(sample, lambda pixels: pixels[..., y : y + h, x : x + w])
        return clip_boxes(select_boxes(sample, keep), min_size=1e-3)
