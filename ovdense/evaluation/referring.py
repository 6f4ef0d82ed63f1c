"""Referring expressions: is what a caption speaks of the best box (RefCOCO), all of it and nothing else (gRefCOCO), and is its mask right?"""
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ovdense.compat.grounding import annotation_place, four_numbers, grounding_entries, image_row
from ovdense.compat.grounding_forms import read_grounding
from ovdense.evaluation.average_precision import giou_xyxy, iou_xyxy
from ovdense.evaluation.base import DetectionMetric
from ovdense.evaluation.masks import Rle, encode_segmentation, overlap, union_mask
from ovdense.registry import METRICS

TOP = (1, 5, 10)
MIN_IOU = 0.5


@dataclass(frozen=True, kw_only=True)
class Expression:
    """What a caption speaks of: boxes (N, 4) xyxy, none where it is absent; the RLEs of its masks; its data set and PhraseCut's id where given."""

    boxes_xyxy: np.ndarray
    size_hw: tuple[int, int]
    rles: tuple[Rle, ...] = ()
    group: str = ""
    task_id: str = ""


def read_expressions(path: Path, *, masks: bool) -> tuple[dict[int, Expression], str]:
    """Return the expression of each image of a grounding file (`compat.grounding_forms.read_grounding`), and the file's fingerprint.

    An image with no annotation, or with one of category id -1 (gRefCOCO), speaks of nothing that is there; things with `isfinal` 0 (CLEVR-Ref+) are
    named on the way and not meant. `masks`: read the segmentations, which each annotation must then have.
    """
    content, sha256 = read_grounding(path)
    images, annotations, row_of = grounding_entries(content, path)
    boxes: list[list] = [[] for _ in images]
    rles: list[list] = [[] for _ in images]
    for n, a in enumerate(annotations):
        where = annotation_place(path, a, n)
        row = image_row(a, row_of, where)
        if a.get("isfinal", 1) == 0:
            continue
        x, y, w, h = four_numbers(a["bbox"], where)
        boxes[row].append((x, y, x + w, y + h))
        if masks:
            rles[row].append(encode_segmentation(a.get("segmentation"), _size(images[row]), where))
    return {
        image["id"]: Expression(
            boxes_xyxy=np.array(b, dtype=np.float64).reshape(-1, 4), size_hw=_size(image), rles=tuple(r),
            group=str(image.get("dataset_name", "")), task_id=str(image.get("task_id", "")),
        )
        for image, b, r in zip(images, boxes, rles)
    }, sha256  # fmt: skip


def _size(image: dict) -> tuple[int, int]:
    return int(image["height"]), int(image["width"])


def is_exact(overlap_NM: np.ndarray, min_overlap: float = MIN_IOU) -> bool:
    """Return whether N answers and M targets pair off one to one, best pair first, each by `min_overlap`: F1 = 1. Two empty sides do."""
    n, m = overlap_NM.shape
    if n != m:
        return False
    left = overlap_NM.copy()
    for _ in range(n):
        i, j = np.unravel_index(left.argmax(), left.shape)
        if left[i, j] < min_overlap:
            return False
        left[i], left[:, j] = -np.inf, -np.inf
    return True


class ExpressionMetric(DetectionMetric):
    """A metric of expressions: each image of `ann_file` (MDETR's form) has one, and all its detections answer that, whatever their label."""

    def _load(self, path: Path, names: tuple[str, ...]) -> tuple[str, tuple[int, ...]]:
        self._truth, sha256 = read_expressions(path, masks=self._reads_segmentations())
        if not self._truth:
            raise ValueError(f"{path}: must have at least one image with a caption, got none")
        return sha256, tuple(self._truth)

    def _reads_segmentations(self) -> bool:
        """Return whether the segmentations of the annotation file are the truth."""
        return self.uses_masks

    def _size_hw(self, image_id: int) -> tuple[int, int]:
        return self._truth[image_id].size_hw


