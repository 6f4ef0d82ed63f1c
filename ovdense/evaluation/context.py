"""Context sensitivity: what a changed description does to the detection of each object, and to images without the described.

Each object is asked for four times: by its description ("kept"), with one attribute changed ("altered"), with another
class's description ("swapped"), and with the same attributes in another order ("control", which should change nothing).
Records in, numbers out; `text.alterations` makes the descriptions, `tools/context_sensitivity.py` asks the model.
"""
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table

from ovdense.evaluation.average_precision import iou_xyxy
from ovdense.evaluation.report import format_number

CONDITIONS = ("altered", "swapped", "control")
ABSENT = ("altered", "swapped")
_NAN = float("nan")


@dataclass(frozen=True, kw_only=True)
class PlaceMatch:
    """The detection found at an object's place: its overlap with the object and its score, both 0..1, both 0 for none."""

    iou: float
    confidence: float

    def __post_init__(self) -> None:
        if not (0 <= self.iou <= 1 and 0 <= self.confidence <= 1):
            raise ValueError(f"iou and confidence must lie in 0..1, got {self.iou} and {self.confidence}")


@dataclass(frozen=True, kw_only=True)
class ObjectRecord:
    """One object and what each description found at its place; None for a description that cannot be made. `attribute`: what was altered."""

    image_id: int
    kept: PlaceMatch
    altered: PlaceMatch | None = None
    swapped: PlaceMatch | None = None
    control: PlaceMatch | None = None
    attribute: str | None = None


@dataclass(frozen=True, kw_only=True)
class AbsenceRecord:
    """One description of something that is not in the image, made in this `way`, and the best score that it got anywhere in it (0 for none)."""

    image_id: int
    way: Literal["altered", "swapped"]
    best_confidence: float


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean in percent and its bootstrap interval; nan without data."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class ConditionChange:
    """What one way of asking does to the objects that have it, against the kept description of the same objects.

    `iou_change` and `confidence_change`: its value minus the kept one's. `kept_first`: how often the kept description scores
    higher at the object's place, equal scores as one half; `ties` how often they are equal.
    """

    objects: int
    iou: float
    confidence: float
    iou_change: Estimate
    confidence_change: Estimate
    kept_first: Estimate
    ties: float


@dataclass(frozen=True, kw_only=True)
class ContextReport:
    """The numbers, all in percent; `by_attribute`: the altered ones by what was altered.

    `false_positives`: how many descriptions of something absent, altered or swapped ones (`absent_asked` in number), have a
    detection of `threshold` or more anywhere in their image, the rest is N-acc; `found`: how many objects their kept description finds with it.
    """

    objects: int
    images: int
    iou_kept: float
    confidence_kept: float
    conditions: dict[str, ConditionChange]
    by_attribute: dict[str, ConditionChange]
    threshold: float
    absent_asked: dict[str, int]
    false_positives: dict[str, Estimate]
    found: Estimate

    def metrics(self) -> dict[str, float]:
        """Return all numbers by name, for a file; "context/altered_confidence_change_low" is the end of an interval."""
        named: dict[str, float] = {"objects": self.objects, "images": self.images, "iou_kept": self.iou_kept, "confidence_kept": self.confidence_kept}
        named |= _spread("found", self.found)
        for way, share in self.false_positives.items():
            named |= {f"absent_{way}_asked": self.absent_asked[way]} | _spread(f"absent_{way}_found", share) | {f"absent_{way}_N-acc": 100 - share.mean}
        for name, change in {**self.conditions, **{f"altered_{a}": c for a, c in self.by_attribute.items()}}.items():
            named |= {f"{name}_objects": change.objects, f"{name}_iou": change.iou, f"{name}_confidence": change.confidence, f"{name}_ties": change.ties}
            named |= _spread(f"{name}_iou_change", change.iou_change) | _spread(f"{name}_confidence_change", change.confidence_change)
            named |= _spread(f"{name}_kept_first", change.kept_first)
        return {f"context/{key.replace(' ', '_')}": value for key, value in named.items()}


def _spread(name: str, value: Estimate) -> dict[str, float]:
    return {name: value.mean, f"{name}_low": value.low, f"{name}_high": value.high}


def match_at(boxes_xyxy: np.ndarray, scores: np.ndarray, box_xyxy: np.ndarray, min_iou: float) -> PlaceMatch:
    """Return the best-scoring of the detections (N, 4), (N,) that overlap the object by `min_iou` or more; of equal scores the nearest."""
    overlap = iou_xyxy(np.asarray(boxes_xyxy).reshape(-1, 4), np.asarray(box_xyxy).reshape(1, 4))[:, 0]
    there = np.flatnonzero(overlap >= min_iou)
    if len(there) == 0:
        return PlaceMatch(iou=0.0, confidence=0.0)
    best = there[np.lexsort((-overlap[there], -np.asarray(scores)[there]))[0]]
    return PlaceMatch(iou=min(float(overlap[best]), 1.0), confidence=float(scores[best]))


