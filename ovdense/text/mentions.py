"""Where a caption speaks of a class: the class's name, its plural, and words that people use for it. Pure string work."""
import json
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from ovdense.text.phrases import Span

_FILE = Path(__file__).parent / "data" / "coco_words.json"
_DETERMINERS = r"(?:(?:a|an|the|one|two|three|four|five|some|several|many|his|her|its|their|this|that|these|those)\s+)?"
_IRREGULAR = {"person": "people", "mouse": "mice", "knife": "knives", "sheep": "sheep", "man": "men", "woman": "women", "child": "children"}


@cache
def coco_words() -> dict[str, tuple[str, ...]]:
    """Return, for each of COCO's 80 classes, other words that captions use for it, singular."""
    return {name: tuple(words) for name, words in json.loads(_FILE.read_text(encoding="utf8"))["words"].items()}


def plural(noun: str) -> str:
    """Return the usual plural of an English noun (of its last word): "bus" -> "buses", "person" -> "people"."""
    *head, last = noun.split(" ")
    if last in _IRREGULAR:
        last = _IRREGULAR[last]
    elif re.search(r"(s|x|z|ch|sh)$", last):
        last += "es"
    elif re.search(r"[^aeiou]y$", last):
        last = last[:-1] + "ies"
    else:
        last += "s"
    return " ".join([*head, last])


def mentions_of(caption: str, name: str, words: Sequence[str] | None = None) -> list[Span]:
    """Return the spans of every mention of a class, with its article or number, longest words first, none inside another.

    `words`: other nouns for it; None takes `coco_words` (none for a name that it lacks). Whole words, case ignored.
    """
    nouns = {name, *(coco_words().get(name, ()) if words is None else words)}
    forms = sorted({form for noun in nouns for form in (noun, plural(noun))}, key=lambda f: (-len(f), f))
    pattern = re.compile(rf"(?<!\w){_DETERMINERS}(?:{'|'.join(map(re.escape, forms))})(?!\w)", re.IGNORECASE)
    return [m.span() for m in pattern.finditer(caption)]
