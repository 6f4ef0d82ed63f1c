"""How many true and how many false texts a caption gets: even over lengths and shares of true ones, since images differ in what is said of them.

DesCo's controller: among the pairs (texts, true ones) that an image can give, each pair is wanted in proportion to a bell
curve over the number of texts. `choose` fills the pairs that are behind; it needs the counts of what was written, which
is state. `draw` has the same aim without state, so that a sample depends on its own draws only.
"""
import math
from collections.abc import Mapping

import numpy as np

from ovdense.data.query_tools import Draws

Pair = tuple[int, int]  # texts, true ones


class PositiveRates:
    """The pairs of up to `max_length` texts, their wanted shares, and the counts of the captions written so far.

    `center` and `spread` of the bell curve in texts; a pair is behind while its count over its share is within `slack` of
    the least.
    """

    def __init__(
        self, *, max_length: int = 35, center: float = 20.0, spread: float = 4.0, slack: float = 10.0, counts: Mapping[Pair, int] | None = None
    ) -> None:
        if max_length < 1 or spread <= 0 or slack < 0:
            raise ValueError(f"max_length must be at least 1, spread positive and slack not negative, got {max_length}, {spread} and {slack}")
        pairs = [(n, true) for n in range(1, max_length + 1) for true in range(n + 1)]
        self.slack = slack
        self._lengths, self._trues = (np.array(column) for column in zip(*pairs))
        weights = np.array([_bell(n, center, spread) for n in range(1, max_length + 1)])
        self._weights = (weights / weights.sum())[self._lengths - 1]
        self._index = {pair: n for n, pair in enumerate(pairs)}
        self._counts = np.zeros(len(pairs), dtype=np.int64)
        for pair, number in (counts or {}).items():
            if tuple(pair) not in self._index or number < 0:
                raise ValueError(f"counts must be of (texts, true ones) with at most {max_length} texts and not negative, got {pair}: {number}")
            self._counts[self._index[tuple(pair)]] = number

    @property
    def counts(self) -> dict[Pair, int]:
        """Return the state: how many captions of each pair were recorded, without the zeros."""
        return {pair: int(self._counts[n]) for pair, n in self._index.items() if self._counts[n]}

    def _possible(self, num_positives: int, num_negatives: int, max_texts: int | None) -> np.ndarray:
        possible = (self._trues <= num_positives) & (self._lengths - self._trues <= num_negatives)
        return possible if max_texts is None else possible & (self._lengths <= max_texts)

    def choose(self, num_positives: int, num_negatives: int, max_texts: int | None = None) -> tuple[int, int]:
        """Return how many true and false texts to take of so many, `max_texts` at most: of the pairs behind, the one nearest to all true ones.

        The published rule. Between equals the shortest; all texts when no pair is possible, or all are 100 or more true ones away.
        """
        possible = self._possible(num_positives, num_negatives, max_texts)
        if not possible.any():
            return num_positives, num_negatives
        load = self._counts / self._weights
        distance = np.where(possible & (load <= load[possible].min() + self.slack), abs(self._trues - num_positives), 100)
        best = int(distance.argmin())
        if distance[best] >= 100:
            return num_positives, num_negatives
        return int(self._trues[best]), int(self._lengths[best] - self._trues[best])

    def draw(self, rng: Draws, num_positives: int, num_negatives: int, max_texts: int | None = None) -> tuple[int, int]:
        """Return how many true and false texts to take of so many, `max_texts` at most: a pair drawn by its wanted share."""
        possible = np.flatnonzero(self._possible(num_positives, num_negatives, max_texts))
        if not len(possible):
            return 0, 0
        total = self._weights[possible].cumsum()
        pick = possible[min(int(np.searchsorted(total, rng.random() * total[-1], side="right")), len(possible) - 1)]
        return int(self._trues[pick]), int(self._lengths[pick] - self._trues[pick])

    def record(self, num_positives: int, num_negatives: int) -> None:
        """Count a caption that was written with so many true and false texts; an empty or overlong one is not counted."""
        pair = self._index.get((num_positives + num_negatives, num_positives))
        if pair is not None:
            self._counts[pair] += 1


def _bell(n: int, center: float, spread: float) -> float:
    """Return the normal distribution's share of n - 0.5 .. n + 0.5."""

    def below(x: float) -> float:
        return 0.5 * math.erfc((center - x) / (spread * math.sqrt(2)))

    return below(n + 0.5) - below(n - 0.5)
