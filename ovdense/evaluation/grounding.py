"""Phrase grounding: is a phrase of a caption among the best k boxes that the model gives for it (recall at k, Flickr30k Entities)?"""
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ovdense.compat.flickr_entities import read_flickr_entities
from ovdense.compat.grounding import CaptionPhrases, grounding_entries, phrases_of_images
from ovdense.compat.grounding_forms import read_grounding
from ovdense.compat.paths import data_path
from ovdense.evaluation.average_precision import iou_xyxy
from ovdense.evaluation.base import DetectionMetric
from ovdense.evaluation.ground_truth import fingerprint
from ovdense.registry import METRICS

TOP = (1, 5, 10)
MIN_IOU = 0.5
NEVER = np.iinfo(np.int32).max


@dataclass(frozen=True, kw_only=True)
class PhraseTruth:
    """A phrase to be found: its boxes (N, 4) xyxy, N at least 1, and its types where the data say them."""

    boxes_xyxy: np.ndarray
    types: tuple[str, ...] = ()


def merged_box(boxes_xyxy: np.ndarray) -> np.ndarray:
    """Return the smallest box (1, 4) around all of `boxes_xyxy` (N, 4)."""
    return np.concatenate([boxes_xyxy[:, :2].min(0), boxes_xyxy[:, 2:].max(0)])[None]


def first_hit(boxes_xyxy: np.ndarray, truth_xyxy: np.ndarray, min_iou: float = MIN_IOU) -> int:
    """Return the place (from 0) of the first of the ranked boxes (N, 4) that overlaps one of the true ones (M, 4) by `min_iou`, else NEVER."""
    hit = (iou_xyxy(boxes_xyxy, truth_xyxy) >= min_iou).any(1)
    return int(hit.argmax()) if hit.any() else NEVER


def recalls(first: np.ndarray) -> dict[str, float]:
    """Return R@1, R@5, R@10 and the upper bound (any box at all) in percent of phrases whose `first_hit` is given; nan without one."""
    if not len(first):
        return dict.fromkeys([*(f"R@{k}" for k in TOP), "upper_bound"], float("nan"))
    return {f"R@{k}": float(100 * (first < k).mean()) for k in TOP} | {"upper_bound": float(100 * (first < NEVER).mean())}


