"""Negatives: things that are asked for only so that what is more like them is not reported. For every method, whatever it does with a background class.

A method that has them compete at every place itself (`OpenVocabModel.rivals_within`, DesCo) is given them as background classes. Every other is
asked for them as for any class; what they win is then taken out of its results.
"""
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torchvision.ops import box_iou

from ovdense.structures import ClassEntry, Results, Vocabulary
from ovdense.text.wanted import Wanted

SAME_PLACE_IOU = 0.5
BACKGROUND = ClassEntry(name="background", is_background=True)


@dataclass(frozen=True, kw_only=True)
class Rivals:
    """What the model is asked (`asked`), and how many of its last classes are negatives."""

    asked: Vocabulary
    num_negatives: int

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names that results may have."""
        return self.asked.names[: len(self.asked) - self.num_negatives]


def with_rivals(wanted: Wanted, *, wants_background: bool, within: bool) -> Rivals:
    """Return the vocabulary to ask for: a background class where the model has a rule for it, what is wanted, then the negatives."""
    entries = tuple(wanted.vocabulary)
    if wants_background and not any(entry.is_background for entry in entries):
        entries = (BACKGROUND, *entries)
    negatives = tuple(replace(entry, is_background=within) for entry in wanted.negatives)
    return Rivals(asked=Vocabulary((*entries, *negatives)), num_negatives=len(negatives))


def settled(results: Results, rivals: Rivals, background: Sequence[bool]) -> Results:
    """Return the results without the negatives.

    A detection goes where a negative with a larger score lies on its place (IoU of at least 0.5); pixels of negatives become background, which
    is added as the first class where there is none. `background`: which of the asked classes are background.
    """
    if not rivals.num_negatives:
        return results
    kept = len(rivals.asked) - rivals.num_negatives
    if results.label_map_HW is not None:
        return _settled_map(results, rivals, next((k for k in range(kept) if background[k]), None))
    is_negative = results.labels >= kept
    beaten = _beaten(results, is_negative)
    keep = ~is_negative & ~beaten
    return replace(results, boxes_xyxy=results.boxes_xyxy[keep], scores=results.scores[keep], labels=results.labels[keep], names=rivals.names,
                   masks_NHW=None if results.masks_NHW is None else results.masks_NHW[keep])


def _beaten(results: Results, is_negative: Tensor) -> Tensor:
    if not bool(is_negative.any()):
        return torch.zeros_like(is_negative)
    better = results.scores[is_negative][None] > results.scores[:, None]
    return (better & (box_iou(results.boxes_xyxy, results.boxes_xyxy[is_negative]) >= SAME_PLACE_IOU)).any(1)


def _settled_map(results: Results, rivals: Rivals, background: int | None) -> Results:
    kept = len(rivals.asked) - rivals.num_negatives
    label, names = results.label_map_HW, rivals.names
    if background is None:  # negatives become the new first class, the others move up
        label, names = torch.where(label >= kept, 0, label + 1), (BACKGROUND.name, *names)
    else:
        label = torch.where(label >= kept, background, label)
    return replace(results, label_map_HW=label, names=names)
