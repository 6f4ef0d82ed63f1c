"""A caption that is asked for its own phrases: the classes are the phrases, the spans their places in it. Pure string work."""
from collections.abc import Sequence

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
