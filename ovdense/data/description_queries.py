"""Boxes with class labels -> a caption that asks for some of the classes, and the boxes that the caption speaks of.

DesCo's description queries (arXiv 2306.14060): pieces "name, a kind of kind, attributes" of positive and negative
classes, shuffled; the name is often left out, so that only the description tells a class from its neighbours. Nothing
but this makes a detector read descriptions. `build_*` are pure; `DescriptionQueries` is the transform.
"""
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ovdense.data.published_names import build_published_names
from ovdense.data.query_tools import Draws, Query, Spans, asked_boxes, possible_texts, shuffled, token_counter
from ovdense.data.transforms import select_boxes
from ovdense.registry import TRANSFORMS
from ovdense.structures import ClassEntry, Vocabulary
from ovdense.text.prompts import DESCRIPTION_PREFIX, SEPARATOR, DescriptionPiece, Span, description_piece, join_pieces, name_piece
from ovdense.text.vocabulary import plain


@dataclass(frozen=True, kw_only=True)
class QuerySpec:
    """How captions are made.

    `num_pieces` classes a caption; `name_prob`: how often a described piece keeps its name; `confusable`: how often a
    negative is a class that one of the positives is easily taken for, while there are any; `max_tokens` of a caption,
    special tokens not counted. `federated`: negatives known to be absent come first (LVIS annotates only some classes
    of an image); with `verified_only` no others are negatives (but an image with neither a box nor a class known to be
    absent is asked for one of the unknown ones). `num_name_negatives`: negatives of a names-only caption (all of them
    half of the time, else 1 up to that many, next to all positives); None: names-only captions choose their classes as
    described ones do.
    `only_negatives`: how often a caption of `num_pieces` classes holds none of the image's. The release has few such
    captions, yet with a large vocabulary nearly every chunk is one: without them the best of the wrong classes scores high.

    `published_quirks` repeats what the release does where we differ. In described captions: more than `num_pieces` positives
    bring in nearly all negatives (N < 0 cuts the list from its end), the budget leaves out the prefix and counts other coins
    than those written, equal texts are written twice, and only boxes protect a class from being a negative. In names-only
    ones (unless `num_name_negatives` is None): negatives are drawn among all classes, so that positives take their places,
    and equal names are written twice.
    """

    num_pieces: int = 8
    name_prob: float = 0.5
    confusable: float = 0.5
    max_tokens: int = 254
    federated: bool = False
    verified_only: bool = False
    num_name_negatives: int | None = 85
    only_negatives: float = 0.0
    published_quirks: bool = False

    def __post_init__(self) -> None:
        for field in ("name_prob", "confusable", "only_negatives"):
            if not 0 <= getattr(self, field) <= 1:
                raise ValueError(f"{field} must lie in 0..1, got {getattr(self, field)}")
        for field in ("num_pieces", "max_tokens"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} must be at least 1, got {getattr(self, field)}")
        if self.num_name_negatives is not None and self.num_name_negatives < 0:
            raise ValueError(f"num_name_negatives must be at least 0 or None, got {self.num_name_negatives}")
        if self.verified_only and not self.federated:
            raise ValueError("verified_only takes negatives from the classes known to be absent: set federated=True with it")
        if self.published_quirks and (self.confusable > 0 or self.federated or self.only_negatives > 0):
            raise ValueError("published_quirks draws negatives as the release does: set confusable=0, only_negatives=0 and federated=False with it")


@dataclass(frozen=True, kw_only=True)
class ImageClasses:
    """What is known of an image's classes, as class indices.

    `labels` (N,) of its boxes; `present`: every class that it may hold, also without a box here (crowds, boxes cut away,
    LVIS's not exhaustive ones): never negatives; `absent`: known not to be in it.
    """

    labels: np.ndarray
    present: frozenset[int] = frozenset()
    absent: frozenset[int] = frozenset()

    @property
    def positives(self) -> list[int]:
        return [int(c) for c in np.unique(self.labels)]


