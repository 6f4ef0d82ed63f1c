"""Answers to questions on images (GQA, CLEVR): is the type of the question told, and its answer?"""
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ovdense.compat.grounding import grounding_entries
from ovdense.compat.grounding_forms import read_grounding
from ovdense.evaluation.base import AnnotatedMetric
from ovdense.registry import METRICS


@METRICS.register_module()
class AnswerMetric(AnnotatedMetric):
    """Accuracy in percent: "answers/total" (type and answer right, as the release counts), "type", and each type's own share of "total".

    Data samples have `answers`, {"type": index, <head of that type>: index}; the truth is `answers` of the images of `ann_file` (MDETR's form,
    `tools/build_grounding.py gqa --answers`). Source: arXiv 2104.12763, Sec. 4.2.4, the release's criterion. One difference: there a type's accuracy
    reads that type's head whatever type was told; here a wrong type is a wrong answer. Arguments: see `AnnotatedMetric`.
    """

    default_prefix = "answers"

    def _load(self, path: Path, names: tuple[str, ...]) -> tuple[str, tuple[int, ...]]:
        content, sha256 = read_grounding(path)
        images, _, _ = grounding_entries(content, path)
        self._truth = {}
        for image in images:
            said = image.get("answers")
            if said is None:
                continue
            whole = isinstance(said, dict) and len(said) == 2 and "type" in said and all(isinstance(v, int) for v in said.values())
            if not whole:
                raise ValueError(f"{path}: image {image['id']}: answers must be {{'type': index, <its head>: index}}, got {str(said)[:80]}")
            self._truth[image["id"]] = said
        if not self._truth:
            raise ValueError(f"{path}: there must be images with 'answers', got none; build the file with --answers (tools/build_grounding.py)")
        return sha256, tuple(self._truth)

    def process(self, data_batch: object, data_samples: Sequence[dict]) -> None:
        """Check and keep the answers of one batch; the first call also reads the annotation file."""
        self._prepare()
        for sample in data_samples:
            image_id, said = self._image_id(sample.get("img_id")), sample.get("answers")
            if said is None:
                raise ValueError(f"image {image_id}: the sample must have answers to be measured, got {sorted(sample)}; does the model have answer heads?")
            wanted = self._truth[image_id]
            self.results.append({"image_id": image_id, "type": wanted["type"], "type_right": int(said["type"] == wanted["type"]),
                                 "right": int(dict(said) == dict(wanted)), "head": next(k for k in wanted if k != "type")})  # fmt: skip

    def _compute(self, records: list[dict]) -> dict[str, float]:
        right, told = (np.array([r[key] for r in records], dtype=float) for key in ("right", "type_right"))
        self.protocol |= {"classes": "answers", "questions": len(records)}
        heads = np.array([r["head"] for r in records])
        return {"total": 100 * right.mean(), "type": 100 * told.mean()} | {head: 100 * right[heads == head].mean() for head in sorted(set(heads.tolist()))}
