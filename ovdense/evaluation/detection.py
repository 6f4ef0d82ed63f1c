"""Metrics for boxes and masks: LVIS (AP and fixed AP) and COCO. Numbers are percent, nan where a group has no ground truth."""
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np

from ovdense.evaluation.average_precision import (
    Backend,
    Curves,
    IouType,
    average_precisions,
    average_recalls,
    per_class_ap,
    percent,
    precision_recall,
    top_by_score,
    top_per_class,
)
from ovdense.evaluation.base import DetectionMetric
from ovdense.evaluation.ground_truth import GroundTruth, has_area, load_ground_truth, require_known
from ovdense.evaluation.masks import Rle
from ovdense.evaluation.protocol import package_version
from ovdense.evaluation.records import as_detections, detection_record, keep_only, masks_of, require_exact
from ovdense.evaluation.results_file import write_detections
from ovdense.registry import METRICS
from ovdense.text.class_maps import ClassSplit, load_class_split

FIXED_AP_PER_CLASS = 10_000
_PRUNE_ABOVE = 4_000_000  # detections held before fixed AP drops those that can no longer count


class CategoryMetric(DetectionMetric):
    """What LVIS's and COCO's metrics share: a file of categories, AP by class, splits, masks, the engine, and the file of results.

    Args:
        iou_types: what is measured: "bbox", "segm" or both; numbers are "bbox_AP", "segm_AP" and so on. The size of a mask is its area.
        split: base and novel classes, such as "coco48_17" or "lvis866_337" (see `load_class_split`): AP and AP50 of the seen ("base"), the unseen
            ("novel") and all of them, "bbox_AP50_novel" and so on. The numbers are the generalised ones when all were asked for.
        backend: "hotcoco", or the official tool as a slow reference: "lvis" for LVIS, "pycocotools" for COCO.
        results_file: write what was evaluated in COCO's result form, which the official tools read back to the same numbers: FILE.json; with
            masks FILE.bbox.json and FILE.segm.json, the latter without boxes, since those tools else take a mask's size from its box.

    Masks may come as run lengths too: a list of {"size": [H, W], "counts": bytes}, pycocotools' compressed form.

    After `evaluate`: `per_class_ap`, the box AP of each class name, and `per_class`, AP and AP50 by "bbox" and "segm", and "objects".
    """

    federated: bool
    reference: Backend
    takes_run_lengths = True

    def __init__(
        self,
        *,
        ann_file: str | Path | None,
        data_root: str | Path | None,
        iou_types: Sequence[IouType] | IouType,
        split: str | Path | Mapping[str, Any] | ClassSplit | None,
        backend: Backend,
        results_file: str | Path | None,
        class_names: Sequence[str] | None,
        allow_partial: bool,
        prefix: str | None,
        collect_device: str,
    ) -> None:
        super().__init__(
            ann_file=ann_file, data_root=data_root, class_names=class_names, allow_partial=allow_partial, prefix=prefix, collect_device=collect_device
        )  # fmt: skip
        self.iou_types = (iou_types,) if isinstance(iou_types, str) else tuple(iou_types)
        if not self.iou_types or set(self.iou_types) - set(get_args(IouType)) or len(set(self.iou_types)) < len(self.iou_types):
            raise ValueError(f"iou_types must be among {', '.join(get_args(IouType))}, each once, got {self.iou_types}")
        if backend not in ("hotcoco", self.reference):
            raise ValueError(f"backend must be hotcoco or {self.reference}, got {backend!r}")
        if results_file is not None and Path(results_file).suffix != ".json":
            raise ValueError(f"results_file must end with .json, got {str(results_file)!r}")
        self.uses_masks = "segm" in self.iou_types
        self.split = None if split is None else load_class_split(split)
        self.backend, self.results_file = backend, results_file

    def _load(self, path: Path, names: tuple[str, ...]) -> tuple[str, tuple[int, ...]]:
        self._truth, self._category_ids = _load_categories(path, names, federated=self.federated, masks=self.uses_masks)
        if self.split is not None:
            self._split_labels = self.split.indices(names)
        self._sizes = {i["id"]: (i.get("height"), i.get("width")) for i in self._truth.images}
        return self._truth.sha256, tuple(i["id"] for i in self._truth.images)

    def _size_hw(self, image_id: int) -> tuple[int, int]:
        return self._sizes[image_id]

    def _best(
        self, image_id: int, keep: np.ndarray, boxes_xyxy: np.ndarray, scores: np.ndarray, labels: np.ndarray, masks: np.ndarray | None
    ) -> dict:
        """Return the record of the detections `keep` (indices)."""
        size = (0, 0) if masks is None else self._sizes[image_id]
        kept = None if masks is None else masks[keep]
        return detection_record(image_id, boxes_xyxy[keep], scores[keep], labels[keep], len(scores), kept, size)

    @abstractmethod
    def _chosen(self, detections: np.ndarray) -> np.ndarray | None:
        """Return the indices of the detections that count over the data set, None for all."""

    @abstractmethod
    def _caps(self, records: list[dict]) -> list[int]:
        """Return the caps per image and class of the evaluator."""

    @abstractmethod
    def _numbers(self, curves: Curves) -> dict[str, float]:
        """Return the named numbers of one kind of overlap."""

    @abstractmethod
    def _ap_protocol(self) -> dict[str, str | int | float]:
        """Return which AP it is and how many detections count."""

    def _compute(self, records: list[dict]) -> dict[str, float]:
        detections = as_detections(records, self._category_ids)
        rles = masks_of(records) if self.uses_masks else None
        caps, chosen = self._caps(records), self._chosen(detections)
        if chosen is not None:
            detections, rles = detections[chosen], None if rles is None else [rles[n] for n in chosen.tolist()]
        image_ids = [r["image_id"] for r in records]
        curves = {kind: self._curves(kind, detections, rles, image_ids, caps) for kind in self.iou_types}
        if self.results_file is not None:
            write_detections(self.results_file, detections, rles, self.iou_types)
        self._describe_classes(curves, set(image_ids))
        self.protocol |= self._ap_protocol() | {
            "evaluator": f"{self.backend} {package_version(self.backend)}, {'LVIS' if self.federated else 'COCO'}",
            "classes_in_file": len(self._truth.categories),
            "classes_with_truth": sum(c["objects"] > 0 for c in self.per_class.values()),
            "most_predicted_in_an_image": max(r["num_predicted"] for r in records),
        }
        if self.uses_masks:
            self.protocol["segm_size"] = "by the mask's area"
        if self.split is not None:
            self.protocol["split"] = f"{self.split.name}: {len(self.split.seen)} base, {len(self.split.unseen)} novel; {len(self._names)} classes asked"
        return {f"{kind}_{name}": value for kind, c in curves.items() for name, value in (self._numbers(c) | self._split_numbers(c)).items()}

    def _curves(self, kind: IouType, detections: np.ndarray, rles: list[Rle] | None, image_ids: list[int], caps: list[int]) -> Curves:
        return precision_recall(
            self._truth, detections, image_ids=image_ids, category_ids=self._category_ids.tolist(), max_dets=caps, federated=self.federated,
            iou_type=kind, rles=rles if kind == "segm" else None, backend=self.backend,
        )  # fmt: skip

    def _split_numbers(self, curves: Curves) -> dict[str, float]:
        """Return AP and AP50 of base, novel and both kinds of classes."""
        if self.split is None:
            return {}
        base, novel = ({int(self._category_ids[k]) for k in labels} for labels in self._split_labels)
        out: dict[str, float] = {}
        for name, ids in (("base", base), ("novel", novel), ("all", base | novel)):
            chosen = curves.precision_TRKAM[:, :, [c in ids for c in curves.category_ids], 0, -1]
            out |= {f"AP_{name}": percent(chosen), f"AP50_{name}": percent(chosen[0])}
        return out

    def _describe_classes(self, curves: Mapping[IouType, Curves], image_ids: set[int]) -> None:
        """Set `per_class` and `per_class_ap`."""
        name_of = {int(c): n for c, n in zip(self._category_ids, self._names)}
        objects = dict.fromkeys(name_of, 0)
        for a in self._truth.annotations:
            if a["category_id"] in objects and a["image_id"] in image_ids:
                objects[a["category_id"]] += (not a.get("ignore") and has_area(a)) if self.federated else not a.get("iscrowd")
        self.per_class = {name: {"objects": objects[c]} for c, name in name_of.items()}
        for kind, found in curves.items():
            for key, aps in (("AP", per_class_ap(found)), ("AP50", per_class_ap(found, 0))):
                for c, value in aps.items():
                    self.per_class[name_of[c]][f"{kind}_{key}"] = value
        self.per_class_ap = {name: values[f"{self.iou_types[0]}_AP"] for name, values in self.per_class.items()}


