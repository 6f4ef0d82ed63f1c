"""Metrics for boxes: LVIS (AP and fixed AP), COCO and Pascal VOC. Numbers are percent, nan where a group has no ground truth."""
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ovdense.evaluation.average_precision import (
    Curves,
    average_precisions,
    average_recalls,
    per_class_ap,
    percent,
    precision_recall,
    top_by_score,
    top_per_class,
)
from ovdense.evaluation.base import DetectionMetric
from ovdense.evaluation.ground_truth import GroundTruth, load_ground_truth, load_voc_truth, require_known
from ovdense.evaluation.voc import match_class, voc_ap
from ovdense.registry import METRICS
from ovdense.text.vocabulary import load_vocabulary

FIXED_AP_PER_CLASS = 10_000
_PRUNE_ABOVE = 4_000_000  # detections held before fixed AP drops those that can no longer count


def _record(image_id: int, boxes_xyxy: np.ndarray, scores: np.ndarray, labels: np.ndarray, num_predicted: int) -> dict:
    return {"image_id": image_id, "boxes": boxes_xyxy, "scores": scores, "labels": labels, "num_predicted": num_predicted}


def _as_detections(records: list[dict], category_ids: np.ndarray) -> np.ndarray:
    """Return (N, 7) float64: image id, x, y, width, height, score, category id."""
    counts = [len(r["scores"]) for r in records]
    boxes = np.concatenate([r["boxes"] for r in records]).astype(np.float64)
    out = np.empty((sum(counts), 7))
    out[:, 0] = np.repeat([r["image_id"] for r in records], counts)
    out[:, 1:3] = boxes[:, :2]
    out[:, 3:5] = boxes[:, 2:] - boxes[:, :2]
    out[:, 5] = np.concatenate([r["scores"] for r in records])
    out[:, 6] = category_ids[np.concatenate([r["labels"] for r in records])]
    return out


