"""Samples -> a batch: images keep their own sizes, the model pads them."""
from collections.abc import Sequence

from torch import Tensor

from ovdense.structures import ImageTarget


def collate_detection(samples: Sequence[dict]) -> dict[str, list[Tensor] | list[ImageTarget]]:
    """Return images (list of uint8 (3, H, W) RGB tensors) and targets (list of ImageTarget) of the samples, in order."""
    for sample in samples:
        if not isinstance(sample, dict) or not isinstance(sample.get("target"), ImageTarget):
            got = sorted(sample) if isinstance(sample, dict) else type(sample).__name__
            raise ValueError(f"a sample must be a dict with image and target, got {got}; end the dataset's transforms with PackDetection")
    return {"images": [s["image"] for s in samples], "targets": [s["target"] for s in samples]}
