"""From a vocabulary to MDETR's captions: one class a caption (the published LVIS protocol), or as many as fit. Pure string work."""
from typing import Any

from ovdense.structures import ClassEntry, Vocabulary
from ovdense.text.evaluation_prompts import text_chunks
from ovdense.text.prompts import PromptChunk, chunk_vocabulary, description_piece, sought_and_background
from ovdense.text.published_pieces import published_name


def published_lvis_name(name: str) -> str:
    """Return an LVIS name as the release asks for it: brackets cut, underscores blanks; the blank that is left at the end stays ("bow ")."""
    return published_name(name, split_parts=False)


def _alone(entry: ClassEntry, prompt: str, published: bool) -> str:
    if prompt == "descriptions" and (entry.descriptions or entry.kind):
        return description_piece(entry, entry.descriptions[0] if entry.descriptions else None).text.rstrip(" .")
    return published_lvis_name(entry.name) if published else entry.noun if prompt != "texts" else entry.name


def one_class_prompts(vocabulary: Vocabulary, *, prompt: str = "names", published: bool = False) -> list[PromptChunk]:
    """Return a caption for each class that says nothing else, in the order of the vocabulary; background classes are not looked for."""
    captions = [(k, _alone(vocabulary[k], prompt, published)) for k in sought_and_background(vocabulary)[0]]
    return [PromptChunk(caption=c, class_indices=(k,), spans_per_class=(((0, len(c.rstrip()) or len(c)),),)) for k, c in captions]


def many_class_prompts(vocabulary: Vocabulary, tokenizer: Any, *, prompt: str, max_classes: int | None, max_tokens: int) -> list[PromptChunk]:
    """Return captions "cat. dog. ..." of up to `max_classes` classes and `max_tokens` tokens (special ones not counted); see `text_chunks` of whole texts."""
    if prompt == "texts":
        return text_chunks(vocabulary, tokenizer, max_texts=max_classes, max_tokens=max_tokens, prefix="")
    return chunk_vocabulary(vocabulary, tokenizer, prompt=prompt, max_classes=max_classes, max_tokens=max_tokens)
