"""Captions of grounding data that also hold false sentences: their own, altered in one thing by rule (text/hard_negatives).

Works on any caption with spans: Flickr30k Entities, GoldG, referring expressions, a user's own. `add_false_sentences` is
pure; `AddFalseSentences` is the transform.
"""
import re
from collections.abc import Callable, Collection, Sequence

from ovdense.data.query_tools import Draws, Spans, token_counter
from ovdense.registry import TRANSFORMS
from ovdense.text.hard_negatives import KINDS, check_kinds, hard_negatives

_SENTENCE = re.compile(r".*?(?:[.?!]+(?=\s|$)\s*|$)", re.DOTALL)
_GAP = " "


def sentences(caption: str) -> list[str]:
    """Return the sentences of a caption with what stands between them; joined they are the caption."""
    return [part for part in _SENTENCE.findall(caption) if part]


def altered_sentences(rng: Draws, parts: Sequence[str], kinds: Collection[str]) -> list[str]:
    """Return altered sentences, closed with a full stop, none that the caption says itself: one of each sentence first, then a second one of each ..."""
    said = {_key(part) for part in parts}
    found: list[tuple[int, int, str]] = []
    for n in rng.permutation(len(parts)):
        others = [p for m, p in enumerate(parts) if m != int(n)]
        for turn, negative in enumerate(hard_negatives(parts[int(n)].strip(), rng, kinds=kinds, known=others)):
            if _key(negative.text) not in said:
                found.append((turn, len(found), _closed(negative.text)))
    return list(dict.fromkeys(text for _, _, text in sorted(found)))


def add_false_sentences(
    rng: Draws, caption: str, spans: Sequence[Spans], *, num: int, count: Callable[[str], int], max_tokens: int = 254, kinds: Collection[str] = KINDS
) -> tuple[str, tuple[Spans, ...]]:
    """Return the caption with up to `num` altered sentences at random places between its own, and the shifted spans of each box.

    False sentences have no span. One that would bring the caption over `max_tokens` (special tokens not counted) is passed over; a
    place inside a span is never used. A caption with nothing to alter stays as it is.
    """
    parts = sentences(caption)
    extra = altered_sentences(rng, parts, kinds)
    if not extra:
        return caption, tuple(spans)
    last = parts[-1].rstrip()
    if not last.endswith((".", "?", "!")):
        parts[-1] = f"{last}.{parts[-1][len(last):]}"
    spans, left = list(spans), num
    for text in extra:
        if left == 0:
            break
        ends = [0, *(sum(map(len, parts[: n + 1])) for n in range(len(parts)))]
        places = [n for n, at in enumerate(ends) if not any(b < at < e for of_box in spans for b, e in of_box)]
        place = places[int(rng.integers(len(places)))]
        before, after = "".join(parts[:place]), "".join(parts[place:])
        lead, tail = (_GAP if before and not before[-1].isspace() else ""), (_GAP if after and not after[0].isspace() else "")
        inserted = lead + text + tail
        if count(before + inserted + after) > max_tokens:
            continue
        at = len(before)
        parts.insert(place, inserted)
        spans = [tuple((b + len(inserted), e + len(inserted)) if b >= at else (b, e) for b, e in of_box) for of_box in spans]
        left -= 1
    return ("".join(parts), tuple(spans)) if left < num else (caption, tuple(spans))


def _key(text: str) -> str:
    return " ".join(text.strip(" .?!\n").split()).casefold()


def _closed(text: str) -> str:
    return text if text.endswith((".", "?", "!")) else f"{text}."


@TRANSFORMS.register_module()
class AddFalseSentences:
    """Add up to `num` altered sentences to the caption of grounding data, with probability `prob` a caption.

    For any data set whose samples have `caption` and `positive_spans`; put it after the steps that write or cut captions
    (GroundingQueries, crops) and before PackDetection. An altered sentence differs from one of the caption in an attribute, part, count or
    relation (`kinds` of `text.hard_negatives.KINDS`, None for all), and is false of the thing that it speaks of; whether another thing
    of the image makes it true is not known. `tokenizer` and `max_tokens`: those of the model, special tokens not counted.
    """

    def __init__(self, *, num: int = 1, prob: float = 1.0, kinds: Sequence[str] | None = None, tokenizer: str = "embedded", max_tokens: int = 254) -> None:
        if num < 1:
            raise ValueError(f"num must be at least 1, got {num}; leave AddFalseSentences out for none")
        if not 0 <= prob <= 1:
            raise ValueError(f"prob must lie in 0..1, got {prob}")
        if max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, got {max_tokens}")
        self.num, self.prob, self.kinds = num, prob, check_kinds(KINDS if kinds is None else kinds)
        self.tokenizer, self.max_tokens = tokenizer, max_tokens

    def __call__(self, sample: dict) -> dict:
        if "caption" not in sample or "positive_spans" not in sample:
            raise ValueError("AddFalseSentences needs a sample with caption and positive_spans; use it with grounding data (ovdense.data.grounding)")
        if sample["rng"].random() >= self.prob:
            return sample
        sample["caption"], sample["positive_spans"] = add_false_sentences(
            sample["rng"], sample["caption"], sample["positive_spans"], num=self.num, count=token_counter(self.tokenizer), max_tokens=self.max_tokens,
            kinds=self.kinds,
        )
        return sample
