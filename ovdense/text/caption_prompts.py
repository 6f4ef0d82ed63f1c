"""A caption that is asked for its own phrases: the classes are the phrases, the spans their places in it. Pure string work."""
import re
from collections.abc import Sequence
from itertools import accumulate

from ovdense.structures import ClassEntry, Vocabulary
from ovdense.text.prompts import PromptChunk, Span


def caption_prompt(caption: str, spans_per_phrase: Sequence[Sequence[Span]]) -> tuple[Vocabulary, PromptChunk]:
    """Return one class for each phrase, in order, and the caption that asks for them.

    A class is named by its phrase's words, from the second time on with a number: "a man", "a man (2)". ValueError for a
    caption without phrases, and for a phrase without a word.
    """
    if not spans_per_phrase:
        raise ValueError(f"a caption must have a phrase to be asked for, got none for {caption[:80]!r}")
    names: dict[str, str] = {}
    for n, spans in enumerate(spans_per_phrase):
        text = " ".join(" ".join(caption[begin:end] for begin, end in spans).split())
        if not any(c.isalnum() for c in text):
            raise ValueError(f"a phrase must hold a word, got {text!r} as phrase {n} ({list(spans)}) of {caption[:80]!r}")
        name, count = text, 1
        while name.casefold() in names:
            count += 1
            name = f"{text} ({count})"
        names[name.casefold()] = name
    vocabulary = Vocabulary(tuple(ClassEntry(name=name) for name in names.values()))
    return vocabulary, PromptChunk(caption=caption, class_indices=tuple(range(len(names))), spans_per_class=tuple(map(tuple, spans_per_phrase)))


def marked_caption(text: str) -> tuple[str, list[list[tuple[int, int]]] | None]:
    """Return a caption whose phrases are in square brackets without them, and each phrase's spans; None for the spans where there are no brackets.

    >>> marked_caption("[a dog] on [a sofa]")
    ('a dog on a sofa', [[(0, 5)], [(9, 15)]])
    """
    parts = re.split(r"\[([^\[\]]*)\]", text)  # every second one stood in brackets
    if any(set("[]") & set(part) for part in parts):
        raise ValueError(f"square brackets mark phrases, [a dog] left of [the red sofa]: each that opens must close, and none in another; got {text!r}")
    ends = [0, *accumulate(map(len, parts))]
    spans = [[(ends[n], ends[n + 1])] for n in range(1, len(parts), 2)]
    return "".join(parts), spans or None