@METRICS.register_module()
class LvisMetric(CategoryMetric):
    """LVIS v1 AP: AP, AP50, AP75, APs, APm, APl, APr, APc, APf and AR at `max_dets`, as "lvis/bbox_AP", "lvis/segm_AP" and so on.

    `max_dets` detections of an image count, over all classes (300 in LVIS v1). `fixed_ap` (arXiv 2102.01066): no cap
    per image, the best 10,000 of each class over the data set; `max_dets` must then be left out. The model's own cap
    must be lifted for fixed AP to mean anything: the protocol has the largest number that came in for an image.
    Other arguments: see `CategoryMetric` and `DetectionMetric`.
    """

    default_prefix = "lvis"
    federated, reference = True, "lvis"

    def __init__(
        self,
        *,
        ann_file: str | Path | None = None,
        data_root: str | Path | None = None,
        max_dets: int | None = None,
        fixed_ap: bool = False,
        iou_types: Sequence[IouType] | IouType = ("bbox",),
        split: str | Path | Mapping[str, Any] | ClassSplit | None = None,
        backend: Backend = "hotcoco",
        results_file: str | Path | None = None,
        class_names: Sequence[str] | None = None,
        allow_partial: bool = False,
        prefix: str | None = None,
        collect_device: str = "cpu",
    ) -> None:
        super().__init__(
            ann_file=ann_file, data_root=data_root, iou_types=iou_types, split=split, backend=backend, results_file=results_file,
            class_names=class_names, allow_partial=allow_partial, prefix=prefix, collect_device=collect_device,
        )  # fmt: skip
        if fixed_ap and max_dets is not None:
            raise ValueError(f"fixed AP has no cap per image: max_dets must be left out with fixed_ap=True, got {max_dets}")
        self.fixed_ap, self.max_dets = fixed_ap, 300 if max_dets is None else max_dets
        _require_positive("max_dets", self.max_dets)
        self._held, self._prune_at = 0, _PRUNE_ABOVE

    def _load(self, path: Path, names: tuple[str, ...]) -> tuple[str, tuple[int, ...]]:
        loaded = super()._load(path, names)
        self._row_of, label_of = {i: n for n, i in enumerate(loaded[1])}, {int(c): k for k, c in enumerate(self._category_ids)}
        self._judged_KN = np.zeros((len(names), len(loaded[1])), dtype=bool)
        known = [(a["category_id"], a["image_id"]) for a in self._truth.annotations if has_area(a)]
        known += [(c, i["id"]) for i in self._truth.images for c in i["neg_category_ids"]]
        for category_id, image_id in known:
            if category_id in label_of:
                self._judged_KN[label_of[category_id], self._row_of[image_id]] = True
        return loaded

    def _record(self, image_id: int, boxes_xyxy: np.ndarray, scores: np.ndarray, labels: np.ndarray, masks: np.ndarray | None = None) -> dict:
        if not self.fixed_ap:
            keep = top_by_score(scores, self.max_dets)
            if self.results_file is None:  # the others count neither for nor against, and are most of the memory
                keep = keep[self._judged_KN[labels[keep], self._row_of[image_id]]]
            return self._best(image_id, keep, boxes_xyxy, scores, labels, masks)
        if not self.results:
            self._held, self._prune_at = 0, _PRUNE_ABOVE
        self._held += len(scores)
        if self._held > self._prune_at:
            self._prune()
        return self._best(image_id, np.arange(len(scores)), boxes_xyxy, scores, labels, masks)

    def _prune(self) -> None:
        """Drop detections below the 10,000th score of their class so far: they can no longer count. Ties stay."""
        scores, labels = (np.concatenate([r[k] for r in self.results] or [np.zeros(0)]) for k in ("scores", "labels"))
        threshold = np.full(len(self._names), -np.inf)
        order = np.lexsort((-scores, labels))
        starts = np.searchsorted(labels[order], np.arange(len(self._names) + 1))
        full = np.flatnonzero(np.diff(starts) > FIXED_AP_PER_CLASS)
        threshold[full] = scores[order[starts[full] + FIXED_AP_PER_CLASS - 1]]
        for r in self.results:
            keep_only(r, r["scores"] >= threshold[r["labels"]])
        self._held = sum(len(r["scores"]) for r in self.results)
        self._prune_at = max(_PRUNE_ABOVE, 2 * self._held)

    def _chosen(self, detections: np.ndarray) -> np.ndarray | None:
        return top_per_class(detections[:, 5], detections[:, 6], FIXED_AP_PER_CLASS) if self.fixed_ap else None

    def _caps(self, records: list[dict]) -> list[int]:
        return [max(1, *(len(r["scores"]) for r in records))] if self.fixed_ap else [self.max_dets]

    def _ap_protocol(self) -> dict[str, str | int | float]:
        capped = f"no cap per image, {FIXED_AP_PER_CLASS:,} per class" if self.fixed_ap else f"{self.max_dets} per image"
        return {"ap": "fixed AP" if self.fixed_ap else "AP", "detections": capped}

    def _numbers(self, curves: Curves) -> dict[str, float]:
        frequency = {c["id"]: c.get("frequency") for c in self._truth.categories}
        groups = np.array([frequency[c] or "" for c in curves.category_ids])
        of_groups = {f"AP{g}": percent(curves.precision_TRKAM[:, :, groups == g, 0, -1]) for g in "rcf"}
        return average_precisions(curves) | of_groups | average_recalls(curves)


