"""OmniLabel's numbers (arXiv 2304.11463): one precision-recall curve over all (image, description) pairs of a kind.

Descriptions are too many, and most have too few boxes, for a mean over descriptions: detections of all pairs are ranked
together, so scores must be comparable between descriptions. Matching is COCO's, within each pair.
"""
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ovdense.compat.omnilabel import read_omnilabel
from ovdense.evaluation.average_precision import Curves, percent, precision_recall, top_per_class
from ovdense.evaluation.base import DetectionMetric
from ovdense.evaluation.ground_truth import GroundTruth, require_known
from ovdense.registry import METRICS

MAX_DETS = (1, 10, 100)
_EPS = 1e-5  # of the official harmonic mean, on the scale 0..1


@dataclass(frozen=True, kw_only=True)
class PairGroup:
    """What is ranked together: names of categories ("C"), free descriptions of something there ("Dp") or not ("Dn"), by number of words."""

    name: str
    kinds: tuple[str, ...]
    words: tuple[int, float] = (0, np.inf)


GROUPS = (
    PairGroup(name="categ", kinds=("C",)),
    PairGroup(name="descr", kinds=("Dp", "Dn")),
    PairGroup(name="descr-pos", kinds=("Dp",)),
    PairGroup(name="descr-S", kinds=("Dp", "Dn"), words=(0, 3)),
    PairGroup(name="descr-M", kinds=("Dp", "Dn"), words=(4, 8)),
    PairGroup(name="descr-L", kinds=("Dp", "Dn"), words=(9, np.inf)),
)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A description asked of an image: `kind` as in PairGroup, `boxes` the annotations (dicts) that it describes."""

    image_id: int
    label: int
    kind: str
    words: int
    boxes: tuple[dict, ...]


def harmonic_mean(a: float, b: float) -> float:
    """Return the official mean of two percentages (it adds 1e-5 to their sum, as shares); nan where one is unknown."""
    return float(2 * a * b / (a + b + 100 * _EPS))


def rank_together(pairs: Sequence[Pair], detections: Sequence[np.ndarray]) -> tuple[Curves | None, int]:
    """Return the curve of all pairs as of one class (None without a box to find), and the number of boxes, crowds not counted.

    `detections` per pair: (N, 5) x1, y1, x2, y2, score. Each pair is an image of its own to the matching, so the order of
    `pairs` decides between equal scores, as in the official tool.
    """
    annotations = [
        {"image_id": n, "category_id": 1, "bbox": a["bbox"], "iscrowd": int(bool(a.get("iscrowd", 0)))} for n, pair in enumerate(pairs, 1) for a in pair.boxes
    ]
    num_boxes = sum(not a["iscrowd"] for a in annotations)
    if num_boxes == 0:
        return None, 0
    counts = [len(d) for d in detections]
    found = np.concatenate([*detections, np.zeros((0, 5))])
    rows = np.column_stack(
        [np.repeat(np.arange(1, len(pairs) + 1), counts), found[:, :2], found[:, 2:4] - found[:, :2], found[:, 4], np.ones(len(found))]
    )
    images = tuple({"id": n, "height": 1, "width": 1} for n in range(1, len(pairs) + 1))
    truth = GroundTruth(path=Path(), sha256="", images=images, annotations=tuple(annotations), categories=({"id": 1, "name": "described"},))
    curves = precision_recall(truth, rows, image_ids=range(1, len(pairs) + 1), category_ids=(1,), max_dets=MAX_DETS, federated=False)
    return curves, num_boxes


@METRICS.register_module()
class OmniLabelMetric(DetectionMetric):
    """OmniLabel's AP in percent: "omnilabel/AP", the harmonic mean of "AP_categ" and "AP_descr", and "AP_descr-pos", "AP_descr-S", -M, -L.

    `ann_file` is in OmniLabel's form (see `compat.omnilabel`) and has boxes. The classes are those of `OmniLabelDetection`:
    `class_name_of` of each description. Detections of descriptions that an image is not asked for are left out; of each that it
    is asked for the best 100 count. "descr-pos": descriptions of something that is in the image; S, M, L: up to 3, 4 to 8, from
    9 words. AP50, AP75, AR (100 detections) and "boxes", the number to be found, are given likewise.

    What is asked together matters: in a detector with fused captions the other texts of a caption change the scores of each,
    and this AP compares scores between descriptions. Leaving out what was not asked equals asking only the label space
    when every caption holds one text (`classes_per_chunk` 1, published for texts of more than 2 words; shorter ones 20
    together). With more, `methods.asking.AskedTestLoop` asks each image for its own label space only; the protocol has both.
    Other arguments: see `DetectionMetric`.
    """

    default_prefix = "omnilabel"

    def _load(self, path: Path, names: tuple[str, ...]) -> tuple[str, tuple[int, ...]]:
        file = read_omnilabel(path)
        if file.annotations is None:
            raise ValueError(f"{path}: must have 'annotations' to be evaluated, it has none; is it a test split?")
        described = {d.name for d in file.descriptions.values()}
        require_known(names, described, path)
        label_of = {n: k for k, n in enumerate(names)}
        unasked = sorted(described - set(names))
        if unasked:
            raise ValueError(f"{path}: each of its {len(described)} descriptions must be a class, {len(unasked)} are not, such as {unasked[0]!r}")
        boxes: dict[tuple[int, int], list[dict]] = {}
        for a in file.annotations:
            for d in a["description_ids"]:
                boxes.setdefault((a["image_id"], d), []).append(a)
        self._pairs: dict[int, list[Pair]] = {}
        for image_id in sorted(file.asked):
            found = [(file.descriptions[d], tuple(boxes.get((image_id, d), ()))) for d in file.asked[image_id]]
            self._pairs[image_id] = [
                Pair(image_id=image_id, label=label_of[d.name], kind=("Dp" if b else "Dn") if d.is_free else "C", words=len(d.text.split()), boxes=b)
                for d, b in found
            ]
        self._labels = {i: np.array(sorted({p.label for p in pairs}), dtype=np.int64) for i, pairs in self._pairs.items()}
        return file.sha256, tuple(sorted(file.asked))

    def _record(self, image_id: int, boxes_xyxy: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> dict:
        asked = np.isin(labels, self._labels[image_id])
        keep = np.flatnonzero(asked)[top_per_class(scores[asked], labels[asked], MAX_DETS[-1])]
        detections = np.column_stack([boxes_xyxy[keep], scores[keep]]).astype(np.float64)
        return {"image_id": image_id, "detections": detections, "labels": labels[keep], "unasked": int((~asked).sum())}

    def _compute(self, records: list[dict]) -> dict[str, float]:
        import hotcoco

        pairs, detections = [], []
        for r in records:
            for pair in self._pairs[r["image_id"]]:
                pairs.append(pair)
                detections.append(r["detections"][r["labels"] == pair.label])
        self.protocol |= {
            "ap": "OmniLabel AP",
            "detections": f"{MAX_DETS[-1]} per image and description",
            "asked_pairs": len(pairs),
            "unasked_detections_left_out": sum(r["unasked"] for r in records),
            "evaluator": f"hotcoco {hotcoco.__version__}, COCO, each pair as an image",
        }
        of_group: dict[str, dict[str, float]] = {}
        for group in GROUPS:
            chosen = [n for n, p in enumerate(pairs) if p.kind in group.kinds and group.words[0] <= p.words <= group.words[1]]
            of_group[group.name] = _numbers(*rank_together([pairs[n] for n in chosen], [detections[n] for n in chosen]))
        categ, descr = of_group["categ"], of_group["descr"]
        whole = {name: categ[name] + descr[name] if name == "boxes" else harmonic_mean(categ[name], descr[name]) for name in categ}
        return whole | {f"{name}_{group}": value for group, values in of_group.items() for name, value in values.items()}


def _numbers(curves: Curves | None, boxes: int) -> dict[str, float]:
    """Return AP, AP50, AP75 and AR in percent, nan without a box to find, and the number of boxes."""
    if curves is None:
        return dict.fromkeys(("AP", "AP50", "AP75", "AR"), float("nan")) | {"boxes": boxes}
    precision, recall = curves.precision_TRKAM[:, :, :, 0, -1], curves.recall_TKAM[:, :, 0, -1]
    return {"AP": percent(precision), "AP50": percent(precision[0]), "AP75": percent(precision[5]), "AR": percent(recall), "boxes": boxes}
