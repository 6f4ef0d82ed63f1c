"""What files of described objects have in common, for those who read them and those who measure on them."""
import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from ovdense.compat.json_text import loads

_OPEN, _CLOSE = re.compile(r"\s*[(\[]\s*"), re.compile(r"\s*[)\]]\s*")


def class_name_of(text: str) -> str:
    """Return the class name that a description is asked by; "" when nothing is left of it.

    A name's noun ends where a bracket or underscore begins (LVIS's "bow_(weapon)"), which must cost a description no word:
    brackets become commas, underscores blanks; runs of blanks and a final full stop go.
    """
    plain = _CLOSE.sub(", ", _OPEN.sub(", ", text.replace("_", " ")))
    plain = re.sub(r"\s*(,\s*)+", ", ", " ".join(plain.split()))
    return re.sub(r",\s*([.!?;:])", r"\1", plain).strip(" ,").rstrip(".").strip(" ,")


def same_class(name: str) -> str:
    """Return the key by which class names are equal in a vocabulary: blanks and case do not count."""
    return " ".join(name.split()).casefold()


def one_name_each(texts: Mapping[int, str], path: Path, what: str) -> dict[int, str]:
    """Return the class name of each description id, the first spelling where several read the same; ValueError for an empty one."""
    spelling: dict[str, str] = {}
    names = {}
    for i, text in texts.items():
        name = class_name_of(text)
        if not name:
            raise ValueError(f"{path}: {what} {i}: the text must hold a word, got {text[:80]!r}")
        names[i] = spelling.setdefault(same_class(name), name)
    return names


def read_object(path: Path) -> tuple[dict, str]:
    """Return the JSON object of a file, and the first 12 hex digits of the file's SHA-256; ValueError when it is broken."""
    raw = path.read_bytes()
    try:
        content = loads(raw)
    except ValueError as error:
        raise ValueError(f"{path}: must be JSON, is broken: {error}; is the file cut short?") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: must be a JSON object, got {type(content).__name__}")
    return content, hashlib.sha256(raw).hexdigest()[:12]


def entries_of(content: Mapping, key: str, path: Path, fields: Mapping[str, type | tuple[type, ...]]) -> list[dict]:
    """Return the list `key` of a file, in which each entry has `fields` of these types; ValueError names file and entry."""
    entries = content.get(key)
    if not isinstance(entries, list):
        raise ValueError(f"{path}: must have the list {key!r}, got the keys {sorted(map(str, content))[:8]}")
    for n, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise ValueError(f"{path}: {key}, entry {n}: must be an object, got {type(entry).__name__}")
        where = f"{path}: {key}, entry {n} (id {str(entry.get('id'))[:40]})"
        missing = [f for f in fields if f not in entry]
        if missing:
            raise ValueError(f"{where}: must have {', '.join(fields)}; {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing")
        wrong = [f for f, kind in fields.items() if not isinstance(entry[f], kind) or isinstance(entry[f], bool)]
        if wrong:
            raise ValueError(f"{where}: {wrong[0]} is of the wrong type, got {str(entry[wrong[0]])[:80]!r}")
    return entries


def require_unique(entries: Sequence[Mapping], key: str, path: Path) -> None:
    """Raise ValueError where an id is there twice."""
    seen = set()
    for entry in entries:
        if entry["id"] in seen:
            raise ValueError(f"{path}: {key}: ids must be unique, {entry['id']} is there twice")
        seen.add(entry["id"])


def require_box(annotation: Mapping, path: Path) -> None:
    """Raise ValueError unless `bbox` is four finite numbers (x, y, width, height)."""
    box = annotation["bbox"]
    if len(box) != 4 or not all(isinstance(v, (int, float)) and not isinstance(v, bool) and abs(v) < 1e9 and math.isfinite(v) for v in box):
        raise ValueError(f"{path}: annotation {annotation['id']}: bbox must be four finite numbers (x, y, width, height), got {str(box)[:80]}")
