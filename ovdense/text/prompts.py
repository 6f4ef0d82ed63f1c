"""From classes to text: caption pieces and prompt chunks for token detectors, template sentences for embedding ones.

A piece is one class's part of a caption with the characters that stand for the class; chunks are captions that hold
as many pieces as the token budget allows. Pure string work. T templates, D embedding width.
"""
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor

from ovdense.structures import ClassEntry, Vocabulary
from ovdense.text.prompt_warnings import tell_of_descriptions, tell_of_equal_texts

Span = tuple[int, int]
Prompt = Literal["names", "descriptions"]
DESCRIPTION_PREFIX = "Detect: "
SEPARATOR = ". "
_INNER_STOP = re.compile(r"\.(?=\s)")
TEMPLATES: dict[str, tuple[str, ...]] = {
    "plain": ("{}",),
    "photo": ("a photo of {article} {}.",),
    "clip_photo": ("a photo of a {}.",),
    "scene": ("a photo of {article} {} in the scene.", "there is {article} {} in the scene.", "this is {article} {} in the scene."),
}

_SCENE = tuple(f"{said} {{}} in the scene." for said in ("there is a", "there is the", "this is a", "this is the", "this is one"))


class CountsTokens(Protocol):
    """What chunking needs of a tokenizer."""

    def count(self, text: str) -> int: ...


@dataclass(frozen=True)
class DescriptionPiece:
    """One class's part of a caption: `text` ends with ". "; `positive` is the span of it that stands for the class."""

    text: str
    positive: Span

    def __post_init__(self) -> None:
        begin, end = self.positive
        if not 0 <= begin < end <= len(self.text):
            raise ValueError(
                f"positive must be a non-empty span inside the text of {len(self.text)} "
                f"characters, got {self.positive} in {self.text!r}"
            )


@dataclass(frozen=True, kw_only=True)
class PromptChunk:
    """One caption of a chunked vocabulary: `spans_per_class[i]` are the spans of class `class_indices[i]` (index in the vocabulary).

    `background_spans`: those of the background classes, which stand in every caption and only compete.
    """

    caption: str
    class_indices: tuple[int, ...]
    spans_per_class: tuple[tuple[Span, ...], ...]
    background_spans: tuple[tuple[Span, ...], ...] = ()

    def __post_init__(self) -> None:
        if len(self.class_indices) != len(self.spans_per_class):
            raise ValueError(f"{len(self.class_indices)} classes need as many lists of spans, got {len(self.spans_per_class)}")


def form_piece(name: str | None, kind_phrase: str | None, parts: Sequence[str]) -> DescriptionPiece:
    """Return the piece "name, kind phrase, part, part. " with the name and the kind phrase (and the comma after them) positive.

    DesCo's rule (arXiv 2306.14060, as released): the attributes are context only. Without name and kind phrase the whole
    text, without its full stop, stands for the class.
    """
    head = [text for text in (name, kind_phrase) if text is not None]
    text = ", ".join([*head, *parts]) + SEPARATOR
    if not head:
        return DescriptionPiece(text, (0, len(text) - len(SEPARATOR)))
    return DescriptionPiece(text, (0, len(", ".join(head)) + 2))


def split_description(description: str) -> list[str]:
    """Return the parts of a description, which "; " separates, without blanks and a final full stop around them."""
    parts = [part.strip().rstrip(".").rstrip() for part in description.split("; ")]
    return [part for part in parts if part]


def _without_separator(text: str) -> str:
    """Return a name in which nothing reads as the end of a piece: "St. Bernard" -> "St Bernard"."""
    return _INNER_STOP.sub("", text).strip()


def name_piece(entry: ClassEntry) -> DescriptionPiece:
    """Return the piece "noun. " with the noun positive; a full stop before a blank inside the noun is left out ("St Bernard")."""
    noun = _without_separator(entry.noun)
    return DescriptionPiece(noun + SEPARATOR, (0, len(noun)))


def description_piece(entry: ClassEntry, description: str | None, keep_name: bool = True) -> DescriptionPiece:
    """Return the piece "noun, a kind of kind, part, part. ": noun (if kept) and kind positive, the description's parts not.

    The kind is left out when the entry has none. With neither a description nor a kind it is the bare name; with no name
    kept and no kind the whole description stands for the class. Noun and kind lose inner full stops as in `name_piece`;
    the description is said as it is given.
    """
    parts = split_description(description) if description else []
    kind = f"a kind of {_without_separator(entry.kind)}" if entry.kind else None
    if kind is None and not parts:
        return name_piece(entry)
    return form_piece(_without_separator(entry.noun) if keep_name else None, kind, parts)


