"""Phrases of a caption: character spans, the tokens that belong to them, and the demo's query strings. Pure string work.

Spans are half-open character ranges (begin, end). P phrases, L tokens.
"""
import re
from collections.abc import Sequence

import torch

from ovdense.structures import PhraseMap, TokenizedText

Span = tuple[int, int]


def char_to_token(char_spans: Sequence[Span | None], char: int) -> int | None:
    """Return the index of the token whose span holds character `char`, None for blanks, special tokens and what was cut off."""
    for token, span in enumerate(char_spans):
        if span is not None and span[0] <= char < span[1]:
            return token
    return None


def _first_token(index: dict[int, int], chars: Sequence[int]) -> int | None:
    return next((index[c] for c in chars if c in index), None)


def phrase_map(tokenized: TokenizedText, b: int, spans_per_phrase: Sequence[Sequence[Span]]) -> PhraseMap:
    """Return which tokens of caption `b` belong to each phrase; a phrase may have several spans.

    GLIP's rule (arXiv 2112.03857, as released): the first token is that of character begin, else begin + 1, else
    begin + 2; the last one that of end - 1, else end - 2, else end - 3; a span without one of them is skipped.
    """
    char_spans = tokenized.char_spans[b]
    index = {}
    for token, span in enumerate(char_spans):
        for char in range(*span) if span is not None else ():
            index.setdefault(char, token)
    length = len(tokenized.captions[b])
    tokens_PL = torch.zeros(len(spans_per_phrase), len(char_spans), dtype=torch.bool)
    for p, spans in enumerate(spans_per_phrase):
        for begin, end in spans:
            if not 0 <= begin < end <= length:
                raise ValueError(
                    f"a span must be non-empty and lie in 0..{length}, got {(begin, end)} for "
                    f"phrase {p} of {tokenized.captions[b][:60]!r}"
                )
            first = _first_token(index, (begin, begin + 1, begin + 2))
            last = _first_token(index, (end - 1, end - 2, end - 3))
            if first is not None and last is not None:
                tokens_PL[p, first : last + 1] = True
    return PhraseMap(tokens_PL=tokens_PL)


def find_phrases(caption: str, phrases: Sequence[str]) -> list[list[Span]]:
    """Return, for each phrase, its span in `caption` as a list of one: whole words, case and runs of blanks ignored.

    A phrase given twice takes the next occurrence each time. ValueError names a phrase that is empty or not there.
    """
    used: dict[str, int] = {}
    found = []
    for phrase in phrases:
        words = phrase.split()
        if not words:
            raise ValueError(f"a phrase must hold a word, got {phrase!r}")
        key = " ".join(words).casefold()
        pattern = re.compile(r"(?<!\w)" + r"\s+".join(map(re.escape, words)) + r"(?!\w)", re.IGNORECASE)
        match = pattern.search(caption, used.get(key, 0))
        if match is None:
            again = " once more" if key in used else ""
            raise ValueError(f"every phrase must occur in the caption, but {phrase!r} is not found{again} in {caption[:120]!r}")
        used[key] = match.end()
        found.append([match.span()])
    return found


def parse_queries(text: str) -> list[str]:
    """Return the queries of a string such as "cat. a red chair left of the table": split at full stops that end a word.

    A stop inside a number ("1.5 litre bottle") does not split. ValueError when nothing is left, or when two are the same.
    """
    queries = [" ".join(part.split()) for part in re.split(r"\.(?!\d)", text)]
    queries = [q for q in queries if any(c.isalnum() for c in q)]
    if not queries:
        raise ValueError(f"texts must name at least one thing, got {text!r}; write for example \"cat. a red chair\"")
    seen: dict[str, str] = {}
    for query in queries:
        if query.casefold() in seen:
            raise ValueError(f"every text must be said once, got {query!r} twice in {text!r}; drop one")
        seen[query.casefold()] = query
    return queries
