"""Captions of grounding data, draw by draw as DesCo's release makes them: its augmentations V3 and V4 and their mixture.

For parity and for `published_quirks`; `grounding_queries` has what we train with, and says what is better there.
"""
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate

import numpy as np

from ovdense.data.grounding_captions import GroundedCaption, GroundedQuery, kept_boxes
from ovdense.data.grounding_descriptions import GroundingOutput
from ovdense.data.positive_rates import PositiveRates
from ovdense.data.query_tools import Draws, Spans, shuffled
from ovdense.text.description_files import NounDescriptions, without_stop_words
from ovdense.text.phrases import Span
from ovdense.text.prompts import DescriptionPiece
from ovdense.text.published_pieces import published_description, published_piece

MAX_FREQUENCY = 10_000
MAX_WORDS = 180
MANY_WORDS = 200
PROB_SENTENCES_ONLY = 0.2
PEOPLE = ("man", "woman", "child", "men", "women", "children", "people", "person")


def unchanged(grounded: GroundedCaption) -> GroundedQuery:
    """Return the caption as it is, with all boxes."""
    return GroundedQuery(caption=grounded.caption, spans=grounded.spans, keep=np.ones(len(grounded.spans), dtype=bool))


class _NounPieces:
    """The pieces of a V3 caption, up to so many words."""

    def __init__(self, rng: Draws, nouns: NounDescriptions, name_prob: float) -> None:
        self.rng, self.nouns, self.name_prob = rng, nouns, name_prob
        self.room, self.texts = MAX_WORDS, []

    def is_usable(self, noun: str) -> bool:
        return 0 < self.nouns.frequencies.get(without_stop_words(noun), 0) <= MAX_FREQUENCY

    def similar(self, noun: str) -> tuple[str, ...]:
        return published_description(self.nouns.outputs[without_stop_words(noun)]).similar

    def add(self, noun: str) -> DescriptionPiece | None:
        """Return the noun's new piece; None when the words do not suffice."""
        known = without_stop_words(noun)
        piece = published_piece(known, self.nouns.outputs[known], self.rng.random() < self.name_prob, clean=str)
        self.room -= len(piece.text.split(" "))
        if self.room < 0:
            return None
        self.texts.append(piece.text)
        return piece


def build_published_noun_query(
    rng: Draws, grounded: GroundedCaption, nouns: NounDescriptions, *, name_prob: float = 0.5, phrase_order: Sequence[str] | None = None
) -> GroundedQuery:
    """Return V3's caption: the phrases' nouns described, next to things similar to them and random ones; the caption itself is dropped.

    Its quirks: of two nouns of a phrase only the one written last is positive, a text stands for one phrase only, a
    distractor may read as a positive (then the last copy is positive), and 180 words may be more tokens than fit.
    `phrase_order`: the phrases as the release's set of them iterates; None: as they first occur.
    """
    phrases = list(dict.fromkeys(grounded.caption[b:e] for spans in grounded.spans for b, e in spans)) if phrase_order is None else list(phrase_order)
    pieces = _NounPieces(rng, nouns, name_prob)
    meant: dict[str, tuple[str, int]] = {}
    for phrase in shuffled(rng, phrases):
        for noun in filter(pieces.is_usable, grounded.nouns.get(phrase) or phrase.split(" ")):
            piece = pieces.add(noun)
            if piece is None:
                break
            meant[piece.text] = (phrase, piece.positive[1])
            for other in filter(pieces.is_usable, pieces.similar(noun)):
                if pieces.add(other) is None:
                    break
    if not pieces.texts:
        return unchanged(grounded)
    rng.random()  # for the release's chance to leave the caption as it is, which is 0
    while pieces.room > 0:
        noun = nouns.nouns[int(rng.integers(len(nouns.nouns)))]
        if pieces.is_usable(noun):
            pieces.add(noun)
    caption, span_of = "", {}
    for text in shuffled(rng, pieces.texts):
        if text in meant:
            phrase, length = meant[text]
            span_of[phrase] = (len(caption), len(caption) + length)
        caption += text
    said = ([grounded.caption[b:e] for b, e in spans] for spans in grounded.spans)
    return kept_boxes(caption, [tuple(span_of[phrase] for phrase in of_box if phrase in span_of) for of_box in said])