@METRICS.register_module()
class CocoMetric(CategoryMetric):
    """COCO's twelve numbers: AP, AP50, AP75, APs, APm, APl; AR1, AR10, AR100, ARs, ARm, ARl, as "coco/bbox_AP", "coco/segm_AP" and so on.

    The best `max_dets` detections of an image *and class* count (COCO's cap is per class, LVIS's is not). Other
    arguments: see `CategoryMetric` and `DetectionMetric`.
    """

    default_prefix = "coco"
    federated, reference = False, "pycocotools"

    def __init__(
        self,
        *,
        ann_file: str | Path | None = None,
        data_root: str | Path | None = None,
        max_dets: int = 100,
        iou_types: Sequence[IouType] | IouType = ("bbox",),
        split: str | Path | Mapping[str, Any] | ClassSplit | None = None,
        backend: Backend = "hotcoco",
        results_file: str | Path | None = None,
        class_names: Sequence[str] | None = None,
        allow_partial: bool = False,
        prefix: str | None = None,
        collect_device: str = "cpu",
    ) -> None:
        super().__init__(
            ann_file=ann_file, data_root=data_root, iou_types=iou_types, split=split, backend=backend, results_file=results_file,
            class_names=class_names, allow_partial=allow_partial, prefix=prefix, collect_device=collect_device,
        )  # fmt: skip
        _require_positive("max_dets", max_dets)
        self.max_dets = max_dets

    def _record(self, image_id: int, boxes_xyxy: np.ndarray, scores: np.ndarray, labels: np.ndarray, masks: np.ndarray | None = None) -> dict:
        return self._best(image_id, top_per_class(scores, labels, self.max_dets), boxes_xyxy, scores, labels, masks)

    def _chosen(self, detections: np.ndarray) -> np.ndarray | None:
        return None

    def _caps(self, records: list[dict]) -> list[int]:
        return [d for d in (1, 10) if d < self.max_dets] + [self.max_dets]

    def _ap_protocol(self) -> dict[str, str | int | float]:
        return {"ap": "AP", "detections": f"{self.max_dets} per image and class"}

    def _numbers(self, curves: Curves) -> dict[str, float]:
        recalls = {f"AR{d}": percent(curves.recall_TKAM[:, :, 0, m]) for m, d in enumerate(self._caps([]))}
        return average_precisions(curves) | recalls | {name: value for name, value in average_recalls(curves).items() if name != "AR"}


def _require_positive(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")


def _load_categories(path: Path, names: Sequence[str], *, federated: bool, masks: bool) -> tuple[GroundTruth, np.ndarray]:
    """Return the file and its category id of each class of `names`."""
    truth = load_ground_truth(path, federated=federated, masks=masks)
    id_of = {c["name"]: c["id"] for c in truth.categories}
    if len(id_of) < len(truth.categories):
        raise ValueError(f"{path}: category names must be unique, got {len(id_of)} names for {len(truth.categories)} categories")
    require_known(names, id_of, path)
    require_exact(id_of.values(), f"{path}: ids of categories")
    return truth, np.array([id_of[n] for n in names], dtype=np.int64)
