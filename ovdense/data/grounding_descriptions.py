"""What a language model said about the sentences of a caption, read and written.

DesCo's `gpt3_outputs` of an image: sentence -> text in one of two published layouts, which `parse_grounding_output` reads
and `format_grounding_output` writes. Keys are sentences as the release cuts them, the blank before the second included.
"""
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ovdense.compat.json_text import loads

Layout = Literal["lines", "numbered"]
_NUMBERED = re.compile(
    r"1\. Visually concrete objects and descriptions:(.*?) 2\. Objects that can be confused with the above objects:(.*?) 3\. Negative captions:(.*)", re.DOTALL
)
_LINES = (("descriptions: ",), ("descriptions: ", "objects: "), ("captions: ",))
_SECTIONS = ("descriptions", "confusable things", "negative captions")


@dataclass(frozen=True, kw_only=True)
class GroundingOutput:
    """What was said about one sentence: `descriptions` of its phrases, of `confusable` things, and `negative_captions`, all as written."""

    descriptions: Mapping[str, str] = field(default_factory=dict)
    confusable: Mapping[str, str] = field(default_factory=dict)
    negative_captions: tuple[str, ...] = ()


def parse_grounding_output(text: Any, where: str = "gpt3_output") -> GroundingOutput:
    """Return what a language model's text says, in either layout; ValueError names `where` and the part that is wrong."""
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"{where}: must be a non-empty string, got {text!r}")
    sections = _lines(text.strip(), where) if "\n" in text.strip() else _numbered(text, where)
    values = []
    for section, name in zip(sections, _SECTIONS):
        try:
            values.append(loads(section))
        except json.JSONDecodeError as error:
            raise ValueError(f"{where}: the {name} must be JSON, but {error}, in {section[:80]!r}") from None
    described, confusable, captions = values
    for value, name in ((described, _SECTIONS[0]), (confusable, _SECTIONS[1])):
        if not isinstance(value, dict) or not all(isinstance(v, str) and v.strip() and k.strip() for k, v in value.items()):
            raise ValueError(f"{where}: the {name} must be an object, phrase -> non-empty description, got {str(value)[:80]}")
    if not isinstance(captions, list) or not all(isinstance(c, str) and c.strip() for c in captions):
        raise ValueError(f"{where}: the {_SECTIONS[2]} must be a list of non-empty strings, got {str(captions)[:80]}")
    return GroundingOutput(descriptions=described, confusable=confusable, negative_captions=tuple(captions))


def _lines(text: str, where: str) -> list[str]:
    lines = text.split("\n")
    sections = []
    for n, marks in enumerate(_LINES):
        line = lines[n] if n < len(lines) else ""
        mark = next((m for m in marks if m in line), None)
        if mark is None:
            raise ValueError(f"{where}: line {n + 1} must hold {' or '.join(map(repr, marks))} and then JSON, got {line[:80]!r}")
        sections.append(line.split(mark, 1)[1].strip())
    return sections


def _numbered(text: str, where: str) -> list[str]:
    match = _NUMBERED.search(text)
    if match is None:
        raise ValueError(f"{where}: must have three lines, or the headings '1. Visually concrete objects and descriptions:' to '3.', got {text[:80]!r}")
    first, second, third = match.groups()
    return [first.strip(), second.strip(), third.strip().replace("</s>", "").replace("<unk>", "")]


def format_grounding_output(output: GroundingOutput, layout: Layout = "lines") -> str:
    """Return the text that `parse_grounding_output` reads back, in three lines or numbered in one."""
    said = [json.dumps(v, ensure_ascii=False) for v in (dict(output.descriptions), dict(output.confusable), list(output.negative_captions))]
    if layout == "lines":
        heads = ("Visually concrete phrases and their visual descriptions: ", "Negative visual phrases and their visual descriptions: ", "Negative captions: ")
        return "\n".join(head + text for head, text in zip(heads, said))
    if layout != "numbered":
        raise ValueError(f"layout must be 'lines' or 'numbered', got {layout!r}")
    return (
        f"1. Visually concrete objects and descriptions: {said[0]} 2. Objects that can be confused with the above objects: {said[1]} "
        f"3. Negative captions: {said[2]}"
    )


def read_grounding_outputs(raw: Any, where: str) -> tuple[dict[str, GroundingOutput], list[str]]:
    """Return what was said about each sentence of an image, and what is wrong with those that cannot be read (they are empty).

    `raw` is the image's `gpt3_outputs`; `where` names the file and the image. ValueError unless it is an object.
    """
    if not isinstance(raw, Mapping):
        raise ValueError(f"{where}: gpt3_outputs must be an object, sentence -> text, got {type(raw).__name__}")
    outputs, broken = {}, []
    for sentence, text in raw.items():
        try:
            outputs[sentence] = parse_grounding_output(text, f"{where}: gpt3_outputs[{sentence[:60]!r}]")
        except ValueError as error:
            broken.append(str(error))
            outputs[sentence] = GroundingOutput()
    return outputs, broken