def bootstrap_mean(values: np.ndarray, groups: np.ndarray, generator: np.random.Generator, *, num_resamples: int = 1000, level: float = 0.95) -> Estimate:
    """Return 100 x the mean of `values` (N,) and the percentile interval of means of resampled `groups` (N,).

    Whole groups (images) are drawn with replacement: what shares an image is not independent.
    """
    if not 0 < level < 1 or num_resamples < 1:
        raise ValueError(f"level must lie between 0 and 1 and num_resamples be at least 1, got {level} and {num_resamples}")
    if len(values) == 0:
        return Estimate(mean=_NAN, low=_NAN, high=_NAN)
    values = np.asarray(values, dtype=np.float64)
    _, place = np.unique(groups, return_inverse=True)
    count = np.bincount(place)
    total = np.bincount(place, weights=values)
    means = np.empty(num_resamples)
    for n in range(num_resamples):
        drawn = generator.integers(len(count), size=len(count))
        means[n] = total[drawn].sum() / count[drawn].sum()
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(mean=float(100 * values.mean()), low=float(100 * low), high=float(100 * high))


def _change(
    pairs: Sequence[tuple[int, PlaceMatch, PlaceMatch]], generator: np.random.Generator, num_resamples: int, level: float
) -> ConditionChange:
    """Return what the second match of each (image id, kept, other) is against the first."""
    images = np.array([i for i, _, _ in pairs], dtype=np.int64)
    kept, other = (np.array([(p[k].iou, p[k].confidence) for p in pairs], dtype=np.float64).reshape(-1, 2) for k in (1, 2))
    first = np.where(kept[:, 1] > other[:, 1], 1.0, np.where(kept[:, 1] == other[:, 1], 0.5, 0.0))

    def estimate(values: np.ndarray) -> Estimate:
        return bootstrap_mean(values, images, generator, num_resamples=num_resamples, level=level)

    return ConditionChange(
        objects=len(pairs),
        iou=_percent(other[:, 0]),
        confidence=_percent(other[:, 1]),
        iou_change=estimate(other[:, 0] - kept[:, 0]),
        confidence_change=estimate(other[:, 1] - kept[:, 1]),
        kept_first=estimate(first),
        ties=_percent(first == 0.5),
    )


def _percent(values: np.ndarray) -> float:
    return float(100 * np.mean(values)) if len(values) else _NAN


def context_sensitivity(
    objects: Sequence[ObjectRecord], absences: Sequence[AbsenceRecord], *, threshold: float, generator: np.random.Generator,
    num_resamples: int = 1000, level: float = 0.95,
) -> ContextReport:  # fmt: skip
    """Return the report of all records; the intervals are drawn with `generator`, image by image."""
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must lie in (0, 1], got {threshold}")

    def change(name: str, attribute: str | None = None) -> ConditionChange:
        chosen = [o for o in objects if getattr(o, name) is not None and attribute in (None, o.attribute)]
        return _change([(o.image_id, o.kept, getattr(o, name)) for o in chosen], generator, num_resamples, level)

    def share(records: Sequence[tuple[int, float]]) -> Estimate:
        hits = np.array([score >= threshold for _, score in records], dtype=np.float64)
        return bootstrap_mean(hits, np.array([i for i, _ in records], dtype=np.int64), generator, num_resamples=num_resamples, level=level)

    attributes = sorted({o.attribute for o in objects if o.altered is not None and o.attribute is not None})
    return ContextReport(
        objects=len(objects),
        images=len({o.image_id for o in objects} | {a.image_id for a in absences}),
        iou_kept=_percent(np.array([o.kept.iou for o in objects])),
        confidence_kept=_percent(np.array([o.kept.confidence for o in objects])),
        conditions={name: change(name) for name in CONDITIONS},
        by_attribute={a: change("altered", a) for a in attributes} if len(attributes) > 1 else {},
        threshold=threshold,
        absent_asked={way: sum(a.way == way for a in absences) for way in ABSENT},
        false_positives={way: share([(a.image_id, a.best_confidence) for a in absences if a.way == way]) for way in ABSENT},
        found=share([(o.image_id, o.kept.confidence) for o in objects]),
    )


def context_table(report: ContextReport) -> RenderableType:
    """Return a rich renderable: a row for each way of asking, altered ones by attribute, then the two shares at the threshold.

    In brackets the interval; changes are against the kept description of the same objects, in percentage points.
    """
    table = Table("query", title="context sensitivity", title_justify="left")
    for name in ("objects", "IoU", "change of IoU", "confidence", "change of confidence", "kept scores higher"):
        table.add_column(name, justify="right")
    table.add_row("kept", format_number(report.objects), format_number(report.iou_kept), "", format_number(report.confidence_kept), "", "", end_section=True)
    rows = {**report.conditions, **{f"altered: {a}": c for a, c in report.by_attribute.items()}}
    for name, c in rows.items():
        cells = (format_number(c.objects), format_number(c.iou), _interval(c.iou_change), format_number(c.confidence), _interval(c.confidence_change))
        table.add_row(name, *cells, _interval(c.kept_first), end_section=name == CONDITIONS[-1])
    shares = Table("asked for", title=f"found with a score of {report.threshold:g} or more", title_justify="left")
    for name in ("number", "found"):
        shares.add_column(name, justify="right")
    shares.add_row("objects by the kept description, at their place", format_number(report.objects), _interval(report.found))
    for way, share in report.false_positives.items():
        shares.add_row(f"{way} descriptions of nothing there, anywhere", format_number(report.absent_asked[way]), _interval(share))
    return Group(table, shares)


def _interval(value: Estimate) -> str:
    return f"{format_number(value.mean)} [{format_number(value.low)}, {format_number(value.high)}]"
