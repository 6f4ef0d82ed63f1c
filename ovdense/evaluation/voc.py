"""Average precision as Pascal VOC's development kit computes it, one class at a time, and the metric."""
from pathlib import Path

import numpy as np

from ovdense.evaluation.average_precision import iou_xyxy
from ovdense.evaluation.base import DetectionMetric
from ovdense.evaluation.ground_truth import load_voc_truth, require_known
from ovdense.evaluation.records import as_detections, detection_record
from ovdense.registry import METRICS
from ovdense.text.vocabulary import load_vocabulary


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


@METRICS.register_module()
class VocMetric(DetectionMetric):
    """Pascal VOC's mAP at IoU .5: "voc/mAP" (area under the curve, VOC 2010 on) and "voc/mAP_11point" (VOC 2007).

    `ann_file` is the split, .../ImageSets/Main/NAME.txt. Difficult boxes count neither for nor against; classes without
    other boxes are left out of the mean. `img_id` is the image's name in the split, or its digits as an integer
    ("2007_000027" -> 2007000027), or its place 1, 2, ... where names have more than digits, or more than 15 of them. The split's objects of
    classes that are not asked for are left out. Other arguments: see `DetectionMetric`.
    """

    default_prefix = "voc"

    def _load(self, path: Path, names: tuple[str, ...]) -> tuple[str, tuple[int, ...]]:
        self._truth = load_voc_truth(path)
        # a class of VOC may be absent from a split; any other one that is in no annotation of it is a mistake
        require_known(names, {*load_vocabulary("voc").names, *self._truth.class_names}, path)
        self._id_of_name = dict(zip(self._truth.names, self._truth.image_ids))
        return self._truth.sha256, self._truth.image_ids

    def _image_id(self, img_id: object) -> int:
        return super()._image_id(self._id_of_name.get(img_id, img_id) if isinstance(img_id, str) else img_id)

    def _record(self, image_id: int, boxes_xyxy: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> dict:
        return detection_record(image_id, boxes_xyxy, scores, labels, len(scores))

    def _compute(self, records: list[dict]) -> dict[str, float]:
        detections = as_detections(records, np.arange(len(self._names)))
        boxes = np.concatenate([detections[:, 1:3], detections[:, 1:3] + detections[:, 3:5]], axis=1)
        truth, names = self._truth, np.array(self._truth.class_names, dtype=object)
        truth_image = np.array(truth.image_ids, dtype=np.int64)[truth.image_row]
        evaluated = np.isin(truth_image, [r["image_id"] for r in records])
        area, eleven = {}, {}
        for k, name in enumerate(self._names):
            here, mine = evaluated & (names == name), detections[:, 6] == k
            verdict = match_class(
                truth_image[here],
                truth.boxes_xyxy[here],
                truth.difficult[here],
                detections[mine, 0].astype(np.int64),
                boxes[mine],
                detections[mine, 5],
            )
            area[name], eleven[name] = (100 * ap for ap in voc_ap(verdict, int((~truth.difficult[here]).sum())))
        self.per_class_ap = area
        known = [n for n, ap in area.items() if not np.isnan(ap)]
        self.protocol |= {
            "ap": "VOC mAP at IoU 0.5",
            "detections": "no cap",
            "classes_with_truth": len(known),
            "most_predicted_in_an_image": max(r["num_predicted"] for r in records),
        }
        return {
            "mAP": float(np.mean([area[n] for n in known])) if known else float("nan"),
            "mAP_11point": float(np.mean([eleven[n] for n in known])) if known else float("nan"),
        }
