"""What the metrics share: one checked record per image, matched classes and images, and the protocol.

A record is a dict of integers and small numpy arrays; those of several processes are gathered through files.
"""
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from mmengine.evaluator import BaseMetric
from torch import Tensor

from ovdense.compat.segmentations import all_fill
from ovdense.evaluation.gather import evaluate_together
from ovdense.evaluation.ground_truth import annotation_path, class_names_of, require_coverage
from ovdense.evaluation.protocol import NOT_STATED
from ovdense.structures import Vocabulary


class ReportedMetric(BaseMetric):
    """A metric that says what its numbers depend on.

    After `evaluate`, on the main process: `protocol`, and `per_class`, {class name: {number's name: value}} where it applies.
    Who runs the model tells what the metric cannot know through `conditions`, such as {"prompt": "descriptions",
    "classes_per_chunk": 8}; the dataset's metainfo['protocol'] and metainfo['prompt'] are read as well. What nobody told
    is "not stated".
    """

    def __init__(self, *, prefix: str | None = None, collect_device: str = "cpu") -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.conditions: dict[str, str | int | float] = {}
        self.protocol: dict[str, str | int | float] = {}
        self.per_class: dict[str, dict[str, float]] = {}

    def evaluate(self, size: int) -> dict[str, float]:
        """Return the numbers of all processes' records, on every process; `size` is the data set's length."""
        named = evaluate_together(self.results, size, self.compute_metrics, self.collect_dir)
        self.results.clear()
        return {f"{self.prefix}/{name}" if self.prefix else name: value for name, value in named.items()}

    def _told(self) -> dict[str, str | int | float]:
        """Return what the data set and who runs the model say."""
        meta = self.dataset_meta or {}
        stated = {"prompt": meta.get("prompt") or NOT_STATED, "classes_per_chunk": NOT_STATED}
        return stated | dict(meta.get("protocol", {})) | self.conditions