@METRICS.register_module()
class ReferringMetric(ExpressionMetric):
    """Referring expressions in percent: "referring/P@1" (P@5, P@10) with IoU >= 0.5, and "P@1_giou" with GIoU >= 0.5, as MDETR's release counts.

    A hit is one of the best k boxes on a box of the expression (RefCOCO has one). By data set too, "P@1_refcoco", where `ann_file`
    has several ("dataset_name" of its images). GIoU is never above IoU, so "P@1_giou" is never above "P@1": they are two protocols.

    Where an expression may speak of nothing or of several things (gRefCOCO, arXiv 2308.16182), the answers are the boxes with a score of at
    least `score_thr`: "F1" and "F1_giou" (published) are the share of expressions whose answers and boxes pair off one to one; "T-acc" the
    share with something there that are answered, "N-acc" the share with nothing there that are not, "false_positives" the rest.

    `masks`: also "segm_mIoU", the mean IoU of the best detection's mask with all of the expression's, and "segm_cIoU", all pixels in
    both over all in any. Other arguments: see `DetectionMetric`.
    """

    default_prefix = "referring"

    def __init__(
        self,
        *,
        ann_file: str | Path | None = None,
        data_root: str | Path | None = None,
        score_thr: float = 0.7,
        masks: bool = False,
        class_names: Sequence[str] | None = None,
        allow_partial: bool = False,
        prefix: str | None = None,
        collect_device: str = "cpu",
    ) -> None:
        super().__init__(
            ann_file=ann_file, data_root=data_root, class_names=class_names, allow_partial=allow_partial, prefix=prefix, collect_device=collect_device
        )  # fmt: skip
        self.score_thr, self.uses_masks = score_thr, masks

    def _record(self, image_id: int, boxes_xyxy: np.ndarray, scores: np.ndarray, labels: np.ndarray, masks: np.ndarray | None = None) -> dict:
        truth = self._truth[image_id]
        order = np.argsort(-scores.astype(np.float64), kind="stable")
        best = np.full((2, len(TOP)), -1.0)
        exact, answered = [], np.flatnonzero(scores >= self.score_thr)
        for row, measure in enumerate((iou_xyxy, giou_xyxy)):
            if len(order) and len(truth.boxes_xyxy):
                ranked = measure(boxes_xyxy[order[: TOP[-1]]], truth.boxes_xyxy).max(1)
                best[row] = [ranked[:k].max() for k in TOP]
            exact.append(is_exact(measure(boxes_xyxy[answered], truth.boxes_xyxy)))
        pixels = np.zeros(2, dtype=np.int64)
        if masks is not None:
            found = masks[order[0]] if len(order) else np.zeros(truth.size_hw, dtype=bool)
            pixels[:] = overlap(found, union_mask(truth.rles, truth.size_hw))
        return {"image_id": image_id, "best": best, "exact": np.array(exact), "answers": len(answered), "pixels": pixels}

    def _compute(self, records: list[dict]) -> dict[str, float]:
        truth = [self._truth[r["image_id"]] for r in records]
        targets = np.array([len(t.boxes_xyxy) for t in truth])
        arrays = {key: np.stack([r[key] for r in records]) for key in ("best", "exact", "pixels")}
        answers = np.array([r["answers"] for r in records])
        generalised = bool((targets != 1).any())
        self.protocol |= {
            "classes": "the expression of each image",
            "hit": f"IoU {MIN_IOU} or more; _giou: GIoU {MIN_IOU} or more, as MDETR's release",
            "score_thr": self.score_thr if generalised else "none",
            "expressions_absent": int((targets == 0).sum()),
            "without_a_detection": int((arrays["best"][:, 0, 0] < 0)[targets > 0].sum()),
        }
        groups = [t.group for t in truth]
        out: dict[str, float] = {}
        for name in ["", *(sorted(set(groups)) if len(set(groups)) > 1 else ())]:
            chosen = np.array([not name or g == name for g in groups], dtype=bool)
            named = self._numbers({k: v[chosen] for k, v in arrays.items()}, targets[chosen], answers[chosen], generalised)
            out |= {f"{key}_{name}" if name else key: value for key, value in named.items()}
        return out

    def _numbers(self, arrays: dict[str, np.ndarray], targets: np.ndarray, answers: np.ndarray, generalised: bool) -> dict[str, float]:
        there = targets > 0
        out: dict[str, float] = {}
        for row, suffix in enumerate(("", "_giou")):
            out |= {f"P@{k}{suffix}": _percent(arrays["best"][there, row, n] >= MIN_IOU) for n, k in enumerate(TOP)}
        if generalised:
            n_acc = _percent(answers[~there] == 0)
            out |= {"F1": _percent(arrays["exact"][:, 0]), "F1_giou": _percent(arrays["exact"][:, 1]), "T-acc": _percent(answers[there] > 0)}
            out |= {"N-acc": n_acc, "false_positives": 100 - n_acc}
        if self.uses_masks:
            out |= mask_scores(arrays["pixels"][there])
        return out | {"expressions": len(targets)}


def mask_scores(pixels_N2: np.ndarray) -> dict[str, float]:
    """Return segm_mIoU and segm_cIoU in percent of pixels in both and in any; an expression without a pixel in any has IoU 0."""
    both, either = pixels_N2[:, 0], pixels_N2[:, 1]
    ious = both / np.maximum(either, 1)
    return {"segm_mIoU": _percent(ious), "segm_cIoU": float(100 * both.sum() / either.sum()) if either.sum() else float("nan")}


def _percent(values: np.ndarray) -> float:
    return float(100 * values.mean()) if len(values) else float("nan")
