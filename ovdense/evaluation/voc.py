"""Average precision as Pascal VOC's development kit computes it. Pure functions on numpy arrays, one class at a time."""
import numpy as np

from ovdense.evaluation.average_precision import iou_xyxy


def match_class(
    truth_image: np.ndarray, truth_boxes_xyxy: np.ndarray, difficult: np.ndarray,
    image: np.ndarray, boxes_xyxy: np.ndarray, scores: np.ndarray, *, min_iou: float = 0.5,
) -> np.ndarray:  # fmt: skip
    """Return for each detection, best score first, 1 (right), 0 (wrong) or -1 (ignored).

    A detection belongs to the box of its image that it overlaps most. It is right when that overlap is at least
    `min_iou` and the box is not taken yet; a second one on the same box is wrong; on a difficult box it is ignored.
    """
    order = np.argsort(-scores.astype(np.float64), kind="stable")
    rows_of = {i: np.flatnonzero(truth_image == i) for i in np.unique(truth_image)}
    taken = np.zeros(len(truth_image), dtype=bool)
    verdict = np.zeros(len(order), dtype=np.int64)
    for n, d in enumerate(order):
        rows = rows_of.get(image[d])
        if rows is None:
            continue
        overlap = iou_xyxy(boxes_xyxy[d : d + 1], truth_boxes_xyxy[rows])[0]
        best = rows[overlap.argmax()]
        if overlap.max() < min_iou:
            continue
        verdict[n] = -1 if difficult[best] else int(not taken[best])
        taken[best] = True
    return verdict


def voc_ap(verdict: np.ndarray, num_truth: int) -> tuple[float, float]:
    """Return AP in 0..1 as (area under the curve, VOC 2010 on; mean at the 11 recalls 0, .1, ..., 1, VOC 2007).

    `verdict` as from `match_class`; `num_truth` counts the boxes that are not difficult; nan, nan when it is 0.
    """
    if num_truth == 0:
        return float("nan"), float("nan")
    counted = verdict[verdict >= 0]
    right = np.cumsum(counted)
    precision = right / np.arange(1, len(counted) + 1)
    best_from = np.maximum.accumulate(precision[::-1])[::-1]
    area = float((best_from * counted).sum() / num_truth)
    # Recall >= k / 10 in integers, so that no rounding decides.
    points = [best_from[10 * right >= k * num_truth] for k in range(11)]
    return area, float(sum(p[0] if len(p) else 0.0 for p in points) / 11)
