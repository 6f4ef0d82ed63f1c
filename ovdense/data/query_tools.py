"""What the makers of training captions share: draws, spans, the texts of a class, token counts."""
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Protocol, TypeVar

import numpy as np

from ovdense.structures import ClassEntry
from ovdense.text.prompts import Span, description_piece, name_piece
from ovdense.text.tokenizers import Tokenizer, embedded_tokenizer

Spans = tuple[Span, ...]
Query = tuple[str, tuple[Spans, ...], np.ndarray]
Item = TypeVar("Item")


class Draws(Protocol):
    """The draws that a query needs: numpy's Generator has them, and a test can list them."""

    def random(self) -> float: ...
    def integers(self, high: int) -> int: ...
    def permutation(self, x: int) -> Sequence[int]: ...


def shuffled(rng: Draws, items: Sequence[Item]) -> list[Item]:
    """Return the items in random order."""
    return [items[int(n)] for n in rng.permutation(len(items))]


def possible_texts(entry: ClassEntry) -> frozenset[str]:
    """Return every text that a piece of this class can have."""
    texts = {name_piece(entry).text}
    for description in entry.descriptions or (None,):
        texts |= {description_piece(entry, description, keep).text for keep in (True, False)}
    return frozenset(texts)


def asked_boxes(caption: str, labels: np.ndarray, spans_of_class: dict[int, Spans]) -> Query:
    """Return the query whose kept boxes are those of classes that have a span in the caption."""
    keep = np.array([bool(spans_of_class.get(int(k))) for k in labels], dtype=bool)
    return caption, tuple(spans_of_class[int(k)] for k, kept in zip(labels, keep) if kept), keep


@lru_cache(maxsize=4)
def token_counter(tokenizer: str) -> Callable[[str], int]:
    """Return the function from a text to its tokens, special ones not counted; `tokenizer`: "embedded", or what `Tokenizer.from_pretrained` takes.

    A process makes it once; it is never pickled.
    """
    made = embedded_tokenizer() if tokenizer == "embedded" else Tokenizer.from_pretrained(tokenizer)
    return lru_cache(maxsize=8192)(made.count)
