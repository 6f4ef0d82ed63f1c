"""Does it read the description? Pairs of objects of one image that share the noun and differ in their class.

With names alone nothing tells the two apart: a detector that reads only the noun gets 50%.
"""
from collections.abc import Sequence
from itertools import permutations
from pathlib import Path

import numpy as np

from ovdense.evaluation.average_precision import iou_xyxy
from ovdense.evaluation.base import DetectionMetric
from ovdense.evaluation.ground_truth import load_ground_truth, require_known
from ovdense.registry import METRICS
from ovdense.structures import ClassEntry


def assign_detections(det_boxes_xyxy: np.ndarray, boxes_xyxy: np.ndarray, min_iou: float) -> np.ndarray:
    """Return for each detection the index of the box that it overlaps most, the first of equals; -1 if by less than `min_iou`."""
    if not len(boxes_xyxy):
        return np.full(len(det_boxes_xyxy), -1)
    overlap = iou_xyxy(det_boxes_xyxy, boxes_xyxy)
    return np.where(overlap.max(1) >= min_iou, overlap.argmax(1), -1)


def rank_pairs(
    labels_of_objects: Sequence[int | None], object_of_detection: np.ndarray, scores: np.ndarray, labels: np.ndarray
) -> list[tuple[int, int, float, float]]:
    """Return (a, b, score of a, score of b) for all ordered pairs of objects whose labels differ; the query is a's class.

    The score of an object is the best of the detections of a's class that belong to it, 0 if there is none. The objects
    share a noun; a label of None is a class that was not asked for: it is never a, but may be b.
    """
    best: dict[tuple[int, int], float] = {}
    for o, k, s in zip(object_of_detection.tolist(), labels.tolist(), scores.tolist()):
        if o >= 0:
            best[o, k] = max(best.get((o, k), 0.0), s)
    return [
        (a, b, best.get((a, label), 0.0), best.get((b, label), 0.0))
        for (a, label), (b, other) in permutations(enumerate(labels_of_objects), 2)
        if label is not None and label != other
    ]


def difference(a: dict, b: dict) -> str | None:
    """Return the one attribute in which two categories differ, "several", or None where "attributes" are not given."""
    if not a.get("attributes") or not b.get("attributes"):
        return None
    keys = [k for k in dict.fromkeys([*a["attributes"], *b["attributes"]]) if a["attributes"].get(k) != b["attributes"].get(k)]
    return (keys[0] if len(keys) == 1 else "several") if keys else None


@METRICS.register_module()
class PairRankingMetric(DetectionMetric):
    """How often the described object outranks another one of the same noun, in percent: "description/pair_accuracy".

    For every ordered pair (a, b) of objects of an image with the same noun and different categories, the query is a's
    class. A detection belongs to the object of that noun that it overlaps most, if by `min_iou`. The pair is right when
    the best score of a's class on a is above that on b; equal scores (none on either included) count one half.

    The annotations are in LVIS form. The noun is the category's "noun", else its name up to "_(" . With "attributes"
    ({"colour": "red", ...}) in the categories, accuracies are also given by the attribute in which the two differ; with
    "frequency", for pairs with a rare category in them ("rare") and for the others ("seen"). "ties" is the percentage of
    equal scores: a detector that finds nothing has accuracy 50 and ties 100. Needs detections of low scores: run the
    model with a score threshold near 0, or a wrong second place is taken for silence.
    Other arguments: see `DetectionMetric`.
    """

    default_prefix = "description"

    def __init__(
        self,
        *,
        ann_file: str | Path | None = None,
        data_root: str | Path | None = None,
        min_iou: float = 0.5,
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
        if not 0 < min_iou <= 1:
            raise ValueError(f"min_iou must lie in (0, 1], got {min_iou}")
        self.min_iou = min_iou

    def _load(self, path: Path, names: tuple[str, ...]) -> tuple[str, tuple[int, ...]]:
        truth = load_ground_truth(path, federated=False)
        self._category = {c["id"]: c for c in truth.categories}
        require_known(names, {c["name"] for c in truth.categories}, path)
        label_of_name = {n: k for k, n in enumerate(names)}
        self._label_of = {i: label_of_name.get(c["name"]) for i, c in self._category.items()}
        noun_of = {i: (c.get("noun") or ClassEntry(name=c["name"]).noun).casefold() for i, c in self._category.items()}
        self._groups: dict[int, dict[str, list[dict]]] = {}
        for a in truth.annotations:
            if not a.get("iscrowd"):
                self._groups.setdefault(a["image_id"], {}).setdefault(noun_of[a["category_id"]], []).append(a)
        return truth.sha256, tuple(i["id"] for i in truth.images)

    def _record(self, image_id: int, boxes_xyxy: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> dict:
        """Return the scores of all pairs of the image: rows (category of a, category of b, score of a, score of b)."""
        rows = []
        for objects in self._groups.get(image_id, {}).values():
            categories = [o["category_id"] for o in objects]
            if len(set(categories)) < 2:
                continue
            xywh = np.array([o["bbox"] for o in objects], dtype=np.float64)
            belongs = assign_detections(boxes_xyxy, np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1), self.min_iou)
            pairs = rank_pairs([self._label_of[c] for c in categories], belongs, scores, labels)
            rows += [(categories[a], categories[b], sa, sb) for a, b, sa, sb in pairs]
        return {"image_id": image_id, "pairs": np.array(rows, dtype=np.float64).reshape(-1, 4)}

    def _compute(self, records: list[dict]) -> dict[str, float]:
        pairs = np.concatenate([r["pairs"] for r in records])
        credit = np.where(pairs[:, 2] > pairs[:, 3], 1.0, np.where(pairs[:, 2] == pairs[:, 3], 0.5, 0.0))
        kinds = [(self._category[int(a)], self._category[int(b)]) for a, b in pairs[:, :2]]
        differs = np.array([difference(a, b) or "" for a, b in kinds], dtype=object)
        groups = {name: differs == name for name in sorted(set(differs)) if name}
        if any("frequency" in c for c in self._category.values()):
            rare = np.array([a.get("frequency") == "r" or b.get("frequency") == "r" for a, b in kinds], dtype=bool)
            groups |= {"rare": rare, "seen": ~rare}
        self.protocol |= {"min_iou": self.min_iou, "images_with_pairs": sum(len(r["pairs"]) > 0 for r in records), "tie": "one half"}
        named = {"pair_accuracy": _percent(credit), "pairs": len(credit), "ties": _percent(credit == 0.5)}
        for name, chosen in groups.items():
            named |= {f"pair_accuracy_{name}": _percent(credit[chosen]), f"pairs_{name}": int(chosen.sum())}
        return named


def _percent(values: np.ndarray) -> float:
    return float(100 * values.mean()) if len(values) else float("nan")