def confusable_classes(vocabulary: Vocabulary) -> tuple[frozenset[int], ...]:
    """Return for each class the others that it is easily taken for: the same noun, or named in its `similar` (or it in theirs)."""
    by_text: dict[str, set[int]] = {}
    for k, entry in enumerate(vocabulary):
        for text in {entry.name, entry.noun, *entry.synonyms}:
            by_text.setdefault(plain(text), set()).add(k)
    near = [set(by_text[plain(entry.noun)]) for entry in vocabulary]
    for k, entry in enumerate(vocabulary):
        for text in entry.similar:
            for other in by_text.get(plain(text), ()):
                near[k].add(other)
                near[other].add(k)
    return tuple(frozenset(others - {k}) for k, others in enumerate(near))


def _draw_piece(rng: Draws, entry: ClassEntry, spec: QuerySpec, names_only: bool) -> DescriptionPiece:
    """Return a piece of the class: the coin for its name first, then which of its descriptions, if it has several."""
    if names_only:
        return name_piece(entry)
    keep_name = rng.random() < spec.name_prob
    many = entry.descriptions
    description = many[int(rng.integers(len(many)))] if len(many) > 1 else many[0] if many else None
    return description_piece(entry, description, keep_name)


def _how_many(rng: Draws, num_positives: int, num_negatives: int) -> tuple[int, int]:
    """Return how many positives and negatives are asked for: all of both (1/2), fewer negatives (1/10), fewer positives (2/5)."""
    u = rng.random()
    if u < 0.5:
        return num_positives, num_negatives
    if u < 0.6:
        return num_positives, int(rng.integers(max(1, num_negatives + 1)))
    return int(rng.integers(max(1, num_positives + 1))), num_negatives


class _NegativeStream:
    """The classes that may be negatives, in the order in which a caption takes them."""

    def __init__(self, rng: Draws, vocabulary: Vocabulary, image: ImageClasses, spec: QuerySpec, near: Sequence[frozenset[int]]) -> None:
        positives = set(image.positives)
        order = shuffled(rng, [k for k in range(len(vocabulary)) if k not in positives and k not in image.present])
        if spec.federated:
            order.sort(key=lambda k: k not in image.absent)
        if spec.verified_only:
            order = [k for k in order if k in image.absent] or order[: not positives]
        pool = frozenset().union(*(near[k] for k in positives)) if spec.confusable else frozenset()
        self.rng, self.confusable = rng, spec.confusable
        self.left = dict.fromkeys(order)
        self.near_left = [k for k in reversed(order) if k in pool]

    def __iter__(self) -> Iterator[int]:
        while self.left:
            take_near = self.near_left and self.rng.random() < self.confusable
            k = self.near_left.pop() if take_near else next(iter(self.left))
            if k in self.left:
                del self.left[k]
                yield k


def _select(
    rng: Draws, vocabulary: Vocabulary, image: ImageClasses, spec: QuerySpec, near: Sequence[frozenset[int]], names_only: bool
) -> tuple[list[int], dict[int, DescriptionPiece]]:
    """Return the chosen classes in random order, each with its piece; texts differ, and no negative says what a class that may be there could."""
    positives = image.positives
    if names_only and spec.num_name_negatives is not None:
        most = spec.num_name_negatives
        num_pos, num_neg = len(positives), most if rng.random() < 0.5 or most == 0 else 1 + int(rng.integers(most))
    else:
        num_pos, num_neg = _how_many(rng, len(positives), max(0, spec.num_pieces - len(positives)))
    if spec.only_negatives and rng.random() < spec.only_negatives:
        num_pos, num_neg = 0, spec.num_pieces
    chosen = shuffled(rng, positives)[:num_pos]
    taken = frozenset().union(*(possible_texts(vocabulary[k]) for k in {*positives, *image.present}))
    pieces = {k: _draw_piece(rng, vocabulary[k], spec, names_only) for k in chosen}
    negatives, texts = [], set()
    # a caption asks for something: where the draw says "no class at all", one negative, or else one positive, is asked for
    wanted = max(num_neg, 0 if chosen else 1)
    for k in _NegativeStream(rng, vocabulary, image, spec, near) if wanted else ():
        piece = _draw_piece(rng, vocabulary[k], spec, names_only)
        if piece.text not in taken and piece.text not in texts:
            pieces[k] = piece
            texts.add(piece.text)
            negatives.append(k)
            if len(negatives) == wanted:
                break
    if not pieces:
        chosen = shuffled(rng, positives)[:1]
        pieces = {k: _draw_piece(rng, vocabulary[k], spec, names_only) for k in chosen}
    # a names-only caption must hold its positives; among described pieces chance decides what the budget cuts
    front = chosen if names_only else []
    return front + shuffled(rng, [k for k in chosen + negatives if k not in front]), pieces