def _require_positive(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")


def _load_categories(path: Path, names: Sequence[str], *, federated: bool) -> tuple[GroundTruth, np.ndarray]:
    """Return the file and its category id of each class of `names`."""
    truth = load_ground_truth(path, federated=federated)
    id_of = {c["name"]: c["id"] for c in truth.categories}
    if len(id_of) < len(truth.categories):
        raise ValueError(f"{path}: category names must be unique, got {len(id_of)} names for {len(truth.categories)} categories")
    require_known(names, id_of, path)
    return truth, np.array([id_of[n] for n in names], dtype=np.int64)


def _class_table(truth: GroundTruth, curves: Curves, records: list[dict]) -> tuple[dict[str, float], dict[str, int]]:
    """Return the AP of each class name, and what the protocol says about classes and detections."""
    name_of = {c["id"]: c["name"] for c in truth.categories}
    ap_of = {name_of[c]: ap for c, ap in per_class_ap(curves).items()}
    return ap_of, {
        "classes_in_file": len(truth.categories),
        "classes_with_truth": sum(not np.isnan(v) for v in ap_of.values()),
        "most_predicted_in_an_image": max(r["num_predicted"] for r in records),
    }


@METRICS.register_module()
class LvisMetric(DetectionMetric):
    """LVIS v1 box AP: AP, AP50, AP75, APs, APm, APl, APr, APc, APf and AR at `max_dets`, as "lvis/bbox_AP" and so on.

    `max_dets` detections of an image count, over all classes (300 in LVIS v1). `fixed_ap` (arXiv 2102.01066): no cap
    per image, the best 10,000 of each class over the data set; `max_dets` must then be left out. The model's own cap
    must be lifted for fixed AP to mean anything: the protocol has the largest number that came in for an image.
    Other arguments: see `DetectionMetric`. After `evaluate`, `per_class_ap` has the AP of each class name.
    """

    default_prefix = "lvis"

    def __init__(
        self,
        *,
        ann_file: str | Path | None = None,
        data_root: str | Path | None = None,
        max_dets: int | None = None,
        fixed_ap: bool = False,
        class_names: Sequence[str] | None = None,
        allow_partial: bool = False,
        prefix: str | None = None,
        collect_device: str = "cpu",
    ) -> None:
        super().__init__(
            ann_file=ann_file,
            data_root=data_root,
            class_names=class_names,
            allow_partial=allow_partial,
            prefix=prefix,
            collect_device=collect_device,
        )
        if fixed_ap and max_dets is not None:
            raise ValueError(f"fixed AP has no cap per image: max_dets must be left out with fixed_ap=True, got {max_dets}")
        self.fixed_ap, self.max_dets = fixed_ap, 300 if max_dets is None else max_dets
        _require_positive("max_dets", self.max_dets)
        self._held, self._prune_at = 0, _PRUNE_ABOVE

    def _load(self, path: Path, names: tuple[str, ...]) -> tuple[str, tuple[int, ...]]:
        self._truth, self._category_ids = _load_categories(path, names, federated=True)
        return self._truth.sha256, tuple(i["id"] for i in self._truth.images)

    def _record(self, image_id: int, boxes_xyxy: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> dict:
        if not self.fixed_ap:
            keep = top_by_score(scores, self.max_dets)
            return _record(image_id, boxes_xyxy[keep], scores[keep], labels[keep], len(scores))
        if not self.results:
            self._held, self._prune_at = 0, _PRUNE_ABOVE
        self._held += len(scores)
        if self._held > self._prune_at:
            self._prune()
        return _record(image_id, boxes_xyxy, scores, labels, len(scores))

    def _prune(self) -> None:
        """Drop detections below the 10,000th score of their class so far: they can no longer count. Ties stay."""
        scores, labels = (np.concatenate([r[k] for r in self.results] or [np.zeros(0)]) for k in ("scores", "labels"))
        threshold = np.full(len(self._names), -np.inf)
        order = np.lexsort((-scores, labels))
        starts = np.searchsorted(labels[order], np.arange(len(self._names) + 1))
        full = np.flatnonzero(np.diff(starts) > FIXED_AP_PER_CLASS)
        threshold[full] = scores[order[starts[full] + FIXED_AP_PER_CLASS - 1]]
        for r in self.results:
            keep = r["scores"] >= threshold[r["labels"]]
            r.update({k: r[k][keep] for k in ("boxes", "scores", "labels")})
        self._held = sum(len(r["scores"]) for r in self.results)
        self._prune_at = max(_PRUNE_ABOVE, 2 * self._held)

    def _compute(self, records: list[dict]) -> dict[str, float]:
        import hotcoco

        detections = _as_detections(records, self._category_ids)
        caps = [self.max_dets]
        if self.fixed_ap:
            detections = detections[top_per_class(detections[:, 5], detections[:, 6], FIXED_AP_PER_CLASS)]
            caps = [max(1, *(len(r["scores"]) for r in records))]
        self.protocol |= {
            "ap": "fixed AP" if self.fixed_ap else "AP",
            "detections": f"no cap per image, {FIXED_AP_PER_CLASS:,} per class" if self.fixed_ap else f"{self.max_dets} per image",
            "evaluator": f"hotcoco {hotcoco.__version__}, LVIS",
        }
        image_ids = [r["image_id"] for r in records]
        curves = precision_recall(
            self._truth, detections, image_ids=image_ids, category_ids=self._category_ids.tolist(), max_dets=caps, federated=True
        )
        self.per_class_ap, counts = _class_table(self._truth, curves, records)
        self.protocol |= counts
        frequency = {c["id"]: c.get("frequency") for c in self._truth.categories}
        groups = np.array([frequency[c] or "" for c in curves.category_ids])
        named = average_precisions(curves)
        named |= {f"AP{g}": percent(curves.precision_TRKAM[:, :, groups == g, 0, -1]) for g in "rcf"}
        return {f"bbox_{name}": value for name, value in (named | average_recalls(curves)).items()}


@METRICS.register_module()
class CocoMetric(DetectionMetric):
    """COCO's twelve box numbers: AP, AP50, AP75, APs, APm, APl; AR1, AR10, AR100, ARs, ARm, ARl, as "coco/bbox_AP" and so on.

    The best `max_dets` detections of an image *and class* count (COCO's cap is per class, LVIS's is not). Other
    arguments: see `DetectionMetric`. After `evaluate`, `per_class_ap` has the AP of each class name.
    """

    default_prefix = "coco"

    def __init__(
        self,
        *,
        ann_file: str | Path | None = None,
        data_root: str | Path | None = None,
        max_dets: int = 100,
        class_names: Sequence[str] | None = None,
        allow_partial: bool = False,
        prefix: str | None = None,
        collect_device: str = "cpu",
    ) -> None:
        super().__init__(
            ann_file=ann_file,
            data_root=data_root,
            class_names=class_names,
            allow_partial=allow_partial,
            prefix=prefix,
            collect_device=collect_device,
        )
        _require_positive("max_dets", max_dets)
        self.max_dets = max_dets

    def _load(self, path: Path, names: tuple[str, ...]) -> tuple[str, tuple[int, ...]]:
        self._truth, self._category_ids = _load_categories(path, names, federated=False)
        return self._truth.sha256, tuple(i["id"] for i in self._truth.images)

    def _record(self, image_id: int, boxes_xyxy: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> dict:
        keep = top_per_class(scores, labels, self.max_dets)
        return _record(image_id, boxes_xyxy[keep], scores[keep], labels[keep], len(scores))

    def _compute(self, records: list[dict]) -> dict[str, float]:
        import hotcoco

        caps = [d for d in (1, 10) if d < self.max_dets] + [self.max_dets]
        self.protocol |= {
            "ap": "AP",
            "detections": f"{self.max_dets} per image and class",
            "evaluator": f"hotcoco {hotcoco.__version__}, COCO",
        }
        detections = _as_detections(records, self._category_ids)
        image_ids = [r["image_id"] for r in records]
        curves = precision_recall(
            self._truth, detections, image_ids=image_ids, category_ids=self._category_ids.tolist(), max_dets=caps, federated=False
        )
        self.per_class_ap, counts = _class_table(self._truth, curves, records)
        self.protocol |= counts
        named = average_precisions(curves) | {f"AR{d}": percent(curves.recall_TKAM[:, :, 0, m]) for m, d in enumerate(caps)}
        named |= {name: value for name, value in average_recalls(curves).items() if name != "AR"}
        return {f"bbox_{name}": value for name, value in named.items()}


@METRICS.register_module()
class VocMetric(DetectionMetric):
    """Pascal VOC's mAP at IoU .5: "voc/mAP" (area under the curve, VOC 2010 on) and "voc/mAP_11point" (VOC 2007).

    `ann_file` is the split, .../ImageSets/Main/NAME.txt. Difficult boxes count neither for nor against; classes without
    other boxes are left out of the mean. `img_id` is the image's name in the split, or its digits as an integer
    ("2007_000027" -> 2007000027), or its place 1, 2, ... where names have more than digits. The split's objects of
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
        return _record(image_id, boxes_xyxy, scores, labels, len(scores))

    def _compute(self, records: list[dict]) -> dict[str, float]:
        detections = _as_detections(records, np.arange(len(self._names)))
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
