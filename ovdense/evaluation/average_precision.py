"""Precision over recall, and the means that COCO and LVIS report. Pure functions; the matching is done by hotcoco.

K classes; T = 10 IoU thresholds .50:.05:.95, R = 101 recall points, A = 4 area ranges (all, small, medium, large), M caps.
"""
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ovdense.evaluation.ground_truth import GroundTruth

AREAS = ("", "s", "m", "l")


@dataclass(frozen=True, kw_only=True)
class Curves:
    """`precision_TRKAM` and `recall_TKAM` in 0..1, -1 where a class has no ground truth; `category_ids` are the K's."""

    precision_TRKAM: np.ndarray
    recall_TKAM: np.ndarray
    category_ids: tuple[int, ...]


def iou_xyxy(a_xyxy: np.ndarray, b_xyxy: np.ndarray) -> np.ndarray:
    """Return (A, B) overlaps in 0..1 of boxes (A, 4) and (B, 4) with x2 = x1 + width; empty boxes overlap nothing."""
    a, b = a_xyxy.astype(np.float64), b_xyxy.astype(np.float64)
    size = np.clip(np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2]), 0, None)
    inter = size.prod(-1)
    area_a, area_b = (np.clip(x[:, 2:] - x[:, :2], 0, None).prod(-1) for x in (a, b))
    union = area_a[:, None] + area_b[None] - inter
    return np.divide(inter, union, out=np.zeros_like(inter), where=union > 0)


def giou_xyxy(a_xyxy: np.ndarray, b_xyxy: np.ndarray) -> np.ndarray:
    """Return (A, B) generalised overlaps in -1..1 (arXiv 1902.09630, Eq. 1): IoU less the share of the enclosing box that neither covers."""
    a, b = a_xyxy.astype(np.float64), b_xyxy.astype(np.float64)
    iou = iou_xyxy(a, b)
    area_a, area_b = (np.clip(x[:, 2:] - x[:, :2], 0, None).prod(-1) for x in (a, b))
    union = (area_a[:, None] + area_b[None]) / (1 + iou)  # inter = iou * union
    size = np.clip(np.maximum(a[:, None, 2:], b[None, :, 2:]) - np.minimum(a[:, None, :2], b[None, :, :2]), 0, None)
    hull = size.prod(-1)
    return iou - np.divide(hull - union, hull, out=np.zeros_like(hull), where=hull > 0)


def top_by_score(scores: np.ndarray, limit: int) -> np.ndarray:
    """Return the indices of the `limit` best, best first, equal scores in their order."""
    return np.argsort(-scores.astype(np.float64), kind="stable")[:limit]


def top_per_class(scores: np.ndarray, labels: np.ndarray, limit: int) -> np.ndarray:
    """Return the sorted indices of the `limit` best detections of each class, equal scores in their order."""
    order = np.lexsort((np.arange(len(scores)), -scores.astype(np.float64), labels))
    ordered = labels[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(ordered) else np.zeros(0, dtype=np.int64)
    rank = np.arange(len(ordered)) - np.repeat(starts, np.diff(np.r_[starts, len(ordered)]))
    return np.sort(order[rank < limit])


def precision_recall(
    truth: GroundTruth,
    detections: np.ndarray,
    *,
    image_ids: Sequence[int],
    category_ids: Sequence[int],
    max_dets: Sequence[int],
    federated: bool,
) -> Curves:
    """Return the curves over `image_ids` and `category_ids`.

    `detections` (N, 7) float64: image id, x, y, width, height, score, category id. `max_dets` are caps per image *and
    class*, as in COCO; LVIS's cap per image over all classes must be applied before. `federated`: a detection of a
    class that is neither present in nor known to be absent from its image is dropped, and one that matches nothing of
    a class that is not exhaustively annotated there is ignored (LVIS, arXiv 1908.03195, section 3).
    """
    import hotcoco

    kept_images, kept_classes = set(image_ids), set(category_ids)
    annotations = [
        {"id": n, "image_id": a["image_id"], "category_id": a["category_id"], "bbox": a["bbox"], "iscrowd": a.get("iscrowd", 0),
         "area": a.get("area", a["bbox"][2] * a["bbox"][3]), "ignore": a.get("ignore", 0)}
        for n, a in enumerate(truth.annotations, 1)  # own ids, as 0 would mean "not matched"
        if a["image_id"] in kept_images and a["category_id"] in kept_classes
    ]  # fmt: skip
    fields = ("id", "height", "width", "neg_category_ids", "not_exhaustive_category_ids")
    images = [{f: i[f] for f in fields if f in i} for i in truth.images if i["id"] in kept_images]
    categories = [{f: c[f] for f in ("id", "name", "frequency") if f in c} for c in truth.categories]
    dataset = hotcoco.COCO({"images": images, "annotations": annotations, "categories": categories})
    predicted = dataset.load_res(np.ascontiguousarray(detections, dtype=np.float64))
    if federated:  # or the evaluator cuts to 300 per image by itself, whatever max_dets says
        predicted = predicted.cap_detections_per_image(None)
    evaluator = hotcoco.COCOeval(dataset, predicted, "bbox", lvis_style=federated)
    ordered = tuple(sorted(kept_classes))
    evaluator.params.img_ids = sorted(kept_images)
    evaluator.params.cat_ids = list(ordered)
    evaluator.params.max_dets = list(max_dets)
    evaluator.evaluate()
    evaluator.accumulate()
    precision, recall = (np.asarray(evaluator.eval[k]) for k in ("precision", "recall"))
    return Curves(precision_TRKAM=precision, recall_TKAM=recall, category_ids=ordered)


def percent(values: np.ndarray) -> float:
    """Return 100 x the mean of the values that are not -1; nan when all are."""
    known = values[values > -1]
    return float(100 * known.mean()) if known.size else float("nan")


def average_precisions(curves: Curves) -> dict[str, float]:
    """Return AP, AP50, AP75, APs, APm, APl in percent, at the largest cap."""
    precision = curves.precision_TRKAM[..., -1]
    named = {"AP": percent(precision[:, :, :, 0]), "AP50": percent(precision[0, :, :, 0]), "AP75": percent(precision[5, :, :, 0])}
    return named | {f"AP{a}": percent(precision[:, :, :, n]) for n, a in enumerate(AREAS) if a}


def average_recalls(curves: Curves) -> dict[str, float]:
    """Return AR, ARs, ARm, ARl in percent, at the largest cap."""
    return {f"AR{a}": percent(curves.recall_TKAM[:, :, n, -1]) for n, a in enumerate(AREAS)}


def per_class_ap(curves: Curves) -> dict[int, float]:
    """Return the AP in percent of each category id, nan without ground truth."""
    return {c: percent(curves.precision_TRKAM[:, :, k, 0, -1]) for k, c in enumerate(curves.category_ids)}