@METRICS.register_module()
class PhraseGroundingMetric(DetectionMetric):
    """Recall at k of phrases in percent: "grounding/R@1", "R@5", "R@10" and "upper_bound", and their number, "phrases".

    Label k of an image is phrase k of its caption, as `PhraseGroundingDetection` and `CaptionTestLoop` have them. AnyBox: a phrase is
    found when one of its best k boxes has IoU >= 0.5 with any of its true boxes. "R@1_merged" and so on are MergedBox: with the
    one box around all of them. All phrases count alike, an image's caption being one of five of its photo.

    `ann_file` is the data set's, in MDETR's form (`compat.grounding`) or another that `read_grounding` knows. With `entities`, the folder of Flickr30k
    Entities' own files (Sentences/, Annotations/), boxes and types come from there, and the numbers are those of the published evaluation (MDETR's,
    which GLIP took over); "R@1_people" and "R@1_merged-people" are then given, for each type. Without it boxes come from `ann_file`, which differs a
    little from the published one: MDETR wrote boxes that overlap by 0.95 or more as one. In a file of merged boxes (mergedGT)
    both protocols are MergedBox, and for another data set the numbers follow the same rule without being a published protocol.
    Other arguments: see `DetectionMetric`.
    """

    default_prefix = "grounding"

    def __init__(
        self,
        *,
        ann_file: str | Path | None = None,
        entities: str | Path | None = None,
        data_root: str | Path | None = None,
        class_names: Sequence[str] | None = None,
        allow_partial: bool = False,
        prefix: str | None = None,
        collect_device: str = "cpu",
    ) -> None:
        super().__init__(
            ann_file=ann_file, data_root=data_root, class_names=class_names, allow_partial=allow_partial, prefix=prefix, collect_device=collect_device
        )  # fmt: skip
        self.entities = entities

    def _load(self, path: Path, names: tuple[str, ...]) -> tuple[str, tuple[int, ...]]:
        content, sha256 = read_grounding(path)
        images, annotations, row_of = grounding_entries(content, path)
        found = phrases_of_images(images, annotations, row_of, path)
        asked = [(image, phrases) for image, phrases in zip(images, found) if len(phrases)]
        if not asked:
            raise ValueError(f"{path}: must have at least one phrase with a box, got none in {len(images)} images")
        most = max(len(phrases) for _, phrases in asked)
        if len(names) < most:
            raise ValueError(f"the classes must number the phrases of a caption, {path} has captions of {most}, got {len(names)} classes")
        self._source = {"truth": f"{path.name}: boxes that overlap by 0.95 or more are one where MDETR wrote it"}
        if self.entities is None:
            truth = [_own_truth(image, phrases, path) for image, phrases in asked]
        else:
            truth = self._published_truth(asked, data_path(self.entities, self.data_root), path)
        self._truth = {image["id"]: of_image for (image, _), of_image in zip(asked, truth)}
        return sha256, tuple(self._truth)

    def _published_truth(self, asked: Sequence[tuple[dict, CaptionPhrases]], folder: Path, path: Path) -> list[tuple[PhraseTruth, ...]]:
        for image, _ in asked:
            missing = [key for key in ("original_img_id", "sentence_id") if key not in image]
            if missing:
                raise ValueError(f"{path}: images, entry {image['id']}: must have {', '.join(missing)} to be found in Flickr30k Entities; leave out entities")
        read = read_flickr_entities(folder, (str(image["original_img_id"]) for image, _ in asked))
        self._source = {"truth": "Flickr30k Entities", "entities_sha256": fingerprint(read.files)}
        truth = []
        for image, phrases in asked:
            photo, sentence = str(image["original_img_id"]), int(image["sentence_id"])
            sentences = read.phrases[photo]
            own = sentences[sentence] if 0 <= sentence < len(sentences) else ()
            if tuple(p.text for p in own) != phrases.texts:
                raise ValueError(
                    f"{path}: images, entry {image['id']}: the phrases must be those of sentence {sentence} of photo {photo} in {folder}, "
                    f"got {list(phrases.texts)} and {[p.text for p in own]}; are both of the same release?"
                )
            truth.append(tuple(PhraseTruth(boxes_xyxy=p.boxes_xyxy, types=p.types) for p in own))
        return truth

    def _record(self, image_id: int, boxes_xyxy: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> dict:
        truth = self._truth[image_id]
        if len(labels) and labels.max() >= len(truth):
            raise ValueError(
                f"image {image_id}: labels must lie in 0..{len(truth) - 1}, the phrases of its caption, got {labels.max()}; "
                "ask it its own caption (CaptionTestLoop)"
            )
        order = np.argsort(-scores.astype(np.float64), kind="stable")
        first = np.empty((2, len(truth)), dtype=np.int32)
        for k, phrase in enumerate(truth):
            ranked = boxes_xyxy[order[labels[order] == k]]
            first[:, k] = first_hit(ranked, phrase.boxes_xyxy), first_hit(ranked, merged_box(phrase.boxes_xyxy))
        return {"image_id": image_id, "first_2P": first, "num_predicted": len(scores), "without": len(truth) - len(np.unique(labels))}

    def _compute(self, records: list[dict]) -> dict[str, float]:
        first_2P = np.concatenate([r["first_2P"] for r in records], axis=1)
        types = [set(phrase.types) for r in records for phrase in self._truth[r["image_id"]]]
        self.protocol |= {
            "classes": "the phrases of each caption",
            "recall": f"AnyBox; merged: MergedBox; IoU {MIN_IOU} or more",
            **self._source,
            "detections": "no cap",
            "most_predicted_in_an_image": max(r["num_predicted"] for r in records),
            "phrases_without_a_detection": sum(r["without"] for r in records),
        }
        out = _numbers(first_2P)
        for kind in sorted(set().union(*types)):
            out |= _numbers(first_2P[:, [kind in of_phrase for of_phrase in types]], kind)
        return out


def _own_truth(image: dict, phrases: CaptionPhrases, path: Path) -> tuple[PhraseTruth, ...]:
    """Return the phrases of an image as the annotation file has them, with their types where it says `phrase_types`."""
    types = image.get("phrase_types") or [()] * len(phrases)
    if len(types) != len(phrases):
        raise ValueError(f"{path}: images, entry {image['id']}: phrase_types must have one list for each of the {len(phrases)} phrases, got {len(types)}")
    return tuple(PhraseTruth(boxes_xyxy=boxes, types=tuple(kinds)) for boxes, kinds in zip(phrases.boxes_xyxy, types))


def _numbers(first_2P: np.ndarray, kind: str = "") -> dict[str, float]:
    """Return the numbers of the phrases of a type, of AnyBox and then of MergedBox."""
    any_box, merged = (recalls(first) for first in first_2P)
    own, of_merged = (f"_{kind}", f"_merged-{kind}") if kind else ("", "_merged")
    numbers = {f"{name}{own}": value for name, value in any_box.items()} | {f"phrases{own}": first_2P.shape[1]}
    return numbers | {f"{name}{of_merged}": value for name, value in merged.items()}
