"""Semantic segmentation: mIoU and its family from one confusion matrix over the data set, seen and unseen classes, merged classes.

K classes. Pixels whose truth is the ignore index count nowhere. The numbers are those of mmseg's IoUMetric, in percent.
"""
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from ovdense.evaluation.base import ReportedMetric, as_array
from ovdense.evaluation.ground_truth import class_names_of
from ovdense.evaluation.protocol import with_told
from ovdense.registry import METRICS
from ovdense.structures import Vocabulary
from ovdense.text.class_maps import NOT_COUNTED, ClassMap, ClassSplit, load_class_map, load_class_split

Background = Literal["counted", "not averaged", "ignored"]


def confusion_matrix(truth: np.ndarray, predicted: np.ndarray, num_classes: int, ignore_index: int = NOT_COUNTED) -> np.ndarray:
    """Return (K, K) int64 numbers of pixels, row the true class, column the predicted one, without those whose truth is `ignore_index`.

    Both are integer arrays of one shape, classes in 0..K-1; nothing is checked.
    """
    counted = truth != ignore_index
    flat = truth[counted].astype(np.int64) * num_classes + predicted[counted]
    return np.bincount(flat, minlength=num_classes**2).reshape(num_classes, num_classes)


def class_scores(confusion_KK: np.ndarray) -> dict[str, np.ndarray]:
    """Return "IoU", "Acc" (the share of its pixels that a class is found in) and "share" (of the pixels that are a class), (K,) in percent.

    IoU is nan for a class that is neither in the truth nor predicted, 0 for one that is only predicted; Acc is nan without truth.
    """
    right, truth, predicted = (x.astype(np.float64) for x in (np.diag(confusion_KK), confusion_KK.sum(1), confusion_KK.sum(0)))
    with np.errstate(divide="ignore", invalid="ignore"):
        return {"IoU": 100 * right / (truth + predicted - right), "Acc": 100 * right / truth, "share": 100 * truth / truth.sum()}


