"""Reading what users wrote: JSON files and the texts in them, with errors that name the file. Nothing that is read is run."""
import json
from pathlib import Path
from typing import Any

from ovdense.compat.atomic import replace_file
from ovdense.compat.json_text import loads


class Source:
    """Where an entry comes from, for error messages."""

    def __init__(self, name: str) -> None:
        self.name = name

    def error(self, message: str) -> ValueError:
        return ValueError(f"{self.name}: {message}")


def read_json(path: Path, where: Source) -> Any:
    """Return the content of a JSON file."""
    try:
        return loads(path.read_text(encoding="utf-8-sig"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise where.error(f"the file must be JSON in UTF-8, but {error}; it may be cut short") from None


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file of one entry a line; ValueError when its folder is missing."""
    if not path.parent.is_dir():
        raise ValueError(f"{path}: the folder must exist to be written to; make it first")
    replace_file(path, json.dumps(content, ensure_ascii=False, indent=1) + "\n")


def checked_text(value: Any, what: str, where: Source) -> str:
    """Return the string without blanks around it; ValueError for an empty one or for something else."""
    if not isinstance(value, str) or not value.strip():
        raise where.error(f"{what} must be a non-empty string, got {value!r}")
    return value.strip()


def checked_texts(value: Any, what: str, where: Source, minimum: int = 0) -> tuple[str, ...]:
    """Return a string or a list of strings as a tuple without repeats."""
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, (list, tuple)) or len(values) < minimum:
        raise where.error(f"{what} must be a string or a non-empty list of strings, got {value!r}")
    return tuple(dict.fromkeys(checked_text(v, what, where) for v in values))
