"""Precision over recall, and the means that COCO and LVIS report. The matching is done by hotcoco, or a reference.

K classes; T = 10 IoU thresholds .50:.05:.95, R = 101 recall points, A = 4 area ranges (all, small, medium, large), M caps.
"""
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ovdense.evaluation.ground_truth import GroundTruth, area_of, has_area
from ovdense.evaluation.masks import Rle

AREAS = ("", "s", "m", "l")
LVIS_CAP = 300
_BLOCK = 200_000  # detections that the evaluator holds at a time, about 250 bytes each
_NO_SIZE = 1e12  # square pixels: out of every area range, which is what lvis makes of "ignore"; hotcoco 1.3 does not read that
IouType = Literal["bbox", "segm"]
Backend = Literal["hotcoco", "pycocotools", "lvis"]


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
    iou_type: IouType = "bbox",
    rles: Sequence[Rle] | None = None,
    backend: Backend = "hotcoco",
) -> Curves:
    """Return the curves over `image_ids` and `category_ids`.

    `detections` (N, 7) float64: image id, x, y, width, height, score, category id; `rles` are their masks for "segm", by whose area they
    are small or large. `max_dets` are caps per image *and class*, as in COCO; LVIS's cap per image over all classes must be applied before.
    `federated`: a detection of a class that is neither present in nor known to be absent from its image is dropped, and one that matches
    nothing of a class that is not exhaustively annotated there is ignored (LVIS, arXiv 1908.03195, section 3). As in the official tools,
    crowds count in COCO only, annotations marked "ignore" in LVIS only, and LVIS passes over annotations and detections of area 0.
    `backend`: "hotcoco", or the slow references "pycocotools" (COCO) and "lvis" (LVIS).
    """
    if (iou_type == "segm") != (rles is not None) or (rles is not None and len(rles) != len(detections)):
        raise ValueError(f"{iou_type} needs {'a mask of each detection' if iou_type == 'segm' else 'no masks'}, got {None if rles is None else len(rles)}")
    kept_images, kept_classes = set(image_ids), set(category_ids)
    fields = ("id", "height", "width", "neg_category_ids", "not_exhaustive_category_ids")
    images = [{f: i[f] for f in fields if f in i} for i in truth.images if i["id"] in kept_images]
    categories = [{f: c[f] for f in ("id", "name", "frequency") if f in c} for c in truth.categories]
    annotations = [a for a in truth.annotations if a["image_id"] in kept_images and a["category_id"] in kept_classes]
    order = dict(img_ids=sorted(kept_images), cat_ids=sorted(kept_classes), max_dets=list(max_dets))
    if backend == "hotcoco":
        precision, recall = _in_blocks(images, categories, annotations, detections, rles, order, federated=federated, iou_type=iou_type)
    else:
        from ovdense.evaluation.reference import reference_curves

        precision, recall = reference_curves(backend, images, categories, annotations, detections, rles, order, federated=federated, iou_type=iou_type)
    return Curves(precision_TRKAM=precision, recall_TKAM=recall, category_ids=tuple(order["cat_ids"]))


