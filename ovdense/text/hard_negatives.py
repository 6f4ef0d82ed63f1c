"""Texts that differ from a true one in one thing and are then false: hard negatives by rule, without a language model.

An attribute, a part, a count or a relation is changed, or two things change places (SVLC, arXiv 2211.11733;
Structure-CLIP, arXiv 2305.06152). The word lists are in `data/hard_negative_words.json`, the rules in
`hard_negative_rules`. English only.
"""
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from ovdense.text.caption_words import CaptionWords, lexicon
from ovdense.text.hard_negative_rules import RULES, Edit, in_case_of
from ovdense.text.prompts import article_of

KINDS: tuple[str, ...] = tuple(RULES)
_WORDS = re.compile(r"[^\W_]+(?:[-'’.][^\W_]+)*")
_ARTICLE = re.compile(r"\b(an?)(\s+)$", re.IGNORECASE)


class Draws(Protocol):
    """The draws that are needed: numpy's Generator has them, and a test can list them."""

    def permutation(self, x: int) -> Sequence[int]: ...


@dataclass(frozen=True, kw_only=True)
class HardNegative:
    """An altered text, the `kind` of the change, and the characters `span` of `text` that hold all that was changed."""

    text: str
    kind: str
    span: tuple[int, int]

    def __post_init__(self) -> None:
        begin, end = self.span
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {self.kind!r}")
        if not 0 <= begin < end <= len(self.text):
            raise ValueError(f"span must be non-empty and lie in 0..{len(self.text)}, got {self.span} in {self.text!r}")


def hard_negatives(
    text: str, rng: Draws, *, kinds: Collection[str] = KINDS, limit: int | None = None, known: Sequence[str] = ()
) -> tuple[HardNegative, ...]:
    """Return altered texts in random order, at most `limit`; None: all there are.

    Each place of the text is altered once before any is altered a second time. Nothing means the same as `text`
    ("grey" never becomes "gray"), and what the text hedges, negates or names ("could be red", "no handle", "New York")
    stays. `known`: further texts that are true of the same thing; their words are not put in as attributes or parts.
    """
    kinds = check_kinds(kinds)
    if limit is not None and limit < 0:
        raise ValueError(f"limit must be at least 0 or None, got {limit}")
    caption = CaptionWords(text, lexicon())
    said = frozenset(word.lower() for other in known for word in _WORDS.findall(other))
    places = [place for kind in kinds for place in RULES[kind](caption, said, kind)]
    turns: list[tuple[int, str, tuple[Edit, ...]]] = []
    for place in places:
        turns += [(turn, place.kind, place.options[int(n)]) for turn, n in enumerate(rng.permutation(len(place.options)))]
    order = sorted((int(n) for n in rng.permutation(len(turns))), key=lambda n: turns[n][0])
    made: dict[str, HardNegative] = {}
    taken = {_plain(other) for other in (text, *known)}
    for _, kind, edits in (turns[n] for n in order):
        if limit is not None and len(made) >= limit:
            break
        altered, span = apply_edits(text, edits)
        if _plain(altered) not in taken:
            taken.add(_plain(altered))
            made[altered] = HardNegative(text=altered, kind=kind, span=span)
    return tuple(made.values())


def check_kinds(kinds: Collection[str]) -> tuple[str, ...]:
    """Return the kinds in the order of KINDS, each once; ValueError names an unknown one, and none at all."""
    unknown = sorted(set(kinds) - set(KINDS)) if not isinstance(kinds, str) else [kinds]
    if unknown or not kinds:
        raise ValueError(f"kinds must be some of {', '.join(KINDS)}, as a list, got {unknown or 'none'}")
    return tuple(kind for kind in KINDS if kind in kinds)


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()


def apply_edits(text: str, edits: Sequence[Edit]) -> tuple[str, tuple[int, int]]:
    """Return the text with the edits (begin, end, replacement) made, in order, and the span of all that changed.

    "a" and "an" before an edit follow its new first word, and then belong to the span.
    """
    made, begin, last = "", None, 0
    for first, end, replacement in edits:
        before, replacement = _fit_article(text[last:first], replacement)
        made += before
        begin = len(made) if begin is None else begin
        made += replacement
        last = end
    if begin is None:
        raise ValueError("edits must hold at least one, got none")
    return made + text[last:], (begin, len(made))


def _fit_article(before: str, replacement: str) -> tuple[str, str]:
    """Return both; an article that ends `before` and does not fit the replacement is moved into it, in its fitting form."""
    found = _ARTICLE.search(before)
    if found is None:
        return before, replacement
    old, blanks = found.groups()
    fitting = article_of(f"{replacement.casefold()} one")
    if not fitting or fitting == old.casefold():
        return before, replacement
    capitals = old if len(old) > 1 else old + replacement[:1]  # "A" alone says not whether all is in capitals
    return before[: found.start()], in_case_of(fitting, capitals) + blanks + replacement
