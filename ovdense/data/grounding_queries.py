"""Captions with boxes for their phrases -> captions that describe, and the boxes that they speak of: DesCo's queries for grounding data.

Half of them keep the caption's sentences, with descriptions of their phrases and with false sentences between them (V4 of
the release); four in ten describe the phrases' nouns and what resembles them (V3); the others stay as they are.
`build_*` are pure; `GroundingQueries` is the transform. `grounding_published` has the release's own way.
"""
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ovdense.compat.grounding import whole_words
from ovdense.data.grounding_captions import GroundedCaption, GroundedQuery, GroundingSpec, build_original_query, kept_boxes
from ovdense.data.grounding_descriptions import GroundingOutput, read_grounding_outputs
from ovdense.data.grounding_nouns import build_noun_query
from ovdense.data.grounding_published import MANY_WORDS, MAX_WORDS, PEOPLE, PROB_SENTENCES_ONLY, build_published_grounding_query
from ovdense.data.positive_rates import PositiveRates
from ovdense.data.query_tools import Draws, Spans, shuffled, token_counter
from ovdense.data.roots import below_data_root
from ovdense.data.transforms import select_boxes
from ovdense.registry import TRANSFORMS
from ovdense.text.description_files import NounDescriptions, read_nouns
from ovdense.text.phrases import Span
from ovdense.text.vocabulary import plain

_STOP = re.compile(r"[.?!]+(?=\s|$)")


@dataclass(frozen=True, kw_only=True)
class _Part:
    """A true text, the spans of each box (by index) in it, and false texts that resemble it."""

    text: str
    spans: dict[int, tuple[Span, ...]]
    false: tuple[str, ...] = ()


def split_sentences(caption: str, spans: Sequence[Spans]) -> list[Span]:
    """Return where the sentences are, without blanks around them: cut at stops that end a word, never inside a span."""
    inside = {char for of_box in spans for begin, end in of_box for char in range(begin, end - 1)}
    cuts = [match.end() for match in _STOP.finditer(caption) if match.end() - 1 not in inside]
    ranges = []
    for begin, end in zip([0, *cuts], [*cuts, len(caption)]):
        text = caption[begin:end]
        if any(c.isalnum() for c in text):
            start = begin + len(text) - len(text.lstrip())
            ranges.append((start, start + len(text.strip())))
    return ranges


def _key(text: str) -> str:
    """Return a sentence as sentences are compared."""
    return plain(text).strip(" .?!")


def _closed(text: str) -> str:
    """Return a text with a stop and a blank at its end."""
    text = text.strip()
    return text + (" " if text.endswith((".", "?", "!")) else ". ")


def _sentence_parts(grounded: GroundedCaption) -> list[_Part]:
    false = {_key(sentence): said.negative_captions for sentence, said in (grounded.outputs or {}).items()}
    parts = []
    for begin, end in split_sentences(grounded.caption, grounded.spans):
        spans = {
            box: tuple((b - begin, e - begin) for b, e in of_box if begin <= b and e <= end)
            for box, of_box in enumerate(grounded.spans)
            if any(begin <= b and e <= end for b, e in of_box)
        }
        text = grounded.caption[begin:end]
        parts.append(_Part(text=_closed(text), spans=spans, false=tuple(map(_closed, false.get(_key(text), ())))))
    return parts


def _described_parts(rng: Draws, grounded: GroundedCaption) -> list[_Part]:
    """Return the descriptions of phrases that are found, as words, in their sentence and have a box; half of them begin with the phrase.

    The positive text ends before the first comma of the description. Phrases for people are left out: their descriptions
    ("a kind of human") are true of everybody.
    """
    ranges = {_key(grounded.caption[b:e]): (b, e) for b, e in split_sentences(grounded.caption, grounded.spans)}
    parts = []
    for sentence, said in (grounded.outputs or {}).items():
        begin, end = ranges.get(_key(sentence), (0, 0))
        for phrase, description in said.descriptions.items():
            named = rng.random() < 0.5
            if not phrase.strip() or set(plain(phrase).split()) & set(PEOPLE):
                continue
            found = [match.span() for match in whole_words(phrase).finditer(grounded.caption, begin, end)]
            boxes = [n for n, of_box in enumerate(grounded.spans) if any((p <= b and e <= q) or (b <= p and q <= e) for b, e in of_box for p, q in found)]
            if boxes:
                head = f"{phrase.strip()}, " if named else ""
                text = description.strip().rstrip(".").rstrip()
                spans = {box: ((0, len(head) + len(text.split(",")[0])),) for box in boxes}
                if text.split(",")[0]:
                    parts.append(_Part(text=_closed(head + text), spans=spans, false=tuple(map(_closed, said.confusable.values()))))
    return parts