def _in_blocks(
    images: list[dict], categories: list[dict], annotations: list[dict], detections: np.ndarray, rles: Sequence[Rle] | None, order: dict,
    *, federated: bool, iou_type: IouType,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Return what `_hotcoco` gives, computed for some classes at a time: classes do not meet in the matching, and memory is bounded."""
    category = detections[:, 6].astype(np.int64)
    ids = np.array(order["cat_ids"], dtype=np.int64)
    counts = np.searchsorted(np.sort(category), ids, side="right") - np.searchsorted(np.sort(category), ids, side="left")
    block_of = np.cumsum(counts) // _BLOCK
    by_class: dict[int, list[dict]] = {}
    for a in annotations:
        by_class.setdefault(a["category_id"], []).append(a)
    parts = []
    for block in np.unique(block_of):
        chosen = ids[block_of == block]
        rows = np.flatnonzero(np.isin(category, chosen))
        truth = [a for c in chosen.tolist() for a in by_class.get(c, ())]
        masks = None if rles is None else [rles[n] for n in rows.tolist()]
        own = order | {"cat_ids": chosen.tolist()}
        parts.append(_hotcoco(images, categories, truth, detections[rows], masks, own, federated=federated, iou_type=iou_type))
    precision, recall = (np.concatenate(p, axis=axis) for p, axis in zip(zip(*parts), (2, 1)))
    return precision, recall


def _hotcoco(
    images: list[dict], categories: list[dict], annotations: list[dict], detections: np.ndarray, rles: Sequence[Rle] | None, order: dict,
    *, federated: bool, iou_type: IouType,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Return precision (T, R, K, A, M) and recall (T, K, A, M) by hotcoco, without a Python object for each detection."""
    import hotcoco

    annotations = [a for a in annotations if has_area(a)] if federated else annotations
    boxes = np.array([a["bbox"] for a in annotations], dtype=np.float64).reshape(-1, 4)
    segmentation = {} if rles is None else {"segmentation": [a["segmentation"] for a in annotations]}
    dataset = hotcoco.COCO.from_arrays(
        images=images,
        categories=categories,
        image_ids=np.array([a["image_id"] for a in annotations], dtype=np.int64),
        category_ids=np.array([a["category_id"] for a in annotations], dtype=np.int64),
        boxes=boxes,  # ids are given anew, from 1: 0 would mean "not matched"
        area=np.array([_NO_SIZE if federated and a.get("ignore") else area_of(a) for a in annotations], dtype=np.float64),
        iscrowd=np.array([0 if federated else int(bool(a.get("iscrowd"))) for a in annotations], dtype=np.int64),
        **segmentation,
    )
    if federated:
        kept = judged_detections(images, annotations, detections)
        sizes = detections[kept, 3] * detections[kept, 4] if rles is None else hotcoco.mask.area([rles[n] for n in kept.tolist()])
        kept = kept[np.asarray(sizes) > 0]
        detections, rles = detections[kept], None if rles is None else [rles[n] for n in kept.tolist()]
    rows = np.ascontiguousarray(detections, dtype=np.float64)
    predicted = dataset.load_res(rows) if rles is None else dataset.load_res(rows, segmentation=list(rles))
    if rles:
        predicted.update_anns(ids=np.arange(1, len(rles) + 1), area=hotcoco.mask.area(list(rles)).astype(np.float64))
    if federated and len(rows) and np.unique(rows[:, 0], return_counts=True)[1].max() > LVIS_CAP:
        predicted = predicted.cap_detections_per_image(None)  # or the evaluator cuts to 300 per image by itself, whatever max_dets says
    evaluator = hotcoco.COCOeval(dataset, predicted, iou_type, lvis_style=federated)
    evaluator.params.img_ids, evaluator.params.cat_ids, evaluator.params.max_dets = order["img_ids"], order["cat_ids"], order["max_dets"]
    evaluator.evaluate()
    evaluator.accumulate()
    found = evaluator.eval  # a copy, each time
    return np.asarray(found["precision"]), np.asarray(found["recall"])


def judged_detections(images: Sequence[dict], annotations: Sequence[dict], detections: np.ndarray) -> np.ndarray:
    """Return the indices of the detections (N, 7) whose class is known to be present in, or to be absent from, their image.

    The evaluator would drop the others anyway (LVIS, section 3); they are most of what a detector finds, and most of the memory.
    """
    present = np.array([(a["image_id"], a["category_id"]) for a in annotations], dtype=np.int64).reshape(-1, 2)
    absent = np.array([(i["id"], c) for i in images for c in i.get("neg_category_ids", ())], dtype=np.int64).reshape(-1, 2)
    known = np.concatenate([present, absent])
    if not len(known) or not len(detections):
        return np.zeros(0, dtype=np.int64)
    first, span = int(known[:, 1].min()), int(known[:, 1].max() - known[:, 1].min()) + 1
    category = detections[:, 6].astype(np.int64) - first
    key = detections[:, 0].astype(np.int64) * span + category
    within = (category >= 0) & (category < span)
    return np.flatnonzero(within & np.isin(key, np.unique(known[:, 0] * span + known[:, 1] - first)))


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


def per_class_ap(curves: Curves, threshold: int | slice = slice(None)) -> dict[int, float]:
    """Return the AP in percent of each category id, nan without ground truth; `threshold` 0 is AP50, by default all ten are averaged."""
    precision_XK = curves.precision_TRKAM[threshold, ..., 0, -1].reshape(-1, len(curves.category_ids))
    known = precision_XK > -1
    with np.errstate(invalid="ignore"):
        means = 100 * np.where(known, precision_XK, 0).sum(0) / known.sum(0)
    return dict(zip(curves.category_ids, means.tolist()))
