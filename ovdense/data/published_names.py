"""Names-only captions of detection data, draw by draw as DesCo's release (and GLIP's) makes them."""
from collections.abc import Callable, Sequence

import numpy as np

from ovdense.data.query_tools import Draws, Query, asked_boxes, shuffled
from ovdense.text.prompts import SEPARATOR


def _as_set(classes: Sequence[int] | np.ndarray) -> list[int]:
    """Return the classes once each, in the order of the release's set of labels, which count from 1: it decides what a permutation means."""
    return [label - 1 for label in {int(k) + 1 for k in classes}]


def _that_fit(classes: Sequence[int], name_of: Callable[[int], str], count: Callable[[str], int], room: int) -> tuple[list[int], int]:
    """Return the classes before the first whose text "name. " leaves less than no room, and the tokens counted, that one's included."""
    fitting, used = [], 0
    for k in classes:
        used += count(name_of(k) + SEPARATOR)
        if used > room:
            break
        fitting.append(k)
    return fitting, used


def build_published_names(
    rng: Draws,
    labels: np.ndarray,
    num_classes: int,
    name_of: Callable[[int], str],
    count: Callable[[str], int],
    *,
    max_negatives: int = 85,
    max_tokens: int = 254,
) -> Query:
    """Return (caption, spans of each kept box, keep (N,) bool): all positives that fit and negatives, "name. name. name".

    Half of the time `max_negatives` classes are drawn, else 1 up to that many; those that are positives are left out
    again.
    """
    kept, used = _that_fit(shuffled(rng, _as_set(labels)), name_of, count, max_tokens)
    positives = _as_set([k for k in labels if k in kept])
    number = most = min(max_negatives, num_classes)
    if rng.random() >= 0.5:
        rng.random()  # the release asks for a probability of 1 here, and of 0 below
        number = min(1 + int(rng.integers(max(1, most))), num_classes)
        rng.random()
    drawn = [int(k) for k in rng.permutation(num_classes)[:number]]
    negatives = _as_set([k for k in drawn if k not in positives])
    positives, negatives = shuffled(rng, positives), shuffled(rng, negatives)
    negatives, _ = _that_fit(negatives, name_of, count, max_tokens - used - 1)
    caption, span_of = "", {}
    for k in shuffled(rng, negatives + positives):
        start = len(caption)
        caption += name_of(k) + SEPARATOR
        span_of[k] = ((start, len(caption) - len(SEPARATOR)),)
    return asked_boxes(caption.removesuffix(SEPARATOR), labels, {k: span_of[k] for k in positives})
