"""The nouns of a caption's phrases, described among things that resemble them: V3 of DesCo's release, without its slips."""
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import chain

from ovdense.data.grounding_captions import GroundedCaption, GroundedQuery, GroundingSpec, build_original_query, kept_boxes
from ovdense.data.grounding_published import MAX_FREQUENCY
from ovdense.data.query_tools import Draws, possible_texts, shuffled
from ovdense.structures import ClassEntry
from ovdense.text.description_files import NounDescriptions
from ovdense.text.prompts import DescriptionPiece, description_piece, join_pieces
from ovdense.text.vocabulary import plain


def _usable(nouns: NounDescriptions, noun: str | None) -> bool:
    return noun is not None and 0 < nouns.frequencies[noun] <= MAX_FREQUENCY


def _nouns_of_phrase(phrase: str, grounded: GroundedCaption, nouns: NounDescriptions) -> list[str]:
    """Return the usable nouns that a phrase is given, or else that it is or holds, as `nouns` writes them."""
    given = grounded.nouns.get(phrase) or ([phrase] if _usable(nouns, nouns.find(phrase)) else re.findall(r"[^\W_]+(?:['’-][^\W_]+)*", phrase))
    found = (nouns.find(word) for word in given)
    return list(dict.fromkeys(noun for noun in found if _usable(nouns, noun)))


def _draw_piece(rng: Draws, entry: ClassEntry, name_prob: float) -> DescriptionPiece:
    keep_name = rng.random() < name_prob
    description = entry.descriptions[int(rng.integers(len(entry.descriptions)))] if entry.descriptions else None
    return description_piece(entry, description, keep_name)


def build_noun_query(
    rng: Draws, grounded: GroundedCaption, count: Callable[[str], int], nouns: NounDescriptions, spec: GroundingSpec | None = None
) -> GroundedQuery:
    """Return descriptions of the phrases' nouns, of things similar to them, and of random ones, in random order, without the caption.

    All nouns of a box's phrases are positive for it, wherever they are written. Distractors come after all positives have
    their place; none reads as a positive could, or is a word of the caption. The budget is in tokens. Where no noun is
    known the caption stays as it is.
    """
    spec = spec or GroundingSpec()
    boxes_of: dict[str, set[int]] = {}
    for box, spans in enumerate(grounded.spans):
        for begin, end in spans:
            for noun in _nouns_of_phrase(grounded.caption[begin:end], grounded, nouns):
                boxes_of.setdefault(noun, set()).add(box)
    boxes_of_piece: dict[DescriptionPiece, set[int]] = {}
    room = spec.max_tokens
    for noun in shuffled(rng, list(boxes_of)):
        piece = _draw_piece(rng, nouns.entries[noun], spec.name_prob)
        if piece in boxes_of_piece:
            boxes_of_piece[piece] |= boxes_of[noun]
        elif (cost := count(piece.text)) <= room:
            boxes_of_piece[piece], room = set(boxes_of[noun]), room - cost
    if not boxes_of_piece:
        return build_original_query(grounded, count, spec.max_tokens)
    for piece in _distractors(rng, grounded, nouns, list(boxes_of), spec):
        if piece in boxes_of_piece:
            continue
        room -= count(piece.text)
        if room < 0:
            break
        boxes_of_piece[piece] = set()
    pieces = shuffled(rng, list(boxes_of_piece))
    caption, spans = join_pieces(pieces, prefix="")
    while count(caption) > spec.max_tokens:  # a tokenizer that merges across pieces is checked on the whole
        pieces.pop()
        caption, spans = join_pieces(pieces, prefix="")
    found = [[of_piece[0] for piece, of_piece in zip(pieces, spans) if box in boxes_of_piece[piece]] for box in range(len(grounded.spans))]
    num_true = sum(bool(boxes_of_piece[piece]) for piece in pieces)
    return kept_boxes(caption, found, num_true, len(pieces) - num_true)


def _words(text: str) -> str:
    """Return the words of a text with a blank between them; a hyphen parts two."""
    return plain(re.sub(r"\W+", " ", text))


def _distractors(
    rng: Draws, grounded: GroundedCaption, nouns: NounDescriptions, positives: Sequence[str], spec: GroundingSpec
) -> Iterator[DescriptionPiece]:
    """Yield pieces of nouns that are not in the caption: those similar to the positives first, then random ones."""
    taken = frozenset().union(*(possible_texts(nouns.entries[noun]) for noun in positives))
    words = _words(grounded.caption)
    similar = (nouns.find(other) for noun in positives for other in nouns.entries[noun].similar)
    everything = (nouns.nouns[int(n)] for n in rng.permutation(len(nouns.nouns)))
    seen: set[str | None] = {None, *positives}
    for noun in chain(similar, everything):
        if noun in seen:
            continue
        seen.add(noun)
        if noun in nouns.entries and _usable(nouns, noun) and f" {_words(noun)} " not in f" {words} ":
            piece = _draw_piece(rng, nouns.entries[noun], spec.name_prob)
            if piece.text not in taken:
                yield piece
