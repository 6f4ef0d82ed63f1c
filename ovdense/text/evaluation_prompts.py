"""Prompts of two evaluations: OmniLabel's free texts, and descriptions that a language model altered. Pure string work."""
from collections.abc import Mapping, Sequence

from ovdense.structures import ClassEntry, Vocabulary
from ovdense.text.prompts import (
    DESCRIPTION_PREFIX,
    SEPARATOR,
    CountsTokens,
    PromptChunk,
    Span,
    description_piece,
    form_piece,
    join_pieces,
    sought_and_background,
)  # fmt: skip
from ovdense.text.published_pieces import UNREADABLE, published_name

MAX_SHORT_WORDS = 2
KIND_MARK = "a kind of "


def omnilabel_chunks(
    texts: Sequence[str], *, max_texts: int = 20, noun_phrases: Mapping[str, str] | None = None, published_quirks: bool = False
) -> list[PromptChunk]:
    """Return captions "Detect: text. text" that ask for all the texts of an image; `class_indices` are indices of `texts`.

    A text of more than two words runs alone, shorter ones up to `max_texts` together. Its whole text stands for it, or
    with "a kind of " in it what comes before the first comma; a text alone is stood for by its phrase in `noun_phrases`
    (text without final stop -> phrase), where that has one. A final stop is left out, and equal texts share a span.

    `published_quirks`: texts are taken in order, and up to `max_texts` run with a short one whatever their length; names
    are spelt as the release's `clean_name` does, equal ones are written again, and a phrase that is not in its text marks
    the text's beginning.
    """
    _check(texts, max_texts)
    groups = _published_groups(texts, max_texts) if published_quirks else _groups(texts, max_texts)
    write = _published_chunk if published_quirks else _chunk
    return [write(texts, group, noun_phrases or {}) for group in groups]


def text_chunks(
    vocabulary: Vocabulary, tokenizer: CountsTokens, *, max_texts: int | None, max_tokens: int, prefix: str = DESCRIPTION_PREFIX
) -> list[PromptChunk]:
    """Return the captions of a vocabulary whose names are whole texts, as `omnilabel_chunks` groups and writes them.

    Short texts that are over `max_tokens` together (special tokens not counted) are shared out. Background classes stand at the end of every
    caption, in which they only compete. ValueError for a vocabulary of background classes only.
    """
    names, (classes, background) = vocabulary.names, sought_and_background(vocabulary)
    _check(names, max_texts or len(names))

    def written(group: Sequence[int]) -> list[PromptChunk]:
        chunk = _chunk(names, group, {}, background, prefix)
        if len(group) == 1 or tokenizer.count(chunk.caption) <= max_tokens:
            return [chunk]
        half = (len(group) + 1) // 2
        return written(group[:half]) + written(group[half:])

    groups = _groups([names[k] for k in classes], max_texts or len(names))
    return [chunk for group in groups for chunk in written([classes[n] for n in group])]


def _check(texts: Sequence[str], max_texts: int) -> None:
    if max_texts < 1:
        raise ValueError(f"max_texts must be at least 1, got {max_texts}")
    if isinstance(texts, str):
        raise ValueError(f"texts must be a sequence of strings, got one string {texts!r}; write [text]")
    for n, text in enumerate(texts):
        if not isinstance(text, str) or not any(c.isalnum() for c in text):
            raise ValueError(f"every text must hold a word, got {text!r} as text {n}")


def _groups(texts: Sequence[str], max_texts: int) -> list[list[int]]:
    alone = [[n] for n, text in enumerate(texts) if len(text.split()) > MAX_SHORT_WORDS]
    short = [n for n, text in enumerate(texts) if len(text.split()) <= MAX_SHORT_WORDS]
    return alone + [short[at : at + max_texts] for at in range(0, len(short), max_texts)]


def _is_published_long(text: str) -> bool:
    return len(text.split(" ")) > MAX_SHORT_WORDS


def _published_groups(texts: Sequence[str], max_texts: int) -> list[list[int]]:
    groups, at = [], 0
    while at < len(texts):
        size = 1 if _is_published_long(texts[at]) else max_texts
        groups.append(list(range(at, min(at + size, len(texts)))))
        at += size
    return groups


def _positive(label: str, start: int) -> Span:
    return start, start + len(label.split(",")[0] if KIND_MARK in label else label)


def _chunk(
    texts: Sequence[str], group: Sequence[int], noun_phrases: Mapping[str, str], background: Sequence[int] = (), prefix: str = DESCRIPTION_PREFIX
) -> PromptChunk:
    labels = {n: texts[n].strip().rstrip(".").rstrip() for n in (*group, *background)}
    caption, span_of = prefix, {}
    for label in dict.fromkeys(labels.values()):
        if span_of:
            caption += SEPARATOR
        span_of[label] = _positive(label, len(caption))
        if len(group) == 1 and (phrase := noun_phrases.get(label, "").strip()):
            at = label.casefold().find(phrase.casefold())
            if at >= 0:
                span_of[label] = (len(caption) + at, len(caption) + at + len(phrase))
        caption += label
    return PromptChunk(caption=caption, class_indices=tuple(group), spans_per_class=tuple((span_of[labels[n]],) for n in group),
                       background_spans=tuple((span_of[labels[n]],) for n in background))  # fmt: skip


def _published_chunk(texts: Sequence[str], group: Sequence[int], noun_phrases: Mapping[str, str]) -> PromptChunk:
    said = [texts[n].removesuffix(".") for n in group]
    caption, spans = DESCRIPTION_PREFIX, []
    for n, text in enumerate(said):
        label = published_name(text, split_parts=False)
        spans.append(_positive(label, len(caption)))
        caption += label + (SEPARATOR if n < len(said) - 1 else "")
    if _is_published_long(texts[group[0]]) and (phrase := noun_phrases.get(said[0])):
        at = len(DESCRIPTION_PREFIX) + said[0].lower().find(phrase.lower())
        spans = [(at, min(at + len(phrase), len(caption)))]
    return PromptChunk(caption=caption, class_indices=tuple(group), spans_per_class=tuple(((b, e),) if b < e else () for b, e in spans))


def altered_prompt(entry: ClassEntry, altered: Sequence[str], index: int, *, published_quirks: bool = False) -> PromptChunk:
    """Return the caption that asks for one class as it is (index 0), or with its description replaced by altered[index - 1].

    Noun and kind stay; `class_indices` is (0,). The altered descriptions are those of `description_files.read_altered`.
    ValueError for an index past the end; `published_quirks`: the last one then, and names spelt as published.
    """
    if index < 0 or (index > len(altered) and not (published_quirks and altered)):
        raise ValueError(f"class {entry.name!r} has {len(altered)} altered descriptions: index must lie in 0..{len(altered)}, got {index}")
    description = (entry.descriptions[0] if entry.descriptions else None) if index == 0 else altered[min(index, len(altered)) - 1]
    if published_quirks:
        kind = f"{KIND_MARK}{entry.kind}" if entry.kind else UNREADABLE
        piece = form_piece(published_name(entry.name), kind, description.split("; ") if description else [])
    else:
        piece = description_piece(entry, description)
    caption, spans = join_pieces([piece])
    return PromptChunk(caption=caption, class_indices=(0,), spans_per_class=(tuple(spans[0]),))