def join_pieces(pieces: Sequence[DescriptionPiece], prefix: str = DESCRIPTION_PREFIX) -> tuple[str, list[list[Span]]]:
    """Return the caption prefix + pieces, and for each piece its positive span in the caption as a list of one."""
    caption, spans = prefix, []
    for piece in pieces:
        start = len(caption)
        spans.append([(start + piece.positive[0], start + piece.positive[1])])
        caption += piece.text
    return caption, spans


def _class_pieces(vocabulary: Vocabulary, prompt: Prompt) -> list[DescriptionPiece]:
    if prompt not in ("names", "descriptions"):
        raise ValueError(f"prompt must be 'names' or 'descriptions', got {prompt!r}")
    if prompt == "names":
        pieces = [name_piece(entry) for entry in vocabulary]
    else:
        tell_of_descriptions(vocabulary)
        pieces = [description_piece(entry, entry.descriptions[0] if entry.descriptions else None) for entry in vocabulary]
    tell_of_equal_texts(vocabulary, [piece.text for piece in pieces])
    return pieces


def require_all_asked(prompts: Sequence[PromptChunk], vocabulary: Vocabulary) -> None:
    """Raise ValueError unless each class of the vocabulary that is not background stands in exactly one of the captions, and there is one."""
    said, (classes, _) = sorted(k for p in prompts for k in p.class_indices), sought_and_background(vocabulary)
    if said != classes:
        raise ValueError(f"each of the {len(classes)} classes must stand in one of the captions, got the classes {said[:20]} in {len(prompts)} captions")


def sought_and_background(vocabulary: Vocabulary) -> tuple[list[int], list[int]]:
    """Return the indices of the classes to look for, and of the background classes; ValueError where there is nothing to look for."""
    background = [k for k, entry in enumerate(vocabulary) if entry.is_background]
    classes = [k for k, entry in enumerate(vocabulary) if not entry.is_background]
    if not classes:
        raise ValueError(f"a vocabulary must have a class that is not background to look for, got {len(vocabulary)} background classes only")
    return classes, background


def _make_chunk(pieces: Sequence[DescriptionPiece], classes: Sequence[int], background: Sequence[int], prefix: str, closed: bool) -> PromptChunk:
    """Return the chunk of these classes and, after them, the background ones; classes whose piece is the same share one span."""
    distinct = list(dict.fromkeys(pieces[k] for k in (*classes, *background)))
    caption, spans = join_pieces(distinct, prefix)
    where = {piece: tuple(span) for piece, span in zip(distinct, spans)}
    return PromptChunk(
        caption=caption if closed else caption.removesuffix(SEPARATOR),
        class_indices=tuple(classes),
        spans_per_class=tuple(where[pieces[k]] for k in classes),
        background_spans=tuple(where[pieces[k]] for k in background),
    )


def chunk_vocabulary(
    vocabulary: Vocabulary,
    tokenizer: CountsTokens,
    prompt: Prompt = "names",
    max_classes: int | None = None,
    max_tokens: int = 254,
    prefix: str | None = None,
) -> list[PromptChunk]:
    """Return captions that cover the vocabulary in order, each of at most `max_classes` classes and `max_tokens` tokens.

    Tokens are counted on the whole caption, prefix included, special tokens not: 254 leaves room for two in 256.
    Published forms: descriptions start with "Detect: " (8 classes a chunk); names have no prefix and no last full stop
    (40 classes a chunk). `prefix` overrides. A class is asked by the first of its descriptions. Classes whose text is the
    same (equal nouns) share one span in a chunk.
    Background classes stand at the end of every caption, beyond `max_classes`, and are none of its classes.
    ValueError names a class whose own piece is over the budget.
    """
    if max_classes is not None and max_classes < 1:
        raise ValueError(f"max_classes must be at least 1 or None, got {max_classes}")
    pieces = _class_pieces(vocabulary, prompt)
    classes, background = sought_and_background(vocabulary)
    closed = prompt == "descriptions"
    prefix = (DESCRIPTION_PREFIX if closed else "") if prefix is None else prefix
    counts = [tokenizer.count(piece.text) for piece in pieces]
    budget = max_tokens - tokenizer.count(prefix) - sum(counts[k] for k in background)
    chunks, first = [], 0
    while first < len(classes):
        last = _fill(pieces, counts, classes, first, budget, max_classes)
        chunk = _make_chunk(pieces, classes[first:last], background, prefix, closed)
        # the sum over pieces is exact for word pieces; a tokenizer that merges across pieces is checked on the whole
        while tokenizer.count(chunk.caption) > max_tokens:
            last -= 1
            if last == first:
                beside = f" beside {len(background)} background classes" if background else ""
                raise ValueError(
                    f"the text of one class must fit into {max_tokens} tokens, but class {vocabulary[classes[first]].name[:80]!r}{beside} needs "
                    f"{tokenizer.count(chunk.caption)}: {chunk.caption[:80]!r}...; shorten its description"
                )
            chunk = _make_chunk(pieces, classes[first:last], background, prefix, closed)
        chunks.append(chunk)
        first = last
    return chunks