def _write(
    rng: Draws, vocabulary: Vocabulary, order: Sequence[int], pieces: dict[int, DescriptionPiece], count: Callable[[str], int], spec: QuerySpec,
    names_only: bool,
) -> tuple[str, dict[str, Span]]:  # fmt: skip
    """Return the caption of those pieces that fit, in random order, and the span of each text that it holds."""
    prefix = "" if names_only else DESCRIPTION_PREFIX
    room = spec.max_tokens - count(prefix)
    fitting: dict[DescriptionPiece, None] = {}
    for k in order:
        cost = count(pieces[k].text)
        if cost > spec.max_tokens - count(prefix):
            raise ValueError(
                f"the text of one class must fit into {spec.max_tokens} tokens, but class {vocabulary[k].name!r} needs {cost}: "
                f"{pieces[k].text[:80]!r}...; shorten its description"
            )
        if pieces[k] not in fitting and cost <= room:
            fitting[pieces[k]] = None
            room -= cost
    ordered = list(fitting)
    ordered = [ordered[n] for n in shuffled(rng, range(len(ordered)))]
    while True:
        caption, spans = join_pieces(ordered, prefix)
        caption = caption.removesuffix(". ") if names_only else caption
        # the sum over pieces is exact for word pieces; a tokenizer that merges across pieces is checked on the whole
        if count(caption) <= spec.max_tokens:
            return caption, {piece.text: span[0] for piece, span in zip(ordered, spans)}
        ordered.pop()


def build_description_query(
    rng: Draws,
    vocabulary: Vocabulary,
    image: ImageClasses,
    count: Callable[[str], int],
    spec: QuerySpec,
    *,
    near: Sequence[frozenset[int]] | None = None,
    names_only: bool = False,
) -> Query:
    """Return (caption, spans of each kept box, keep (N,) bool) for an image whose boxes have `image.labels`.

    `count` gives the tokens of a text without special ones. A box is kept if the caption holds a text of its class (so
    classes that read the same share one span); the others are dropped: the caption does not ask for them, and the
    caption never holds a negative that reads as a class which may be in the image could. `near`: `confusable_classes(vocabulary)`, passed where
    many queries are made. `names_only`: GLIP's form "noun. noun. noun".
    """
    near = confusable_classes(vocabulary) if near is None and spec.confusable else near or ()
    order, pieces = _select(rng, vocabulary, image, spec, near, names_only)
    caption, span_of_text = _write(rng, vocabulary, order, pieces, count, spec, names_only)
    spans_of_class = {k: _spans_of(vocabulary[k], pieces.get(k), span_of_text) for k in image.positives}
    return asked_boxes(caption, image.labels, spans_of_class)


def _spans_of(entry: ClassEntry, piece: DescriptionPiece | None, span_of_text: dict[str, Span]) -> Spans:
    texts = possible_texts(entry) | ({piece.text} if piece else set())
    return tuple(sorted(span for text, span in span_of_text.items() if text in texts))


def build_published_query(
    rng: Draws,
    vocabulary: Vocabulary,
    labels: np.ndarray,
    count: Callable[[str], int],
    spec: QuerySpec,
    *,
    positive_order: Sequence[int] | None = None,
    piece_of: Callable[[int, bool], DescriptionPiece] | None = None,
) -> Query:
    """Return what `build_description_query` returns, made exactly as the release makes it, draw by draw.

    `positive_order`: the positive classes as the release's set of them iterates; None: ascending. `piece_of`: the piece
    of a class, with or without its name, where the vocabulary's are not wanted (`text.published_pieces`). The caption may
    have more than `spec.max_tokens` tokens, and pieces of different classes may read the same.
    """

    def draw(k: int) -> DescriptionPiece:
        return _draw_piece(rng, vocabulary[k], spec, names_only=False) if piece_of is None else piece_of(k, rng.random() < spec.name_prob)

    positives = [int(k) for k in np.unique(labels)] if positive_order is None else list(positive_order)
    num_pos, num_neg = _how_many(rng, len(positives), spec.num_pieces - len(positives))
    negatives = shuffled(rng, [k for k in range(len(vocabulary)) if k not in positives])[:num_neg]
    chosen = shuffled(rng, shuffled(rng, positives)[:num_pos] + negatives)
    screened, room = [], spec.max_tokens
    for k in chosen:
        room -= count(draw(k).text)
        if room <= 0:
            break
        screened.append(k)
    order = shuffled(rng, screened)
    caption, spans = join_pieces([draw(k) for k in order])
    return asked_boxes(caption, labels, {k: (span[0],) for k, span in zip(order, spans)})


