"""COCO's matching and average precision written out plainly, to compare the metrics with: one object at a time, no library."""
from collections.abc import Sequence

import numpy as np

THRESHOLDS = np.linspace(0.5, 0.95, 10)


def iou_xywh(a: Sequence[float], b: Sequence[float]) -> float:
    w = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    h = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    inter = max(w, 0.0) * max(h, 0.0)
    return inter / (a[2] * a[3] + b[2] * b[3] - inter)


def verdicts(detections: Sequence[tuple[Sequence[float], float]], boxes: Sequence[Sequence[float]], threshold: float) -> list[tuple[float, bool]]:
    """Return (score, right) of the best 100 (xywh, score), best first: each takes the free box that it overlaps most."""
    ranked = sorted(detections, key=lambda d: -d[1])[:100]
    free, out = set(range(len(boxes))), []
    for box, score in ranked:
        best, best_iou = None, threshold
        for k in sorted(free):
            overlap = iou_xywh(box, boxes[k])
            if overlap >= best_iou:
                best, best_iou = k, overlap
        if best is not None:
            free.remove(best)
        out.append((score, best is not None))
    return out


def average_precision(entries: Sequence[tuple[Sequence, Sequence]], threshold: float) -> tuple[float, float]:
    """Return AP at 101 recalls and the recall, in 0..1, of (detections, boxes) of one class, each entry an image."""
    total = sum(len(boxes) for _, boxes in entries)
    if total == 0:
        return float("nan"), float("nan")
    ranked = sorted((v for detections, boxes in entries for v in verdicts(detections, boxes, threshold)), key=lambda v: -v[0])
    right, points = 0, []
    for n, (_, hit) in enumerate(ranked, 1):
        right += hit
        points.append((right / total, right / n))
    values = [max((p for r, p in points if r >= recall), default=0.0) for recall in np.linspace(0, 1, 101)]
    return float(np.mean(values)), right / total


def mean_ap(entries: Sequence[tuple[Sequence, Sequence]]) -> float:
    return float(np.mean([average_precision(entries, t)[0] for t in THRESHOLDS]))
