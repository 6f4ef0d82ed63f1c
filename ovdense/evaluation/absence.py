"""Absence: does a detector stay silent when it is asked for what is not there? (N-acc and T-acc after gRefCOCO, arXiv 2308.16182)"""
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ovdense.evaluation.base import DetectionMetric
from ovdense.evaluation.ground_truth import load_ground_truth, require_known
from ovdense.registry import METRICS


def ranking(present: np.ndarray, absent: np.ndarray) -> float:
    """Return how often a score of `present` is above one of `absent`, equal ones half, in percent (area under the ROC curve); nan without both."""
    if not len(present) or not len(absent):
        return float("nan")
    ordered = np.sort(absent)
    below, upto = np.searchsorted(ordered, present, side="left"), np.searchsorted(ordered, present, side="right")
    return float(100 * (below + upto).mean() / (2 * len(absent)))


@METRICS.register_module()
class AbsenceMetric(DetectionMetric):
    """Answers to classes that an image does not show, in percent: "absence/N-acc", "false_positives", "T-acc", "AUROC".

    An image and a class of which it is known whether it is there are a pair; its score is that of the class's best detection, 0 for none.
    "N-acc": pairs with nothing there whose score is below `score_thr`; "false_positives": the rest of them; "T-acc": pairs with
    something there whose score reaches it. "AUROC" needs no threshold: how often what is there scores above what is not.

    In an LVIS file absent classes are those of neg_category_ids; in a COCO file (no image has such a list) all that have no object, where crowds
    count as being there. Needs detections of low scores for AUROC. Other arguments: see `DetectionMetric`. After `evaluate`, `per_class`
    has N-acc, T-acc and the numbers of pairs of each class.
    """

    default_prefix = "absence"

    def __init__(
        self,
        *,
        ann_file: str | Path | None = None,
        data_root: str | Path | None = None,
        score_thr: float = 0.3,
        class_names: Sequence[str] | None = None,
        allow_partial: bool = False,
        prefix: str | None = None,
        collect_device: str = "cpu",
    ) -> None:
        super().__init__(
            ann_file=ann_file, data_root=data_root, class_names=class_names, allow_partial=allow_partial, prefix=prefix, collect_device=collect_device
        )  # fmt: skip
        if not 0 < score_thr <= 1:
            raise ValueError(f"score_thr must lie in (0, 1], got {score_thr}")
        self.score_thr = score_thr

    def _load(self, path: Path, names: tuple[str, ...]) -> tuple[str, tuple[int, ...]]:
        truth = load_ground_truth(path, federated=False)
        require_known(names, {c["name"] for c in truth.categories}, path)
        label_of_name = {n: k for k, n in enumerate(names)}
        label_of = {c["id"]: label_of_name[c["name"]] for c in truth.categories if c["name"] in label_of_name}
        there: dict[int, set[int]] = {i["id"]: set() for i in truth.images}
        for a in truth.annotations:
            if a["category_id"] in label_of:
                there[a["image_id"]].add(label_of[a["category_id"]])
        self._listed = any("neg_category_ids" in i for i in truth.images)
        self._pairs: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        for i in truth.images:
            present = there[i["id"]]
            absent = {label_of[c] for c in i.get("neg_category_ids", ()) if c in label_of} if self._listed else set(range(len(names)))
            labels = np.array(sorted(present | absent), dtype=np.int32)
            self._pairs[i["id"]] = labels, np.array([k in present for k in labels.tolist()], dtype=bool)
        return truth.sha256, tuple(self._pairs)

    def _record(self, image_id: int, boxes_xyxy: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> dict:
        best = np.zeros(len(self._names), dtype=np.float32)
        np.maximum.at(best, labels, scores)
        asked, present = self._pairs[image_id]
        return {"image_id": image_id, "labels": asked, "present": present, "best": best[asked]}

    def _compute(self, records: list[dict]) -> dict[str, float]:
        labels, present, best = (np.concatenate([r[key] for r in records]) for key in ("labels", "present", "best"))
        answered = best >= self.score_thr
        self.protocol |= {
            "score_thr": self.score_thr,
            "absent_classes": "neg_category_ids of each image" if self._listed else "all without an object in the image",
        }
        self.per_class = {}
        for k, name in enumerate(self._names):
            mine = labels == k
            self.per_class[name] = _numbers(present[mine], answered[mine])
        return _numbers(present, answered) | {"AUROC": ranking(best[present], best[~present])}


def _numbers(present: np.ndarray, answered: np.ndarray) -> dict[str, float]:
    n_acc = float(100 * (~answered[~present]).mean()) if (~present).any() else float("nan")
    t_acc = float(100 * answered[present].mean()) if present.any() else float("nan")
    return {"N-acc": n_acc, "false_positives": 100 - n_acc, "T-acc": t_acc, "absent": int((~present).sum()), "present": int(present.sum())}