@TRANSFORMS.register_module()
class DescriptionQueries:
    """Add `caption` and `positive_spans` to a training sample; boxes of classes that the caption leaves out are dropped.

    `prob_descriptions` of the captions describe their classes, the others name them; 0 trains on names only. Captions
    are measured with `tokenizer`: "embedded", or what `Tokenizer.from_pretrained` takes; it must be the model's.
    The other arguments are those of QuerySpec. The descriptions are those of the dataset's vocabulary; the dataset calls
    `bind`. Put it after the steps that drop boxes, and RandomFlip after it.
    """

    def __init__(
        self,
        *,
        prob_descriptions: float = 0.7,
        tokenizer: str = "embedded",
        num_pieces: int = 8,
        name_prob: float = 0.5,
        confusable: float = 0.5,
        max_tokens: int = 254,
        federated: bool = False,
        verified_only: bool = False,
        num_name_negatives: int | None = 85,
        only_negatives: float = 0.0,
        published_quirks: bool = False,
    ) -> None:
        if not 0 <= prob_descriptions <= 1:
            raise ValueError(f"prob_descriptions must lie in 0..1, got {prob_descriptions}")
        self.spec = QuerySpec(
            num_pieces=num_pieces,
            name_prob=name_prob,
            confusable=confusable,
            max_tokens=max_tokens,
            federated=federated,
            verified_only=verified_only,
            num_name_negatives=num_name_negatives,
            only_negatives=only_negatives,
            published_quirks=published_quirks,
        )
        self.prob_descriptions, self.tokenizer = prob_descriptions, tokenizer
        self.vocabulary: Vocabulary | None = None
        self._near: tuple[frozenset[int], ...] = ()

    def bind(self, vocabulary: Vocabulary) -> None:
        """Take the classes that the labels of samples stand for."""
        self.vocabulary = vocabulary
        self._near = confusable_classes(vocabulary) if self.spec.confusable else ()

    def __call__(self, sample: dict) -> dict:
        if self.vocabulary is None:
            raise ValueError("DescriptionQueries must know the classes: use it in a dataset of ovdense.data, or call bind(vocabulary) first")
        rng, labels, count = sample["rng"], sample["labels"], token_counter(self.tokenizer)
        names_only = rng.random() >= self.prob_descriptions
        if self.spec.published_quirks and not names_only:
            query = build_published_query(rng, self.vocabulary, labels, count, self.spec)
        elif self.spec.published_quirks and self.spec.num_name_negatives is not None:
            query = self._published_names(rng, labels, count)
        else:
            known = ImageClasses(labels=labels, present=frozenset(sample.get("present", ())), absent=frozenset(sample.get("absent", ())))
            query = build_description_query(rng, self.vocabulary, known, count, self.spec, near=self._near, names_only=names_only)
        caption, spans, keep = query
        sample.pop("positive_spans", None)
        sample = select_boxes(sample, keep)
        sample["caption"], sample["positive_spans"] = caption, spans
        return sample

    def _published_names(self, rng: Draws, labels: np.ndarray, count: Callable[[str], int]) -> Query:
        names = [name_piece(entry).text.removesuffix(SEPARATOR) for entry in self.vocabulary]
        spec = self.spec
        return build_published_names(rng, labels, len(names), names.__getitem__, count, max_negatives=spec.num_name_negatives, max_tokens=spec.max_tokens)