def _fill(pieces: Sequence[DescriptionPiece], counts: Sequence[int], classes: Sequence[int], first: int, budget: int, max_classes: int | None) -> int:
    """Return the end of the longest run of `classes` from `first` whose pieces fit; at least one class, whether it fits or not."""
    seen: set[DescriptionPiece] = set()
    used, last = 0, first
    while last < len(classes) and (max_classes is None or last - first < max_classes):
        piece = pieces[classes[last]]
        cost = 0 if piece in seen else counts[classes[last]]
        if last > first and used + cost > budget:
            break
        used += cost
        seen.add(piece)
        last += 1
    return last


def with_article(noun: str) -> str:
    """Return the noun with "a" or "an" before it, by its first letter; plurals and nouns that carry one are left as they are."""
    article = article_of(noun)
    return f"{article} {noun}" if article else noun


def article_of(noun: str) -> str:
    """Return "a", "an", or "" when the noun brings a determiner or looks like a plural ("scissors")."""
    words = noun.casefold().split()
    if not words:
        raise ValueError(f"a noun must hold a word, got {noun!r}")
    if words[0] in {"a", "an", "the", "some", "two", "three", "his", "her", "its", "their"}:
        return ""
    last = words[-1]
    if last.endswith("s") and not last.endswith(("ss", "us", "nis", "sis", "ris", "vis")):
        return ""
    if words[0].startswith(("hour", "heir", "honest", "honor", "honour")):
        return "an"
    sounds_like_you = words[0].startswith(("uni", "use", "usu", "eu", "ewe", "ute", "one", "ufo", "usb"))
    uninformed = words[0].startswith(("unin", "unim", "unid"))
    return "an" if words[0][0] in "aeiou" and (not sounds_like_you or uninformed) else "a"


def fill_template(template: str, name: str) -> str:
    """Return the sentence of a template: "{}" becomes the name, "{article} " a fitting article and a blank."""
    if template.count("{}") != 1:
        raise ValueError(f"a template must hold '{{}}' exactly once, got {template!r}")
    article = article_of(name) if "{article}" in template else ""
    text = template.replace("{article} ", f"{article} " if article else "")
    return text.replace("{}", name)


def find_templates(name: str) -> tuple[str, ...]:
    """Return a set of templates by name; KeyError lists the names.

    "imagenet" is CLIP's 80, taken from open_clip; "imagenet_scene" is ReCo's 85 (arXiv 2206.07045, as released), with "in the scene".
    """
    if name in ("imagenet", "imagenet_scene"):
        from open_clip import OPENAI_IMAGENET_TEMPLATES

        return (*(template("{}") for template in OPENAI_IMAGENET_TEMPLATES), *(_SCENE if name == "imagenet_scene" else ()))
    if name not in TEMPLATES:
        raise KeyError(f"unknown templates {name!r}; there are {', '.join([*TEMPLATES, 'imagenet', 'imagenet_scene'])}")
    return TEMPLATES[name]


def describe_templates(templates: str | Sequence[str]) -> str:
    """Return what a protocol says of templates: the set's name, a lone template itself, or how many they are."""
    if isinstance(templates, str):
        return templates
    given = tuple(templates)
    named = ["imagenet", "imagenet_scene"] if len(given) >= 80 else list(TEMPLATES)
    known = next((name for name in named if find_templates(name) == given), None)
    return known or (repr(given[0]) if len(given) == 1 else f"{len(given)} of its own")


def unit(rows: Tensor) -> Tensor:
    """Return the rows at length 1 along the last dimension; ValueError for a row of zeros or of non-finite numbers."""
    norm = rows.norm(dim=-1, keepdim=True)
    if not bool(((norm > 0) & norm.isfinite()).all()):
        raise ValueError("rows must be finite and not zero to be normalised, got one that is not; check the encoder's weights")
    return rows / norm


def average_unit(rows_TD: Tensor) -> Tensor:
    """Return the average of T rows as a unit vector (D,): normalise, mean, normalise (over dimension -2, so (..., T, D) works)."""
    return unit(unit(rows_TD).mean(dim=-2))
