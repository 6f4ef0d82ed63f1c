"""Texts spelt to the letter as DesCo's release spells them, for parity with it (`published_quirks`).

Elsewhere `prompts.description_piece` writes "baseball, " where the release writes "baseball , ", and a description that
cannot be read is an error and not "object".
"""
import json
import re
from collections.abc import Callable
from dataclasses import dataclass

from ovdense.compat.json_text import loads
from ovdense.text.prompts import DescriptionPiece, form_piece

UNREADABLE = "object"


@dataclass(frozen=True, kw_only=True)
class PublishedDescription:
    """What the release takes from a `gpt3_output`: "a kind of ...", the parts of the description, similar things."""

    kind_phrase: str = UNREADABLE
    parts: tuple[str, ...] = ()
    similar: tuple[str, ...] = ()


def _cut_name(name: str) -> str:
    return re.sub(r"\(.*\)", "", name).replace("_", " ").replace("  ", " ")


def published_name(name: str, *, split_parts: bool = True) -> str:
    """Return the release's `clean_name`: no brackets, blanks for underscores, double blanks halved once: "bow_(weapon)" -> "bow ".

    "car:wheel" -> "wheel of car", unless `split_parts` is False; ValueError for two colons.
    """
    whole, colon, part = name.partition(":")
    if not split_parts or not colon:
        return _cut_name(name)
    if ":" in part:
        raise ValueError(f"a name must have one colon at most, thing:part, got {name!r}")
    return f"{_cut_name(part)} of {_cut_name(whole)}"


def published_description(gpt3_output: str) -> PublishedDescription:
    """Return what the release reads; text that it cannot read is an "object" without a description."""
    try:
        said = loads(gpt3_output.strip("\n"))
        parts, kind = said["description"].split("; "), said["type"]
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError):
        return PublishedDescription()
    similar = said.get("similar objects")
    return PublishedDescription(
        kind_phrase=f"a kind of {kind}", parts=tuple(parts), similar=tuple(s for s in similar if isinstance(s, str)) if isinstance(similar, list) else ()
    )


def published_piece(name: str, gpt3_output: str, keep_name: bool = True, clean: Callable[[str], str] = published_name) -> DescriptionPiece:
    """Return the release's `form_span`: "name, a kind of kind, part, part. ", name and kind positive; `clean` spells the name."""
    said = published_description(gpt3_output)
    return form_piece(clean(name) if keep_name else None, said.kind_phrase, said.parts)
