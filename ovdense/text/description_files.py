"""DesCo's JSON forms of descriptions that a language model wrote, read and written.

- classes: a list of {"object", "object_id", "gpt3_output"}, where gpt3_output is a JSON object written as a string,
  {"type", "description": "part; part", "similar objects": [..]}; optional "chatgpt_negatives": altered descriptions, one a
  line. `vocabulary.with_descriptions` and `load_vocabulary` read it;
- nouns of captions: an object, noun -> [gpt3_output, how often it occurs in captions].

The third form, what is said about captions, is in `data.grounding_descriptions`.
"""
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

from ovdense.compat.json_text import loads
from ovdense.structures import ClassEntry, Vocabulary
from ovdense.text.reading import Source, checked_text, checked_texts, read_json, write_json

_STOP_WORDS = Path(__file__).parent / "data" / "stop_words.json"
OnBroken = Literal["raise", "skip"]


def gpt3_fields(output: Any, what: str, where: Source) -> dict[str, Any]:
    """Return the checked ClassEntry fields (descriptions, kind, similar) that a gpt3_output gives; ValueError names `what` and the file."""
    if not isinstance(output, str):
        raise where.error(f"{what}: gpt3_output must be a string of JSON, got {output!r}")
    try:
        said = loads(output)
    except json.JSONDecodeError as error:
        raise where.error(f"{what}: gpt3_output must be JSON, but {error}; correct or drop the entry") from None
    if not isinstance(said, dict):
        raise where.error(f"{what}: gpt3_output must be a JSON object, got {type(said).__name__}")
    fields: dict[str, Any] = {}
    if said.get("description"):
        fields["descriptions"] = checked_texts(said["description"], f"{what}: description", where)
    if said.get("type"):
        fields["kind"] = checked_text(said["type"], f"{what}: type", where)
    if said.get("similar objects"):
        fields["similar"] = checked_texts(said["similar objects"], f"{what}: 'similar objects'", where)
    if not fields:
        raise where.error(f"{what}: gpt3_output must hold 'type', 'description' or 'similar objects', got the keys {sorted(said)}")
    return fields


def format_gpt3_output(entry: ClassEntry) -> str:
    """Return the gpt3_output that says what the class's kind, description and similar things are; ValueError for several descriptions."""
    if len(entry.descriptions) > 1:
        raise ValueError(f"DesCo's form holds one description, class {entry.name!r} has {len(entry.descriptions)}; keep one, parts separated by '; '")
    said: dict[str, Any] = {"type": entry.kind} if entry.kind else {}
    said |= {"description": entry.descriptions[0]} if entry.descriptions else {}
    return json.dumps(said | {"similar objects": list(entry.similar)}, ensure_ascii=False)


def write_desco_list(path: str | Path, vocabulary: Vocabulary, altered: Mapping[str, Sequence[str]] | None = None) -> int:
    """Write the list of classes that have a kind, a description or similar things, and return their number; 0 is an error.

    `altered`: class name -> altered descriptions, one line each. "object_id" counts from 1 in the vocabulary's order.
    """
    altered = altered or {}
    unknown = sorted(set(altered) - set(vocabulary.names))
    if unknown:
        raise ValueError(f"altered descriptions must be of classes of the vocabulary, got {unknown[:5]}")
    items = []
    for k, entry in enumerate(vocabulary):
        if entry.kind or entry.descriptions or entry.similar:
            item = {"object": entry.name, "object_id": k + 1, "gpt3_output": format_gpt3_output(entry)}
            if altered.get(entry.name):
                item["chatgpt_negatives"] = "\n".join(" ".join(line.split()) for line in altered[entry.name])
            items.append(item)
    if not items:
        raise ValueError(f"at least one of the {len(vocabulary)} classes must have a kind, a description or similar things, none has")
    write_json(Path(path), items)
    return len(items)


