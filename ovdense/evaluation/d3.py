"""D3's numbers (Described Object Detection, arXiv 2307.12813): COCO's mean AP over descriptions, by kind and by length."""
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from ovdense.compat.d3 import SCENARIOS, asked_ids, read_d3, read_d3_info
from ovdense.compat.paths import data_path
from ovdense.evaluation.average_precision import average_precisions, per_class_ap, percent, precision_recall, top_per_class
from ovdense.evaluation.base import DetectionMetric
from ovdense.evaluation.ground_truth import GroundTruth, require_known
from ovdense.registry import METRICS

MAX_DETS = 100
LENGTHS = {"short": (1, 3), "middle": (4, 6), "long": (7, 9), "very-long": (10, np.inf)}


def num_words(text: str) -> int:
    """Return the number of words as the official script counts them: parts between single blanks."""
    return len(text.split(" "))


@METRICS.register_module()
class D3Metric(DetectionMetric):
    """D3's mAP in percent over all descriptions, "d3_intra/AP" (FULL), and over those of a presence ("AP_pres") or an absence ("AP_abs").

    `ann_file` is d3_full_annotations.json; `info` the folder of the d3_pkl files (see `compat.d3`), both under the data root.
    The classes are those of `D3Detection`: `class_name_of` of each description. `scenario`:

    - "intra" (the paper's default): an image is asked for the descriptions of its own group; detections, and boxes, of others
      are left out there;
    - "inter": every description is asked of every image. Boxes are those of the file; the published one may hold only those
      of each image's own group, and the protocol says how many are of others ("boxes_of_other_groups").

    By number of words: "AP_short" (1-3), "AP_middle" (4-6), "AP_long" (7-9), "AP_very-long" (10 and more). A description
    without a box to find is in no mean; "descriptions" counts the others. 100 detections per image and description. An
    annotation of id 0 is a box as any other (pycocotools takes it for one that is never found). What is asked together
    matters for the scores as described at `OmniLabelMetric`.
    Other arguments: see `DetectionMetric`. After `evaluate`, `per_class_ap` has the AP of each class.
    """

    def __init__(
        self,
        *,
        ann_file: str | Path | None = None,
        data_root: str | Path | None = None,
        info: str | Path = "d3_pkl",
        scenario: Literal["intra", "inter"] = "intra",
        class_names: Sequence[str] | None = None,
        allow_partial: bool = False,
        prefix: str | None = None,
        collect_device: str = "cpu",
    ) -> None:
        if scenario not in SCENARIOS:
            raise ValueError(f"scenario must be one of {', '.join(SCENARIOS)}, got {scenario!r}")
        super().__init__(
            ann_file=ann_file,
            data_root=data_root,
            class_names=class_names,
            allow_partial=allow_partial,
            prefix=prefix or f"d3_{scenario}",
            collect_device=collect_device,
        )
        self.info, self.scenario = info, scenario

    def _load(self, path: Path, names: tuple[str, ...]) -> tuple[str, tuple[int, ...]]:
        self._file = file = read_d3(path)
        folder = data_path(self.info, self.data_root)
        info = read_d3_info(folder)
        require_known(names, set(file.names.values()), path)
        label_of = {n: k for k, n in enumerate(names)}
        without = [i for i, n in file.names.items() if n not in label_of]
        if without:
            raise ValueError(f"{path}: each of its {len(file.names)} descriptions must be a class, {len(without)} are not, such as {file.texts[without[0]]!r}")
        self._absence = info.absence
        self._label_of = {i: label_of[n] for i, n in file.names.items()}
        self._asked = asked_ids(file, info, self.scenario, folder)
        self._labels = {i: np.array(sorted({self._label_of[d] for d in ids}), dtype=np.int64) for i, ids in self._asked.items()}
        own = {i: frozenset(info.asked.get(i, ())) for i in self._asked}
        self._of_others = sum(a["category_id"] not in own[a["image_id"]] for a in file.annotations)
        return file.sha256, tuple(i["id"] for i in file.images)

    def _record(self, image_id: int, boxes_xyxy: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> dict:
        asked = np.isin(labels, self._labels[image_id])
        keep = np.flatnonzero(asked)[top_per_class(scores[asked], labels[asked], MAX_DETS)]
        detections = np.column_stack([boxes_xyxy[keep, :2], boxes_xyxy[keep, 2:] - boxes_xyxy[keep, :2], scores[keep]]).astype(np.float64)
        return {"image_id": image_id, "detections": detections, "labels": labels[keep], "unasked": int((~asked).sum())}

    def _rows(self, record: dict) -> np.ndarray:
        """Return the detections (N, 7) of an image for each description id that it is asked for; some ids may share a class."""
        parts = [np.zeros((0, 7))]
        for i in self._asked[record["image_id"]]:
            found = record["detections"][record["labels"] == self._label_of[i]]
            if len(found):
                parts.append(np.column_stack([np.full(len(found), record["image_id"]), found, np.full(len(found), i)]))
        return np.concatenate(parts)

    def _compute(self, records: list[dict]) -> dict[str, float]:
        import hotcoco

        file = self._file
        asked = {i: frozenset(ids) for i, ids in self._asked.items()}
        truth = GroundTruth(
            path=file.path,
            sha256=file.sha256,
            images=file.images,
            annotations=tuple(a for a in file.annotations if a["category_id"] in asked[a["image_id"]]),
            categories=tuple({"id": i, "name": t} for i, t in file.texts.items()),
        )
        rows = np.concatenate([self._rows(r) for r in records])
        image_ids = [r["image_id"] for r in records]
        curves = precision_recall(truth, rows, image_ids=image_ids, category_ids=tuple(file.texts), max_dets=(1, 10, MAX_DETS), federated=False)
        ap_of = per_class_ap(curves)
        self.per_class_ap = {f"{file.texts[i]} ({i})" if list(file.texts.values()).count(file.texts[i]) > 1 else file.texts[i]: ap for i, ap in ap_of.items()}
        self.protocol |= {
            "ap": "D3 mAP",
            "scenario": self.scenario,
            "detections": f"{MAX_DETS} per image and description",
            "unasked_detections_left_out": sum(r["unasked"] for r in records),
            "boxes_of_other_groups": self._of_others,
            "evaluator": f"hotcoco {hotcoco.__version__}, COCO",
        }
        ids = np.array(curves.category_ids)
        absent = np.isin(ids, list(self._absence))
        words = np.array([num_words(file.texts[i]) for i in curves.category_ids])
        groups = {"pres": ~absent, "abs": absent} | {name: (low <= words) & (words <= high) for name, (low, high) in LENGTHS.items()}
        named = average_precisions(curves) | {"descriptions": sum(not np.isnan(ap) for ap in ap_of.values())}
        for name, chosen in groups.items():
            precision = curves.precision_TRKAM[:, :, chosen, 0, -1]
            named |= {
                f"AP_{name}": percent(precision),
                f"AP50_{name}": percent(precision[0]),
                f"AP75_{name}": percent(precision[5]),
                f"descriptions_{name}": sum(not np.isnan(ap_of[i]) for i in ids[chosen].tolist()),
            }
        return named