def build_caption_query(
    rng: Draws, grounded: GroundedCaption, count: Callable[[str], int], rates: PositiveRates, spec: GroundingSpec | None = None
) -> GroundedQuery:
    """Return sentences of the caption, descriptions of its phrases, and false sentences and descriptions, in random order.

    `rates.draw` says how many of each. False texts that resemble what was chosen come first; none is said twice, or says
    what is true. Spans stay whole. The budget counts all that is written. A caption that nothing was said about stays as it is.
    """
    spec = spec or GroundingSpec()
    if grounded.outputs is None:
        return build_original_query(grounded, count, spec.max_tokens)
    describe = rng.random() >= PROB_SENTENCES_ONLY
    parts = _said_once([*_sentence_parts(grounded), *(_described_parts(rng, grounded) if describe else ())])
    false = _false_texts(grounded, parts)
    words = [len(text.split()) for text in [*(part.text for part in parts), *false]]
    limit = max(1, int(MAX_WORDS // (sum(words) / len(words)))) if sum(words) > MANY_WORDS else None
    num_true, num_false = rates.draw(rng, len(parts), len(false), limit)
    if spec.only_negatives and false and rng.random() < spec.only_negatives:
        num_true, num_false = 0, min(num_true + num_false, len(false))
    chosen = shuffled(rng, parts)[:num_true]
    near = shuffled(rng, [text for part in chosen for text in part.false if text in false])
    wanted_false = list(dict.fromkeys([*near, *shuffled(rng, false)]))[:num_false]
    order = shuffled(rng, [*chosen, *(_Part(text=text, spans={}) for text in wanted_false)])
    written = _that_fit(order, count, spec.max_tokens)
    if not written:
        return build_original_query(grounded, count, spec.max_tokens)
    spans: list[list[Span]] = [[] for _ in grounded.spans]
    caption = ""
    for part in written:
        for box, of_box in part.spans.items():
            spans[box] += [(len(caption) + b, len(caption) + e) for b, e in of_box]
        caption += part.text
    num_written = sum(any(part is c for c in chosen) for part in written)
    return kept_boxes(caption, [sorted(set(of_box)) for of_box in spans], num_written, len(written) - num_written)


def _said_once(parts: Sequence[_Part]) -> list[_Part]:
    """Return the parts with those of the same text made one, which has the spans of all."""
    once: dict[str, _Part] = {}
    for part in parts:
        same = once.get(part.text, part)
        boxes = {box: tuple(dict.fromkeys((*same.spans.get(box, ()), *part.spans.get(box, ())))) for box in {**same.spans, **part.spans}}
        once[part.text] = _Part(text=part.text, spans=boxes, false=tuple(dict.fromkeys((*same.false, *part.false))))
    return list(once.values())


def _false_texts(grounded: GroundedCaption, parts: Sequence[_Part]) -> list[str]:
    """Return every false text once; what is true of the image, or a description of it with or without its phrase, is not false."""
    said = (grounded.outputs or {}).values()
    true = {_key(part.text) for part in parts} | {_key(text) for output in said for text in output.descriptions.values()}
    found = {_key(text): _closed(text) for output in said for text in [*output.negative_captions, *output.confusable.values()]}
    return [text for key, text in found.items() if key and key not in true]


def _that_fit(order: Sequence[_Part], count: Callable[[str], int], max_tokens: int) -> list[_Part]:
    written, room = [], max_tokens
    for part in order:
        cost = count(part.text)
        if cost <= room:
            written.append(part)
            room -= cost
    while written and count("".join(part.text for part in written)) > max_tokens:  # a tokenizer may merge across texts
        written.pop()
    return written


def build_grounding_query(
    rng: Draws, grounded: GroundedCaption, count: Callable[[str], int], nouns: NounDescriptions | None, rates: PositiveRates, spec: GroundingSpec
) -> GroundedQuery:
    """Return a caption of one of the three kinds, drawn as `spec` says; `nouns` may be None where `prob_nouns` is 0."""
    if nouns is None and spec.prob_nouns > 0:
        raise ValueError("captions of nouns need descriptions of nouns: pass nouns, or set prob_nouns=0")
    if spec.published_quirks:
        nouns = nouns or NounDescriptions(outputs={}, frequencies={}, entries={})
        return build_published_grounding_query(
            rng, grounded, count, nouns, rates, prob_caption=spec.prob_caption, prob_nouns=spec.prob_nouns, name_prob=spec.name_prob,
            max_tokens=spec.max_tokens,
        )  # fmt: skip
    u = rng.random()
    if u < spec.prob_caption:
        return build_caption_query(rng, grounded, count, rates, spec)
    if nouns is not None and u - spec.prob_caption < spec.prob_nouns:
        return build_noun_query(rng, grounded, count, nouns, spec)
    return build_original_query(grounded, count, spec.max_tokens)


@TRANSFORMS.register_module()
class GroundingQueries:
    """Rewrite `caption` and `positive_spans` of a training sample of grounding data; boxes that the caption does not speak of are dropped.

    The sample also may have `gpt3_outputs` (sentence -> text, see `grounding_descriptions`) and `nouns` (phrase -> its
    nouns); both are taken out. `nouns`: the file of `text.description_files.read_nouns`, below the data root or anywhere, wanted unless `prob_nouns` is 0.
    Captions are measured with `tokenizer`: "embedded", or what `Tokenizer.from_pretrained` takes; it must be the model's.
    Outputs that cannot be read are left out, and the first is told. The other arguments are those of GroundingSpec. With
    `published_quirks` the controller's counts are state: a sample then depends on those that its worker saw before.
    """

    def __init__(
        self,
        *,
        nouns: str | Path | None = None,
        prob_caption: float = 0.5,
        prob_nouns: float = 0.4,
        name_prob: float = 0.5,
        only_negatives: float = 0.0,
        tokenizer: str = "embedded",
        max_tokens: int = 254,
        published_quirks: bool = False,
    ) -> None:
        self.spec = GroundingSpec(
            prob_caption=prob_caption, prob_nouns=prob_nouns, name_prob=name_prob, only_negatives=only_negatives, max_tokens=max_tokens,
            published_quirks=published_quirks,
        )  # fmt: skip
        if nouns is None and prob_nouns > 0:
            raise ValueError("GroundingQueries needs the file of noun descriptions: give nouns=, or set prob_nouns=0")
        self.nouns = None if nouns is None else read_nouns(below_data_root(nouns), on_broken="skip")
        self.tokenizer, self.rates = tokenizer, PositiveRates()
        self._told = False

    def __call__(self, sample: dict) -> dict:
        where = f"{sample.get('file_name', 'sample')} (image {sample.get('image_id')})"
        caption, spans = sample.get("caption"), sample.get("positive_spans")
        if not isinstance(caption, str) or not caption.strip() or spans is None or len(spans) != len(sample["labels"]):
            raise ValueError(f"{where}: GroundingQueries needs a caption and the spans of each of {len(sample['labels'])} boxes, got {caption!r} and {spans!r}")
        grounded = GroundedCaption(
            caption=caption, spans=tuple(tuple(map(tuple, s)) for s in spans), nouns=sample.pop("nouns", None) or {}, outputs=self._outputs(sample, where)
        )
        query = build_grounding_query(sample["rng"], grounded, token_counter(self.tokenizer), self.nouns, self.rates, self.spec)
        if self.spec.published_quirks:
            self.rates.record(query.num_positives, query.num_negatives)
        del sample["positive_spans"]
        sample = select_boxes(sample, query.keep)
        sample["caption"] = query.caption
        # the release's torn spans may end before they begin, and then mark nothing
        sample["positive_spans"] = tuple(tuple((b, e) for b, e in of_box if b < e) for of_box in query.spans)
        return sample

    def _outputs(self, sample: dict, where: str) -> dict[str, GroundingOutput] | None:
        raw = sample.pop("gpt3_outputs", None)
        if raw is None:
            return None
        outputs, broken = read_grounding_outputs(raw, where)
        if broken and not self._told:
            self._told = True
            warnings.warn(f"what was said about a sentence is left out, since it cannot be read: {broken[0]}; others are left out without a word", stacklevel=3)
        return outputs