def _sentences(caption: str) -> list[str]:
    """Return the caption cut after each "." and "?"; what follows the last counts unless it is blank."""
    sentences, start = [], 0
    for n, char in enumerate(caption):
        if char in ".?":
            sentences.append(caption[start : n + 1])
            start = n + 1
    return sentences + ([caption[start:]] if caption[start:].strip() else [])


def _merged(spans: Spans) -> list[Span]:
    """Return the spans with each that begins one character after the last one's end joined to it."""
    merged: list[Span] = []
    for begin, end in spans:
        if merged and begin == merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], end)
        else:
            merged.append((begin, end))
    return merged


def _closed(text: str) -> str:
    """Return the text with a full stop and a blank at its end, whatever of it was missing."""
    return text + " " if text.endswith((".", "?")) else text if text.endswith((". ", "? ")) else text + ". "


class _Described:
    """The growing caption of V4: sentences, descriptions of phrases behind them, and what each is grouped with."""

    def __init__(self, grounded: GroundedCaption) -> None:
        self.source, self.texts = grounded.caption, _sentences(grounded.caption)
        self.spans = [_merged(spans) for spans in grounded.spans]
        self.groups: list[tuple[str, list[str]]] = []
        self.sentence_groups: list[tuple[str, list[str]]] = []
        self.negatives: list[str] = []

    def read(self, rng: Draws, sentence: str, said: GroundingOutput, describe: bool) -> None:
        """Add what was said about a sentence; its phrases' descriptions only if they are to be written."""
        confusable = [_closed(text) for text in said.confusable.values()]
        for phrase, description in said.descriptions.items():
            text = description if description.endswith(".") else description + ". "
            named = rng.random() < 0.5
            text = f"{phrase}, {text}" if named else text
            if any(word in phrase for word in PEOPLE):
                continue
            if self._mark(phrase, len(",".join(text.split(",")[: 2 if named else 1]))) and describe:
                self.source += text
                self.texts.append(text)
                self.negatives += confusable
                self.groups.append((text, confusable))
        captions = [_closed(text) for text in said.negative_captions]
        self.negatives += captions
        self.sentence_groups.append((sentence, captions))

    def _mark(self, phrase: str, length: int) -> bool:
        """Give the boxes whose phrase holds this one, or lies in it, a span at the end of the caption; a phrase not found "begins" at -1."""
        begin = self.source.find(phrase)
        end = begin + len(phrase)
        new = (len(self.source), len(self.source) + length)
        matched = False
        for spans in self.spans:
            hits = [1 for b, e in spans if (begin <= b and e <= end) or (b <= begin and end <= e)]
            spans += [new] * len(hits)
            matched |= bool(hits)
        return matched

    def limit(self) -> int | None:
        """Return how many texts of mean length give 180 words, None while they have 200 words or fewer, or all are true or all false."""
        true, false = ([len(text.split(" ")) for text in texts] for texts in (self.texts, self.negatives))
        if not true or not false:
            return None
        words = sum(true) / len(true) * len(true) + sum(false) / len(false) * len(false)
        return int(MAX_WORDS // (words / (len(true) + len(false)))) if words > MANY_WORDS else None


def build_published_caption_query(
    rng: Draws, grounded: GroundedCaption, count: Callable[[str], int], rates: PositiveRates, *, max_tokens: int = 254
) -> GroundedQuery:
    """Return V4's caption: sentences of the caption, descriptions of phrases in it, and false captions and descriptions, shuffled.

    `rates` says how many of each; `rates.record` is the caller's, with the numbers of the result. Its quirks: phrases are
    searched for as parts of words, in what was appended as well; a sentence must be a key of the outputs to be chosen; the
    stops that are added are not in the budget; false texts may be said twice or be true; a span over two sentences is torn.
    Where it cannot say anything the caption stays as it is.
    """
    if grounded.outputs is None:
        return unchanged(grounded)
    describe = rng.random() >= PROB_SENTENCES_ONLY
    made = _Described(grounded)
    for sentence, said in grounded.outputs.items():
        made.read(rng, sentence, said, describe)
    rng.random()  # for a rate at which positives would be dropped, which nothing uses
    if not made.texts and not made.negatives:
        return unchanged(grounded)
    groups = made.groups + made.sentence_groups
    num_true, num_false = rates.choose(len(groups), sum(len(false) for _, false in groups), made.limit())
    wanted, negatives = _preselect(rng, groups, made.negatives, num_true, num_false)
    return _assemble(rng, grounded, made, negatives, wanted, (num_true, num_false), count, max_tokens)


def _preselect(
    rng: Draws, groups: Sequence[tuple[str, list[str]]], negatives: Sequence[str], num_true: int, num_false: int
) -> tuple[set[str], list[str]]:
    """Return the texts that may be written, and the negatives in the order that drawing has left them in."""
    wanted, taken = set(), 0
    groups = shuffled(rng, groups)
    for text, false in groups[:num_true]:
        wanted.add(text)
        if taken < num_false:
            number = int(rng.integers(len(false) + 1))
            wanted.update(false[:number])
            taken += number
    if taken < num_false:
        negatives = shuffled(rng, negatives)
        wanted.update(negatives[: num_false - taken])
    return wanted, list(negatives)


def _assemble(
    rng: Draws, grounded: GroundedCaption, made: _Described, negatives: list[str], wanted: set[str], numbers: tuple[int, int],
    count: Callable[[str], int], room: int,
) -> GroundedQuery:  # fmt: skip
    """Return the caption of the wanted texts that fit, in random order, `numbers` of them true and false at most."""
    texts, num_true = made.texts + negatives, len(made.texts)
    order = shuffled(rng, range(len(texts)))
    true = set(shuffled(rng, [n for n in range(num_true) if texts[n] in wanted])[: numbers[0]])
    false = set(shuffled(rng, [n for n in range(num_true, len(texts)) if texts[n] in wanted])[: numbers[1]])
    caption, place = "", {}
    written = []
    for n in order:
        if n not in true and n not in false:
            continue
        room -= count(texts[n])
        if room < 0:
            break
        place[n] = len(caption)
        written.append(n)
        caption = _closed(caption + texts[n])
    if not caption:
        return unchanged(grounded)
    starts = [0, *accumulate(map(len, made.texts))]

    def moved(char: int) -> int | None:
        n = bisect_right(starts, char) - 1
        return place[n] + char - starts[n] if 0 <= n < num_true and n in place else None

    spans = []
    for of_box in made.spans:
        ends = [(moved(b), moved(e - 1)) for b, e in of_box]
        spans.append(tuple((b, e + 1) for b, e in ends if b is not None and e is not None))
    return kept_boxes(caption, spans, sum(n in true for n in written), sum(n in false for n in written))


def build_published_grounding_query(
    rng: Draws,
    grounded: GroundedCaption,
    count: Callable[[str], int],
    nouns: NounDescriptions,
    rates: PositiveRates,
    *,
    prob_caption: float = 0.5,
    prob_nouns: float = 0.4,
    name_prob: float = 0.5,
    max_tokens: int = 254,
    phrase_order: Sequence[str] | None = None,
) -> GroundedQuery:
    """Return V4's caption (`prob_caption`), V3's (`prob_nouns`), or the caption as it is; `phrase_order` as in V3."""
    u = rng.random()
    if u < prob_caption:
        return build_published_caption_query(rng, grounded, count, rates, max_tokens=max_tokens)
    if u - prob_caption < prob_nouns:
        return build_published_noun_query(rng, grounded, nouns, name_prob=name_prob, phrase_order=phrase_order)
    return unchanged(grounded)