class AnnotatedMetric(ReportedMetric):
    """A metric against an annotation file, one record an image: the images measured must be those of the file.

    Args:
        ann_file: the annotation file, under the data root; by default the dataset's metainfo['ann_file'].
        data_root: see `ovdense.compat.paths.data_path`.
        class_names: the class of each label.
        allow_partial: evaluate the processed images only, instead of raising when images of the file are missing.

    After `evaluate`: see `ReportedMetric`.
    """

    def __init__(
        self,
        *,
        ann_file: str | Path | None = None,
        data_root: str | Path | None = None,
        class_names: Sequence[str] | None = None,
        allow_partial: bool = False,
        prefix: str | None = None,
        collect_device: str = "cpu",
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.ann_file, self.data_root = ann_file, data_root
        self.class_names, self.allow_partial = class_names, allow_partial
        self.per_class_ap: dict[str, float] = {}
        self._ready_for: tuple | None = None

    def compute_metrics(self, results: list[dict]) -> dict[str, float]:
        """Return the named numbers (percent unless said otherwise, nan where there is no ground truth) of all records."""
        self._prepare()
        require_coverage([r["image_id"] for r in results], self._expected_images, self._path, allow_partial=self.allow_partial)
        position = {i: n for n, i in enumerate(self._expected_images)}
        records = sorted(results, key=lambda r: position[r["image_id"]])
        self.protocol = {
            "annotations": self._path.name,
            "ann_sha256": self._sha256,
            "images": len(records),
            "images_in_file": len(self._expected_images),
            "classes": len(self._names),
            "class_names_sha256": Vocabulary.of(self._names).fingerprint(),
            **self._told(),
        }
        return self._compute(records)

    @abstractmethod
    def _load(self, path: Path, names: tuple[str, ...]) -> tuple[str, tuple[int, ...]]:
        """Read the file, match `names`; return its fingerprint and all its image ids."""

    @abstractmethod
    def _compute(self, records: list[dict]) -> dict[str, float]:
        """Return the numbers; `records` are one per image, in the order of the file."""

    def _prepare(self) -> None:
        path = annotation_path(self.ann_file, self.data_root, self.dataset_meta)
        names = class_names_of(self.class_names, self.dataset_meta)
        if self._ready_for == (path, names):
            return
        if self.results and self._ready_for is not None:
            raise ValueError("classes and annotation file must stay the same until evaluate is called, got others in between")
        self._path, self._names = path, names
        self._sha256, self._expected_images = self._load(path, names)
        self._known_images = frozenset(self._expected_images)
        self._ready_for = (path, names)

    def _image_id(self, img_id: object) -> int:
        try:
            image_id = int(img_id)
        except (TypeError, ValueError):
            raise ValueError(f"img_id must be an integer id of {self._path}, got {img_id!r}") from None
        if image_id not in self._known_images:
            raise ValueError(
                f"image {image_id} must be one of the {len(self._known_images)} images of {self._path}; is it the dataset's own file?"
            )
        return image_id


class DetectionMetric(AnnotatedMetric):
    """A metric over boxes: data samples are dicts with `img_id` and `pred_instances` {bboxes, scores, labels}, and masks where they are measured.

    Boxes are xyxy in pixels of the original file (x2 = x1 + width), masks bool (N, H, W) of its size; label k is class k of
    `class_names`, by default the dataset's metainfo['classes'], and is matched to the annotation file by name.
    Arguments: see `AnnotatedMetric`. After `evaluate`: see `ReportedMetric`; `per_class_ap` has the AP of each class where it applies.
    """

    uses_masks, takes_run_lengths = False, False

    def process(self, data_batch: object, data_samples: Sequence[dict]) -> None:
        """Check and keep the predictions of one batch; the first call also reads the annotation file."""
        self._prepare()
        for sample in data_samples:
            image_id = self._image_id(sample.get("img_id"))
            instances = sample.get("pred_instances")
            found = self._checked(image_id, instances)
            masks = {"masks": self._checked_masks(image_id, instances, len(found[1]))} if self.uses_masks else {}
            self.results.append(self._record(image_id, *found, **masks))

    @abstractmethod
    def _record(self, image_id: int, boxes_xyxy: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> dict:
        """Return what to keep of one image; has the key image_id. With `uses_masks` there is the argument `masks`, (N, H, W) bool, too."""

    def _size_hw(self, image_id: int) -> tuple[int, int]:
        """Return height and width of an image's file; for metrics of masks."""
        raise NotImplementedError

    def _checked(self, image_id: int, instances: dict | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        fields = ("bboxes", "scores", "labels")
        if instances is None or any(f not in instances for f in fields):
            got = sorted(instances) if instances else instances
            raise ValueError(f"image {image_id}: pred_instances must have {', '.join(fields)}, got {got}")
        boxes, scores, labels = (as_array(instances[f]) for f in fields)
        n = scores.size
        if scores.shape != (n,) or labels.shape != (n,) or (boxes.shape != (n, 4) and boxes.size + n > 0):
            got = f"{boxes.shape}, {scores.shape}, {labels.shape}"
            raise ValueError(f"image {image_id}: bboxes, scores, labels must have shapes (N, 4), (N,), (N,), got {got}")
        if n and (boxes.dtype.kind not in "iuf" or scores.dtype.kind not in "iuf" or labels.dtype.kind not in "iu"):
            got = f"{boxes.dtype}, {scores.dtype}, {labels.dtype}"
            raise ValueError(f"image {image_id}: bboxes and scores must be numbers and labels integers, got {got}")
        boxes, scores = boxes.reshape(n, 4).astype(np.float32), scores.astype(np.float32)
        if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
            raise ValueError(f"image {image_id}: boxes and scores must be finite, got nan or infinity; has the model diverged?")
        if len(labels) and not 0 <= labels.min() <= labels.max() < len(self._names):
            raise ValueError(
                f"image {image_id}: labels must lie in 0..{len(self._names) - 1}, got {labels.min()}..{labels.max()}; "
                "give the model the vocabulary of the dataset"
            )
        return boxes, scores, labels.astype(np.int32)

    def _checked_masks(self, image_id: int, instances: dict, count: int) -> np.ndarray:
        size_hw = self._size_hw(image_id)
        if "masks" not in instances:
            raise ValueError(f"image {image_id}: pred_instances must have masks to be measured, got {sorted(instances)}; does the model predict them?")
        if self.takes_run_lengths and isinstance(instances["masks"], (list, tuple)) and (not count or isinstance(instances["masks"][0], dict)):
            return self._checked_run_lengths(image_id, instances["masks"], count, size_hw)
        masks = as_array(instances["masks"])
        if masks.shape != (count, *size_hw) and (count or masks.size):
            raise ValueError(f"image {image_id}: masks must have the shape {(count, *size_hw)} of the file, got {masks.shape}")
        if count and masks.dtype != bool and not (masks.dtype.kind in "iu" and (not masks.size or 0 <= masks.min() <= masks.max() <= 1)):
            raise ValueError(f"image {image_id}: masks must be bool, got {masks.dtype}; threshold the scores first")
        return masks.reshape(count, *size_hw).astype(bool, copy=False)

    def _checked_run_lengths(self, image_id: int, given: Sequence[dict], count: int, size_hw: tuple[int, int]) -> np.ndarray:
        """Return RLEs as an array of objects (N,)."""
        wrong = [r for r in given if not isinstance(r, dict) or list(r.get("size", ())) != list(size_hw) or not isinstance(r.get("counts"), bytes)]
        if len(given) != count or wrong:
            got = f"{len(given)} for {count} boxes" + (f", one of size {wrong[0].get('size')}" if wrong and isinstance(wrong[0], dict) else "")
            raise ValueError(f"image {image_id}: masks as run lengths must be one {{'size': {list(size_hw)}, 'counts': bytes}} a box, got {got}")
        num_pixels = size_hw[0] * size_hw[1]
        if not all_fill([r["counts"] for r in given], num_pixels):
            n = next(n for n, r in enumerate(given) if not all_fill([r["counts"]], num_pixels))
            raise ValueError(f"image {image_id}: the run lengths of a mask must add up to {size_hw[0]} x {size_hw[1]} pixels, those of mask {n} do not: "
                             f"{given[n]['counts'][:40]!r}")  # fmt: skip
        rles = np.empty(count, dtype=object)
        rles[:] = given
        return rles


def as_array(values: object) -> np.ndarray:
    """Return a tensor of any device or dtype, or a sequence, as a numpy array."""
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        return (values.float() if values.is_floating_point() else values).numpy()
    return np.asarray(values)
