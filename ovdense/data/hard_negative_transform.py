"""Captions that also ask for what is almost there: descriptions of the image's classes, altered in one thing.

The altered pieces get no box, so that all of their tokens are negatives next to the true description with the same
beginning. `add_pieces` is pure; `AddHardNegatives` is the transform, for captions that `DescriptionQueries` wrote.
"""
from collections.abc import Callable, Collection, Sequence

from ovdense.data.query_tools import Draws, Spans, token_counter
from ovdense.registry import TRANSFORMS
from ovdense.structures import Vocabulary
from ovdense.text.hard_negatives import KINDS, check_kinds, hard_negatives
from ovdense.text.prompts import DESCRIPTION_PREFIX, SEPARATOR, description_piece, name_piece, split_description
from ovdense.text.vocabulary import plain

Said = tuple[int, str | None, bool]  # class, description, whether the name is kept


def piece_key(text: str) -> str:
    """Return what two pieces that say the same share: their parts, whatever their order, case and blanks."""
    return ", ".join(sorted(plain(part) for part in text.removesuffix(SEPARATOR).split(",")))


class PieceIndex:
    """All texts that pieces of a vocabulary's classes can have, and what says each."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self.said_by: dict[str, list[Said]] = {}
        for k, entry in enumerate(vocabulary):
            self.said_by.setdefault(name_piece(entry).text, []).append((k, None, True))
            for description in entry.descriptions or (None,):
                for keep_name in (True, False):
                    self.said_by.setdefault(description_piece(entry, description, keep_name).text, []).append((k, description, keep_name))
        self._by_start: dict[str, list[str]] = {}
        for text in sorted(self.said_by, key=len, reverse=True):
            self._by_start.setdefault(_start(text), []).append(text)
        self._classes_by_key: dict[str, frozenset[int]] = {}
        for text, said in self.said_by.items():
            key = piece_key(text)
            self._classes_by_key[key] = self._classes_by_key.get(key, frozenset()) | {k for k, _, _ in said}

    def classes_that_say(self, text: str) -> frozenset[int]:
        """Return the classes of which a piece can say the same as `text`."""
        return self._classes_by_key.get(piece_key(text), frozenset())

    def split(self, caption: str) -> list[str] | None:
        """Return the pieces of a caption with the prefix of descriptions; None for another caption.

        ValueError when what follows the prefix is not made of pieces of this vocabulary.
        """
        if not caption.startswith(DESCRIPTION_PREFIX):
            return None
        pieces, at = [], len(DESCRIPTION_PREFIX)
        while at < len(caption):
            piece = next((text for text in self._by_start.get(_start(caption, at), ()) if caption.startswith(text, at)), None)
            if piece is None:
                raise ValueError(
                    f"a caption of descriptions must be made of pieces of the {len(self.vocabulary)} classes, got {caption[at : at + 60]!r} at {at}; "
                    "put AddHardNegatives right after DescriptionQueries"
                )
            pieces.append(piece)
            at += len(piece)
        return pieces


def _start(text: str, at: int = 0) -> str:
    """Return the text from `at` up to its first separator."""
    end = text.find(SEPARATOR, at)
    return text[at:] if end < 0 else text[at:end]


def altered_pieces(
    rng: Draws, index: PieceIndex, asked: Sequence[Said], true_classes: Collection[int], absent: Collection[int], kinds: Collection[str]
) -> list[str]:
    """Return altered texts of the pieces `asked`, in the order in which they are to be taken: each piece once, then once more, ...

    None says what a class of `true_classes` can say, or some of it (with the name kept: a class of the same noun), or what
    another class says that is not known to be `absent`.
    """
    vocabulary = index.vocabulary
    truths = [(vocabulary[k].noun, _parts(d)) for k in sorted(true_classes) for d in vocabulary[k].descriptions]
    found: list[tuple[int, int, str]] = []
    for n in rng.permutation(len(asked)):
        k, description, keep_name = asked[int(n)]
        entry = vocabulary[k]
        for turn, negative in enumerate(hard_negatives(description, rng, kinds=kinds, known=(entry.noun, entry.name, *entry.descriptions))):
            text = description_piece(entry, negative.text, keep_name).text
            said_by, parts = index.classes_that_say(text), _parts(negative.text)
            is_true = any(parts <= truth and (noun == entry.noun or not keep_name) for noun, truth in truths)
            if not is_true and said_by <= set(absent) and not said_by & set(true_classes):
                found.append((turn, len(found), text))
    return list(dict.fromkeys(text for _, _, text in sorted(found)))


def _parts(description: str) -> frozenset[str]:
    return frozenset(plain(part) for part in split_description(description))


def add_pieces(
    rng: Draws, caption: str, pieces: Sequence[str], spans: Sequence[Spans], extra: Sequence[str], count: Callable[[str], int], max_tokens: int, num: int
) -> tuple[str, tuple[Spans, ...]]:
    """Return the caption with up to `num` of the `extra` pieces put at random places between its `pieces`, and the shifted spans.

    An extra piece that would bring the caption over `max_tokens`, or that it holds already, is passed over.
    """
    pieces, spans = list(pieces), list(spans)
    left, room = num, max_tokens - count(caption)
    for text in extra:
        if left == 0:
            break
        if text in pieces or count(text) > room:
            continue
        place = int(rng.integers(len(pieces) + 1))
        at = len(DESCRIPTION_PREFIX) + sum(map(len, pieces[:place]))
        longer = caption[:at] + text + caption[at:]
        # the sum over pieces is exact for word pieces; a tokenizer that merges across pieces is checked on the whole
        total = count(longer)
        if total > max_tokens:
            continue
        caption, left, room = longer, left - 1, max_tokens - total
        pieces.insert(place, text)
        spans = [tuple((b + len(text), e + len(text)) if b >= at else (b, e) for b, e in of_box) for of_box in spans]
    return caption, tuple(spans)


@TRANSFORMS.register_module()
class AddHardNegatives:
    """Add up to `num` altered descriptions of the caption's positive classes to a caption of descriptions; put it right after DescriptionQueries.

    With probability `prob` a caption. An altered piece keeps its class's name (if said) and kind, and differs in one
    attribute, part, count or relation; `kinds` are those of `text.hard_negatives.KINDS`, None for all. It has no positive
    span. Captions that only name their classes stay as they are. `tokenizer` and `max_tokens`: those of DescriptionQueries.
    """

    def __init__(
        self, *, num: int = 2, prob: float = 1.0, kinds: Sequence[str] | None = None, tokenizer: str = "embedded", max_tokens: int = 254
    ) -> None:
        if num < 1:
            raise ValueError(f"num must be at least 1, got {num}; leave AddHardNegatives out for none")
        if not 0 <= prob <= 1:
            raise ValueError(f"prob must lie in 0..1, got {prob}")
        if max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, got {max_tokens}")
        self.num, self.prob, self.kinds = num, prob, check_kinds(KINDS if kinds is None else kinds)
        self.tokenizer, self.max_tokens = tokenizer, max_tokens
        self._index: PieceIndex | None = None

    def bind(self, vocabulary: Vocabulary) -> None:
        """Take the classes that the labels of samples stand for; ValueError when none of them is described."""
        if not any(entry.descriptions for entry in vocabulary):
            raise ValueError(f"AddHardNegatives alters descriptions, but none of the {len(vocabulary)} classes has one; attach some with description_file=")
        self._index = PieceIndex(vocabulary)

    def _asked(self, pieces: Sequence[str], labels: Sequence[int]) -> list[Said]:
        """Return what the described pieces of the labels' classes say, each text once."""
        positives = {int(k) for k in labels}
        first = (next((s for s in self._index.said_by[text] if s[0] in positives and s[1]), None) for text in pieces)
        return [said for said in first if said is not None]

    def __call__(self, sample: dict) -> dict:
        if self._index is None:
            raise ValueError("AddHardNegatives must know the classes: use it in a dataset of ovdense.data, or call bind(vocabulary) first")
        if "caption" not in sample:
            raise ValueError("AddHardNegatives adds to a caption, but the sample has none; put it right after DescriptionQueries")
        rng, pieces = sample["rng"], self._index.split(sample["caption"])
        if pieces is None or rng.random() >= self.prob:
            return sample
        labels = [int(k) for k in sample["labels"]]
        true_classes = frozenset(labels) | frozenset(sample.get("present", ()))
        absent = frozenset(sample.get("absent", ())) - true_classes
        extra = altered_pieces(rng, self._index, self._asked(pieces, labels), true_classes, absent, self.kinds)
        count = token_counter(self.tokenizer)
        sample["caption"], sample["positive_spans"] = add_pieces(
            rng, sample["caption"], pieces, sample["positive_spans"], extra, count, self.max_tokens, self.num
        )
        return sample
