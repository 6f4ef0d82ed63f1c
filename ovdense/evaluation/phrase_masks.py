"""Segmentation of phrases in captions of several: does the mask given for a phrase cover what the phrase means?"""
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ovdense.compat.grounding import grounding_entries, phrases_of_images
from ovdense.compat.grounding_forms import read_grounding
from ovdense.evaluation.base import DetectionMetric
from ovdense.evaluation.masks import encode_segmentation, overlap, union_mask
from ovdense.registry import METRICS

THRESHOLDS = (0.5, 0.7, 0.9)


def mask_figures(pixels_N2: np.ndarray) -> dict[str, float]:
    """Return mIoU, cumulative IoU and P@0.5, 0.7, 0.9 in percent from each phrase's pixels in both masks and in any; nan without a phrase."""
    if not len(pixels_N2):
        return dict.fromkeys(["mIoU", "cIoU", *(f"P@{t}" for t in THRESHOLDS)], float("nan"))
    both, either = pixels_N2[:, 0], pixels_N2[:, 1]
    iou = both / np.maximum(either, 1)
    precision = {f"P@{t}": float(100 * (iou > t).mean()) for t in THRESHOLDS}
    return {"mIoU": float(100 * iou.mean()), "cIoU": float(100 * both.sum() / max(either.sum(), 1))} | precision


@METRICS.register_module()
class PhraseMaskMetric(DetectionMetric):
    """Masks of phrases in percent: "phrase_masks/mIoU" (mean over phrases), "cIoU" (all pixels together), "P@0.5", "P@0.7", "P@0.9" (IoU above it).

    Label k of an image is phrase k of its caption, as `PhraseGroundingDetection` and `CaptionTestLoop` have them; the mask of the highest
    score answers it; the truth is the union of the `segmentation` of all its annotations in `ann_file` (MDETR's form).
    PhraseCut, where an image has one phrase and
    all answers above a score count, is for `PhraseCutMetric`. Other arguments: see `DetectionMetric`.
    """

    default_prefix = "phrase_masks"
    uses_masks = True

    def _load(self, path: Path, names: tuple[str, ...]) -> tuple[str, tuple[int, ...]]:
        content, sha256 = read_grounding(path)
        images, annotations, row_of = grounding_entries(content, path)
        of_image: dict[int, list[dict]] = {}
        for a in annotations:
            if "segmentation" not in a:
                raise ValueError(f"{path}: annotation {a.get('id')}: must have a segmentation for its mask to be measured")
            of_image.setdefault(a["image_id"], []).append(a)
        self._truth, self._sizes = {}, {}
        for image, asked in zip(images, phrases_of_images(images, annotations, row_of, path)):
            if len(asked):
                size = self._sizes[image["id"]] = (int(image["height"]), int(image["width"]))
                self._truth[image["id"]] = [self._rles(of_image[image["id"]], spans, size, path) for spans in asked.spans]
        return sha256, tuple(self._truth)

    @staticmethod
    def _rles(annotations: Sequence[dict], spans: Sequence[tuple[int, int]], size_hw: tuple[int, int], path: Path) -> list[dict]:
        """Return the masks of all annotations that the phrase means."""
        own = [a for a in annotations if {tuple(s) for s in a["tokens_positive"]} >= set(spans)]
        return [encode_segmentation(a["segmentation"], size_hw, f"{path}: annotation {str(a.get('id'))[:40]}") for a in own]

    def _size_hw(self, image_id: int) -> tuple[int, int]:
        return self._sizes[image_id]

    def _record(self, image_id: int, boxes_xyxy: np.ndarray, scores: np.ndarray, labels: np.ndarray, masks: np.ndarray) -> dict:
        size, pixels = self._sizes[image_id], []
        for k, rles in enumerate(self._truth[image_id]):
            mine = np.flatnonzero(labels == k)
            given = masks[mine[scores[mine].argmax()]] if len(mine) else np.zeros(size, dtype=bool)
            pixels.append(overlap(given, union_mask(rles, size)))
        return {"image_id": image_id, "pixels": np.array(pixels, dtype=np.int64)}

    def _compute(self, records: list[dict]) -> dict[str, float]:
        pixels = np.concatenate([r["pixels"] for r in records])
        self.protocol |= {"classes": "the phrases of each caption", "phrase_mask": "the mask of the highest score", "phrases": len(pixels)}
        return mask_figures(pixels)