def read_altered(path: str | Path) -> dict[str, tuple[str, ...]]:
    """Return the altered descriptions ("chatgpt_negatives") of each class of a list that has some; ValueError names file and entry."""
    where, content = _content(path)
    if not isinstance(content, list):
        raise where.error(f"the file must be a list of objects, got {type(content).__name__}")
    found: dict[str, tuple[str, ...]] = {}
    for i, item in enumerate(content):
        if not isinstance(item, dict) or not isinstance(item.get("object"), str):
            raise where.error(f"entry {i} must have the string 'object', got {str(item)[:80]}")
        if "chatgpt_negatives" in item:
            text = checked_text(item["chatgpt_negatives"], f"entry {i} ({item['object']!r}): chatgpt_negatives", where)
            if item["object"] in found:
                raise where.error(f"entry {i}: object {item['object']!r} is there twice")
            found[item["object"]] = tuple(line.strip() for line in text.splitlines() if line.strip())
    if not found:
        raise where.error(f"at least one of the {len(content)} entries must have 'chatgpt_negatives', none has")
    return found


@dataclass(frozen=True, kw_only=True)
class NounDescriptions:
    """Nouns of captions: the raw `outputs` said of each, how often each occurs, and the `entries` of those that could be read."""

    outputs: Mapping[str, str]
    frequencies: Mapping[str, int]
    entries: Mapping[str, ClassEntry]

    def __post_init__(self) -> None:
        if self.outputs.keys() != self.frequencies.keys() or not self.entries.keys() <= self.outputs.keys():
            raise ValueError("every noun must have an output and a frequency, and every entry must be of such a noun")

    @cached_property
    def nouns(self) -> tuple[str, ...]:
        return tuple(self.outputs)

    def find(self, noun: str) -> str | None:
        """Return the noun of an entry that is written so, or else in lower case, or else without stop words; None for no such one."""
        lower = " ".join(noun.casefold().split())
        return next((text for text in (noun, lower, without_stop_words(lower)) if text in self.entries), None)


def read_nouns(path: str | Path, on_broken: OnBroken = "raise") -> NounDescriptions:
    """Return the noun descriptions of a file; ValueError names the file and the noun that is wrong.

    `on_broken` "skip": nouns whose output cannot be read have no entry, and a warning says how many.
    """
    where, content = _content(path)
    return nouns_of(content, where, on_broken)


def nouns_of(content: Any, where: Source, on_broken: OnBroken) -> NounDescriptions:
    """Return the noun descriptions of a file's content; see `read_nouns`."""
    if on_broken not in ("raise", "skip"):
        raise ValueError(f"on_broken must be 'raise' or 'skip', got {on_broken!r}")
    if not isinstance(content, dict) or not content:
        raise where.error(f"nouns must be a non-empty object, noun -> [gpt3_output, frequency], got {type(content).__name__}")
    entries: dict[str, ClassEntry] = {}
    broken: list[ValueError] = []
    for noun, value in content.items():
        if not is_noun_entry(value) or value[1] < 0 or not noun.strip():
            raise where.error(f"noun {noun!r} must be a word with [gpt3_output, frequency >= 0], got {str(value)[:80]}")
        try:
            entries[noun] = ClassEntry(name=noun, **gpt3_fields(value[0], f"noun {noun!r}", where))
        except ValueError as error:
            if on_broken == "raise":
                raise
            broken.append(error)
    if broken:
        warnings.warn(f"{len(broken)} of {len(content)} nouns are left out, since what is said of them cannot be read; the first: {broken[0]}", stacklevel=3)
    return NounDescriptions(outputs={n: v[0] for n, v in content.items()}, frequencies={n: v[1] for n, v in content.items()}, entries=entries)


def is_noun_entry(value: Any) -> bool:
    """Return whether a value has the form [gpt3_output, frequency]."""
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int) and not isinstance(value[1], bool)


def write_nouns(path: str | Path, nouns: NounDescriptions) -> None:
    """Write the file that `read_nouns` reads."""
    write_json(Path(path), {noun: [nouns.outputs[noun], nouns.frequencies[noun]] for noun in nouns.nouns})


def _content(path: str | Path) -> tuple[Source, Any]:
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"a file of descriptions must exist, got {str(path)!r}")
    where = Source(str(path))
    return where, read_json(path, where)


@cache
def _stop_words() -> frozenset[str]:
    return frozenset(json.loads(_STOP_WORDS.read_text(encoding="utf-8"))["words"])


def without_stop_words(text: str) -> str:
    """Return the text without English stop words (as they are written: "the", not "The"), as the release looks nouns up."""
    return " ".join(word for word in text.split(" ") if word not in _stop_words())
