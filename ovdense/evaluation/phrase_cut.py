"""PhraseCut (arXiv 2008.01187): mean IoU of all that a phrase speaks of, as one mask, with everything that was found for it."""
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from ovdense.compat.paths import data_path
from ovdense.evaluation.ground_truth import fingerprint
from ovdense.evaluation.masks import Rle, encode_masks, overlap, union_mask
from ovdense.evaluation.referring import ExpressionMetric
from ovdense.registry import METRICS
from ovdense.text.reading import Source, read_json

PRECISIONS = (0.5, 0.6, 0.7, 0.8, 0.9)
SIZES = {"small": (0.0, 0.02), "middle": (0.02, 0.2), "large": (0.2, np.inf)}
GROUPS = ("single", "multi", "many", *SIZES)


def draw_polygons(polygons: Sequence[Sequence[Sequence[float]]], size_hw: tuple[int, int]) -> np.ndarray:
    """Return the bool mask of polygons [[x, y], ...] as PhraseCut's toolkit draws them: whole pixels, outlines inside; it is not COCO's way."""
    h, w = size_hw
    mask = np.zeros((h, w), dtype=bool)
    for polygon in polygons:
        if len(polygon) < 2:
            continue
        canvas = Image.new("L", (w, h), 0)
        ImageDraw.Draw(canvas).polygon([(int(x), int(y)) for x, y in polygon], outline=1, fill=1)
        mask |= np.asarray(canvas) > 0
    return mask


@METRICS.register_module()
class PhraseCutMetric(ExpressionMetric):
    """PhraseCut in percent: "phrasecut/mIoU" (mean over phrases), "cIoU" (all pixels together), "P@0.5" to "P@0.9" (IoU above that).

    The answer is the union of the masks of all detections with a score above `score_thr`, whatever their label. Without an answer, or without
    a pixel in both, IoU is 0. By the number of instances ("mIoU_single", "multi" from 2, "many" from 5) and by the share of the image that
    they cover ("small" below 2%, "middle", "large" above 20%) too.

    `ann_file` is MDETR's (finetune_phrasecut_*.json), whose images have `task_id`. `refer_file`: PhraseCut's own refer_*.json, whose polygons are then
    drawn as its toolkit does: the published protocol. Without it the masks are those of `ann_file`, where MDETR wrote all
    polygons of an instance as one, and the protocol says so. Other arguments: see `DetectionMetric`.
    """

    default_prefix = "phrasecut"
    uses_masks = True

    def __init__(
        self,
        *,
        ann_file: str | Path | None = None,
        refer_file: str | Path | None = None,
        data_root: str | Path | None = None,
        score_thr: float = 0.7,
        class_names: Sequence[str] | None = None,
        allow_partial: bool = False,
        prefix: str | None = None,
        collect_device: str = "cpu",
    ) -> None:
        super().__init__(
            ann_file=ann_file, data_root=data_root, class_names=class_names, allow_partial=allow_partial, prefix=prefix, collect_device=collect_device
        )  # fmt: skip
        self.refer_file, self.score_thr = refer_file, score_thr

    def _reads_segmentations(self) -> bool:
        return self.refer_file is None

    def _load(self, path: Path, names: tuple[str, ...]) -> tuple[str, tuple[int, ...]]:
        sha256, image_ids = super()._load(path, names)
        self._rles: dict[int, tuple[Rle, ...]] = {i: t.rles for i, t in self._truth.items()}
        self._instances = {i: len(t.boxes_xyxy) for i, t in self._truth.items()}
        self._source = {"truth": f"{path.name}: all polygons of an instance as one, COCO's way of drawing"}
        if self.refer_file is not None:
            self._read_refer(data_path(self.refer_file, self.data_root), path)
        return sha256, image_ids

    def _read_refer(self, path: Path, ann_file: Path) -> None:
        """Take the polygons of PhraseCut's own file; ValueError names a phrase that it does not have."""
        where = Source(str(path))
        tasks = read_json(path, where)
        if not isinstance(tasks, list) or any(not {"task_id", "Polygons"} <= t.keys() for t in tasks if isinstance(t, dict)):
            raise where.error("must be a list of phrases with task_id and Polygons; is it PhraseCut's refer_*.json?")
        polygons_of = {str(t["task_id"]): t["Polygons"] for t in tasks}
        for image_id, truth in self._truth.items():
            if truth.task_id not in polygons_of:
                raise where.error(f"must have the phrase of each image of {ann_file}, image {image_id} has task_id {truth.task_id!r}, which is not in it")
            instances = polygons_of[truth.task_id]
            drawn = draw_polygons([polygon for instance in instances for polygon in instance], truth.size_hw)
            self._rles[image_id], self._instances[image_id] = tuple(encode_masks(drawn[None])), len(instances)
        self._source = {"truth": "PhraseCut's polygons, drawn as its toolkit does", "refer_sha256": fingerprint([path])}

    def _record(self, image_id: int, boxes_xyxy: np.ndarray, scores: np.ndarray, labels: np.ndarray, masks: np.ndarray) -> dict:
        answered = scores > self.score_thr
        truth = union_mask(self._rles[image_id], self._size_hw(image_id))
        pixels = overlap(masks[answered].any(0), truth)
        return {"image_id": image_id, "pixels": np.array([*pixels, truth.sum()], dtype=np.int64), "answers": int(answered.sum())}

    def _compute(self, records: list[dict]) -> dict[str, float]:
        pixels = np.stack([r["pixels"] for r in records])
        ious = pixels[:, 0] / np.maximum(pixels[:, 1], 1)
        self.protocol |= {
            "classes": "the phrase of each image",
            "answer": f"the union of all masks with a score above {self.score_thr}",
            **self._source,
            "phrases_without_an_answer": sum(r["answers"] == 0 for r in records),
        }
        instances = np.array([self._instances[r["image_id"]] for r in records])
        share = pixels[:, 2] / np.array([np.prod(self._size_hw(r["image_id"])) for r in records])
        groups = {"single": instances == 1, "multi": instances > 1, "many": instances > 4}
        groups |= {name: (low <= share) & (share < high) for name, (low, high) in SIZES.items()}
        out = _numbers(ious, pixels)
        for name, chosen in groups.items():
            out |= {f"{key}_{name}": value for key, value in _numbers(ious[chosen], pixels[chosen]).items()}
        return out


def _numbers(ious: np.ndarray, pixels: np.ndarray) -> dict[str, float]:
    if not len(ious):
        return dict.fromkeys(("mIoU", "cIoU", *(f"P@{p}" for p in PRECISIONS)), float("nan")) | {"phrases": 0}
    cumulative = float(100 * pixels[:, 0].sum() / max(pixels[:, 1].sum(), 1))
    return {"mIoU": float(100 * ious.mean()), "cIoU": cumulative, **{f"P@{p}": float(100 * (ious > p).mean()) for p in PRECISIONS}, "phrases": len(ious)}