def mean(values: np.ndarray) -> float:
    """Return the mean of the values that are not nan; nan when all are."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def harmonic_mean(a: float, b: float) -> float:
    """Return 2ab / (a + b); 0 when both are 0, nan where one is unknown."""
    return 2 * a * b / (a + b) if a + b != 0 else 0.0


def summary(confusion_KK: np.ndarray, averaged: np.ndarray | None = None) -> dict[str, float]:
    """Return mIoU, mAcc, aAcc and fwIoU in percent; the first two over the classes `averaged` (indices, default all).

    aAcc is the share of right pixels; fwIoU weighs each class's IoU by its share of the true pixels.
    """
    scores, total = class_scores(confusion_KK), confusion_KK.sum()
    chosen = slice(None) if averaged is None else averaged
    there = scores["share"] > 0
    return {
        "mIoU": mean(scores["IoU"][chosen]),
        "mAcc": mean(scores["Acc"][chosen]),
        "aAcc": float(100 * np.diag(confusion_KK).sum() / total) if total else float("nan"),
        "fwIoU": float((scores["share"] * scores["IoU"])[there].sum() / 100) if total else float("nan"),
    }


@METRICS.register_module()
class SemanticMetric(ReportedMetric):
    """Semantic segmentation in percent: "semantic/mIoU", "mAcc", "aAcc", "fwIoU"; with a split "mIoU_seen", "mIoU_unseen", "hIoU" and so on.

    Data samples have `img_id`, `ori_shape`, and `pred_sem_seg` and `gt_sem_seg` {data (1, H, W)}: class indices at the size of the file.
    The confusion matrix is of the whole data set. A class without a pixel in truth or prediction is left out of the means, one that is
    only predicted has IoU 0: as in mmseg.

    Args:
        class_names: the class of each label, by default the dataset's metainfo['classes'].
        class_map: merges the classes of truth and prediction (argmax first, then merged), such as "coco_stuff171_to_27"; a name, a
            file or a mapping for `load_class_map`, with "from" the classes above.
        split: which classes are seen and unseen, such as "voc15_5"; for `load_class_split`. Its classes are those after merging.
        background: for a class called `background_name`. "counted": a class as any other. "not averaged": left out of mIoU and mAcc;
            objects predicted on it are wrong all the same. "ignored": its pixels count nowhere; predicting it on an object is wrong.
        ignore_index: truth that does not count; no class index.
        allow_partial: evaluate what was processed, instead of raising when it is less than the data set.

    After `evaluate`: see `ReportedMetric`; `per_class` has IoU, Acc and share, and `confusion_KK` the pixels behind them, row the truth.
    """

    default_prefix = "semantic"

    def __init__(
        self,
        *,
        class_names: Sequence[str] | None = None,
        class_map: str | Path | Mapping[str, Any] | ClassMap | None = None,
        split: str | Path | Mapping[str, Any] | ClassSplit | None = None,
        background: Background = "counted",
        background_name: str = "background",
        ignore_index: int = NOT_COUNTED,
        allow_partial: bool = False,
        prefix: str | None = None,
        collect_device: str = "cpu",
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        if background not in get_args(Background):
            raise ValueError(f"background must be one of {', '.join(get_args(Background))}, got {background!r}")
        self.class_names, self.background, self.background_name = class_names, background, background_name
        self.class_map = None if class_map is None else load_class_map(class_map)
        self.split = None if split is None else load_class_split(split)
        self.ignore_index, self.allow_partial = ignore_index, allow_partial
        self.confusion_KK: np.ndarray | None = None
        self._ready_for: tuple[str, ...] | None = None

    def process(self, data_batch: object, data_samples: Sequence[dict]) -> None:
        """Check the label maps of one batch and keep their confusion."""
        self._prepare()
        for sample in data_samples:
            truth, predicted = self._checked(sample)
            flat = confusion_matrix(truth, predicted, len(self._names), self.ignore_index).ravel()
            cells = np.flatnonzero(flat)
            self.results.append({"image_id": int(sample["img_id"]), "cells": cells.astype(np.int32), "pixels": flat[cells].astype(np.int32)})

    def evaluate(self, size: int) -> dict[str, float]:
        """Return the numbers; ValueError when less than `size` images were processed, unless `allow_partial`."""
        self._size = size
        return super().evaluate(size)

    def compute_metrics(self, results: list[dict]) -> dict[str, float]:
        """Return the numbers of all records."""
        self._prepare()
        self._require_coverage([r["image_id"] for r in results])
        k = len(self._names)
        cells, pixels = (np.concatenate([r[key] for r in results]) for key in ("cells", "pixels"))
        flat = np.zeros(k * k, dtype=np.int64)
        np.add.at(flat, cells, pixels)
        confusion_KK = flat.reshape(k, k)
        if self.background == "ignored" and self._background is not None:
            confusion_KK[self._background] = 0
        self.confusion_KK, scores = confusion_KK, class_scores(confusion_KK)
        self.per_class = {n: {name: float(values[i]) for name, values in scores.items()} for i, n in enumerate(self._names)}
        self.protocol = self._stated(len(results), scores)
        averaged = np.array([i for i in range(k) if i != self._background or self.background == "counted"], dtype=np.int64)
        out = summary(confusion_KK, averaged)
        if self.split is not None:
            seen, unseen = self.split.indices(self._names)
            for name, key in (("mIoU", "IoU"), ("mAcc", "Acc")):
                out |= {f"{name}_seen": mean(scores[key][seen]), f"{name}_unseen": mean(scores[key][unseen])}
            out["hIoU"] = harmonic_mean(out["mIoU_seen"], out["mIoU_unseen"])
        return out

    def _stated(self, images: int, scores: dict[str, np.ndarray]) -> dict[str, str | int | float]:
        """Return the protocol."""
        has = self._background is not None
        stated = {
            "images": images,
            "images_in_set": self._size,
            "classes": len(self._names),
            "classes_with_truth": int((scores["share"] > 0).sum()),
            "class_names_sha256": Vocabulary.of(self._names).fingerprint(),
            "background": self.background if has else "no such class",
            "ignore_index": self.ignore_index,
            "iou": "one confusion matrix over the set, classes in truth or prediction averaged",
        }
        if self.class_map is not None:
            stated |= {"class_map": self.class_map.name, "class_map_sha256": self.class_map.fingerprint(), "classes_predicted": len(self._given)}
        if self.split is not None:
            stated["split"] = f"{self.split.name}: {len(self.split.seen)} seen, {len(self.split.unseen)} unseen"
        return with_told(stated, self._told())

    def _prepare(self) -> None:
        given = class_names_of(self.class_names, self.dataset_meta)
        if self._ready_for == given:
            return
        if self.results and self._ready_for is not None:
            raise ValueError("classes must stay the same until evaluate is called, got others in between")
        if 0 <= self.ignore_index < len(given):
            raise ValueError(f"ignore_index must not be one of the {len(given)} class indices, got {self.ignore_index}; take -1")
        if self.class_map is not None:
            source = self.class_map.source
            if source is None or source.names != given:
                what = "pixel values" if source is None else f"{len(source)} classes from {source.names[0]!r} to {source.names[-1]!r}"
                raise ValueError(
                    f"class_map {self.class_map.name} must map the {len(given)} classes that are predicted ({given[0]!r} to {given[-1]!r}), "
                    f"it maps {what}; label files are mapped by the data set, and this merges classes"
                )
        self._given, self._names = given, given if self.class_map is None else self.class_map.target.names
        self._background = self._names.index(self.background_name) if self.background_name in self._names else None
        if self._background is None and self.background != "counted":
            raise ValueError(
                f"background={self.background!r} needs a class {self.background_name!r}, got {self._names[:5]} ...; leave it out or set background_name"
            )
        if self.split is not None:
            self.split.indices(self._names)
        self._ready_for = given

    def _checked(self, sample: dict) -> tuple[np.ndarray, np.ndarray]:
        """Return truth and prediction (H, W) of one image, classes merged."""
        image_id = sample.get("img_id")
        try:
            image_id = int(image_id)
        except (TypeError, ValueError):
            raise ValueError(f"img_id must be an integer, got {image_id!r}") from None
        truth, predicted = (self._label_map(sample, field, image_id) for field in ("gt_sem_seg", "pred_sem_seg"))
        size = sample.get("ori_shape")
        if truth.shape != predicted.shape or (size is not None and truth.shape != tuple(size[:2])):
            raise ValueError(
                f"image {image_id}: truth and prediction must have the size of the file, {None if size is None else tuple(size[:2])}, "
                f"got {truth.shape} and {predicted.shape}; resize the scores, then take the argmax"
            )
        k = len(self._given)
        counted = truth != self.ignore_index
        self._require_classes(image_id, "truth", truth[counted], f"0..{k - 1} or {self.ignore_index}; is it the class map of these label files?")
        self._require_classes(image_id, "prediction", predicted, f"0..{k - 1}; give the model the vocabulary of the data set")
        if self.class_map is None:
            return truth, predicted
        merged = np.full(truth.shape, self.ignore_index, dtype=np.int64)
        merged[counted] = self.class_map(truth[counted])
        merged[merged == NOT_COUNTED] = self.ignore_index
        return merged, self._merged_prediction(image_id, merged, predicted)

    def _merged_prediction(self, image_id: int, truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        merged = self.class_map(predicted)
        lost = (merged == NOT_COUNTED) & (truth != self.ignore_index)
        if lost.any():
            name = self._given[int(predicted[lost][0])]
            raise ValueError(
                f"image {image_id}: {int(lost.sum())} pixels are predicted as classes that {self.class_map.name} does not count, such as {name!r}; "
                "predict only those that it counts"
            )
        return merged

    def _require_classes(self, image_id: int, what: str, labels: np.ndarray, must: str) -> None:
        if labels.size and not 0 <= labels.min() <= labels.max() < len(self._given):
            raise ValueError(f"image {image_id}: the {what} must lie in {must.partition(';')[0]}, got {labels.min()}..{labels.max()};{must.partition(';')[2]}")

    def _label_map(self, sample: dict, field: str, image_id: int) -> np.ndarray:
        holder = sample.get(field)
        if holder is None or "data" not in holder:
            raise ValueError(f"image {image_id}: the sample must have {field} with 'data', got {sorted(sample)}")
        data = as_array(holder["data"])
        if data.ndim == 3 and len(data) == 1:
            data = data[0]
        if data.ndim != 2 or data.dtype.kind not in "iu":
            raise ValueError(f"image {image_id}: {field} must be integers of shape (1, H, W), got {data.dtype} {data.shape}")
        return data

    def _require_coverage(self, processed: list[int]) -> None:
        if not processed:
            raise ValueError("predictions must be processed before the metric is computed, got none")
        if len(set(processed)) < len(processed):
            raise ValueError(f"each image must be processed once, got {len(processed)} records of {len(set(processed))} images")
        if len(processed) < self._size and not self.allow_partial:
            raise ValueError(f"all {self._size} images must be processed, got {len(processed)}; pass allow_partial=True to evaluate these only")
