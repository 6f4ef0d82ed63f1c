"""From a vocabulary to MDETR's captions: one class a caption (the published LVIS protocol), or as many as fit. Pure string work."""
import re
from collections.abc import Sequence
from typing import Any

from ovdense.structures import ClassEntry, Vocabulary
from ovdense.text.prompts import PromptChunk, chunk_vocabulary, description_piece


def published_lvis_name(name: str) -> str:
    """Return an LVIS name as the release asks for it: brackets cut, underscores blanks; the blank that is left at the end stays ("bow ")."""
    return re.sub(r"\(.*\)", "", name).replace("_", " ").replace("  ", " ")


def _alone(entry: ClassEntry, prompt: str, published: bool) -> str:
    if prompt == "descriptions" and (entry.descriptions or entry.kind):
        return description_piece(entry, entry.descriptions[0] if entry.descriptions else None).text.rstrip(" .")
    return published_lvis_name(entry.name) if published else entry.noun if prompt != "texts" else entry.name


def one_class_prompts(vocabulary: Vocabulary, *, prompt: str = "names", published: bool = False) -> list[PromptChunk]:
    """Return a caption for each class that says nothing else, in the order of the vocabulary."""
    captions = [_alone(entry, prompt, published) for entry in vocabulary]
    return [PromptChunk(caption=c, class_indices=(k,), spans_per_class=(((0, len(c.rstrip()) or len(c)),),)) for k, c in enumerate(captions)]


def many_class_prompts(vocabulary: Vocabulary, tokenizer: Any, *, prompt: str, max_classes: int | None, max_tokens: int) -> list[PromptChunk]:
    """Return captions "cat. dog. ..." of up to `max_classes` classes and `max_tokens` tokens (special ones not counted)."""
    most = max_classes or len(vocabulary)
    return chunk_vocabulary(vocabulary, tokenizer, prompt="descriptions" if prompt == "descriptions" else "names", max_classes=most, max_tokens=max_tokens)


def require_all_asked(prompts: Sequence[PromptChunk], vocabulary: Vocabulary) -> None:
    """Raise ValueError unless each class of the vocabulary stands in exactly one of the captions."""
    said = sorted(k for p in prompts for k in p.class_indices)
    classes = [k for k, entry in enumerate(vocabulary) if not entry.is_background]
    if said != classes:
        raise ValueError(f"each of the {len(classes)} classes must stand in one of the captions, got the classes {said[:20]} in {len(prompts)} captions")
