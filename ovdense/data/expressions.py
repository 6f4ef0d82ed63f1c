"""Referring expressions for testing: each image is asked for what its whole caption means, which may be nothing that is there."""
from collections.abc import Mapping, Sequence

import numpy as np

from ovdense.compat.grounding import CaptionPhrases
from ovdense.data.grounding import PhraseGroundingDetection
from ovdense.registry import DATASETS


@DATASETS.register_module()
class ExpressionDetection(PhraseGroundingDetection):
    """RefCOCO, gRefCOCO, PhraseCut in MDETR's form: the whole caption is one phrase, class 0 of its image, and no image is left out.

    For `ReferringMetric` and `PhraseCutMetric`, which want an answer for every expression of the file: one that speaks of nothing (gRefCOCO) must be asked
    to be left unanswered. Arguments: see `PhraseGroundingDetection`.
    """

    def _choose(self, annotations: Sequence[dict], row_of: Mapping[int, int], filter_empty: bool) -> np.ndarray:
        xyxy: list[list[tuple[float, float, float, float]]] = [[] for _ in self._images]
        for a in annotations:
            x, y, w, h = a["bbox"]
            xyxy[row_of[a["image_id"]]].append((x, y, x + w, y + h))
        self._phrases = {}
        for image, boxes in zip(self._images, xyxy):
            text = image["caption"]
            whole = ((len(text) - len(text.lstrip()), len(text.rstrip())),)
            self._phrases[image["id"]] = CaptionPhrases(caption=text, spans=(whole,), boxes_xyxy=(np.array(boxes, dtype=np.float64).reshape(-1, 4),))
        return np.arange(len(self._images))
