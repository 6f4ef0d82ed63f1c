"""A caption with boxes for its phrases, a training caption made of it, and the one that is the caption itself."""
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ovdense.data.grounding_descriptions import GroundingOutput
from ovdense.data.query_tools import Spans


@dataclass(frozen=True, kw_only=True)
class GroundedCaption:
    """A caption, the spans of each box's phrases in it, the `nouns` of phrases, and what was said (None: nobody was asked).

    `nouns`: phrase, as it is in the caption -> its nouns; a phrase without any is taken apart at blanks.
    """

    caption: str
    spans: tuple[Spans, ...]
    nouns: Mapping[str, Sequence[str]] = field(default_factory=dict)
    outputs: Mapping[str, GroundingOutput] | None = None

    def __post_init__(self) -> None:
        for n, spans in enumerate(self.spans):
            for begin, end in spans:
                if not 0 <= begin < end <= len(self.caption):
                    raise ValueError(
                        f"the spans of a box must be non-empty and lie in 0..{len(self.caption)}, got {(begin, end)} for box {n} of {self.caption[:60]!r}"
                    )


@dataclass(frozen=True, kw_only=True)
class GroundedQuery:
    """A training caption, the spans of each kept box, which boxes are kept (N,) bool, and how many true and false texts were written.

    The two numbers are what `PositiveRates.record` takes; both are 0 for a caption that no controller had a say in.
    """

    caption: str
    spans: tuple[Spans, ...]
    keep: np.ndarray
    num_positives: int = 0
    num_negatives: int = 0


def nouns_of_phrases(caption: str, spans: Sequence[Spans], nouns_of_boxes: Sequence[Sequence[str] | None]) -> dict[str, tuple[str, ...]]:
    """Return phrase -> nouns, from the nouns of each box (None: not known); of several boxes with a phrase the last one counts, as published."""
    return {caption[b:e]: tuple(nouns) for of_box, nouns in zip(spans, nouns_of_boxes, strict=True) if nouns is not None for b, e in of_box}


@dataclass(frozen=True, kw_only=True)
class GroundingSpec:
    """How captions are made: `prob_caption` of them like V4, `prob_nouns` like V3, the others as they are.

    `name_prob`: how often a described noun is named; `only_negatives`: how often a caption like V4 holds no true text (what
    the release's `drop_positive` was to do); `max_tokens` of a caption, special tokens not counted.
    `published_quirks`: draw by draw as the release, see `grounding_published`.
    """

    prob_caption: float = 0.5
    prob_nouns: float = 0.4
    name_prob: float = 0.5
    only_negatives: float = 0.0
    max_tokens: int = 254
    published_quirks: bool = False

    def __post_init__(self) -> None:
        for name in ("prob_caption", "prob_nouns", "name_prob", "only_negatives"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in 0..1, got {getattr(self, name)}")
        if self.prob_caption + self.prob_nouns > 1 + 1e-9:
            raise ValueError(f"prob_caption and prob_nouns must not exceed 1 together, got {self.prob_caption} and {self.prob_nouns}")
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, got {self.max_tokens}")
        if self.published_quirks and self.only_negatives:
            raise ValueError("published_quirks never drops positives: set only_negatives=0 with it")


def kept_boxes(caption: str, spans: Sequence[Sequence[tuple[int, int]]], num_positives: int = 0, num_negatives: int = 0) -> GroundedQuery:
    """Return the query that keeps the boxes which have a span."""
    keep = np.array([bool(s) for s in spans], dtype=bool)
    return GroundedQuery(caption=caption, spans=tuple(tuple(s) for s in spans if s), keep=keep, num_positives=num_positives, num_negatives=num_negatives)


def build_original_query(grounded: GroundedCaption, count: Callable[[str], int], max_tokens: int = 254) -> GroundedQuery:
    """Return the caption as it is, cut after the last word that fits; boxes without a whole span in it are dropped."""
    caption = grounded.caption
    if count(caption) > max_tokens:
        ends = [match.end() for match in re.finditer(r"\S+", caption)]
        low, high = 0, len(ends) - 1
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if count(caption[: ends[middle - 1]]) <= max_tokens else (low, middle - 1)
        caption = caption[: ends[low - 1]] if low else ""
    return kept_boxes(caption, [[span for span in spans if span[1] <= len(caption)] for spans in grounded.spans])
