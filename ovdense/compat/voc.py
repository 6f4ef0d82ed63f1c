"""What Pascal VOC's development kit lays down, for those who read its data and those who measure on it."""
import re
from collections.abc import Sequence
from pathlib import Path

_COLUMN = re.compile(r"\s+(-1|0|1)$")  # of the lists of one class: "2007_000027 -1", "2007_000032  1"
_SURE = re.compile(r"(\s-1|\s\s[01]|\t[01])$")


def split_names(split_file: Path) -> tuple[str, ...]:
    """Return the image names that .../ImageSets/Main/NAME.txt lists, blanks in them included; ValueError when one is there twice, or it is no list of names."""
    try:
        names = listed_names(split_file.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{split_file} must be a list of image names in UTF-8, byte {error.start} is not: {error.reason}") from None
    strange = next(filter(is_strange, names), None)
    if strange is not None:
        raise ValueError(f"{split_file} must be a list of image names, one a line, got {strange[:40]!r}")
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"{split_file}: each image must be listed once, got {name!r} twice")
        seen.add(name)
    return names


def is_strange(name: str) -> bool:
    """Return whether a line is no image name (of a file that is no list of names, or one that leads out of the folder)."""
    return len(name) > 200 or not name.isprintable() or ".." in name.split("/")


def listed_names(text: str) -> tuple[str, ...]:
    """Return the lines of a list, without the column -1, 0 or 1 where all have it ("photo 1" alone, with one blank, is a name)."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    column = all(map(_COLUMN.search, lines)) and any(map(_SURE.search, lines))
    return tuple(_COLUMN.sub("", line) if column else line for line in lines)


def image_ids(names: Sequence[str]) -> tuple[int, ...]:
    """Return integers for VOC's image names: their digits ("2007_000027" -> 2007000027) if all have only those, 15 at most, else 1, 2, ...

    Arrays of detections hold ids as floats, which tell integers apart up to 2**53.
    """
    digits = [n.replace("_", "") for n in names]
    if all(d.isascii() and d.isdigit() and len(d) < 16 for d in digits) and len({int(d) for d in digits}) == len(names):
        return tuple(int(d) for d in digits)
    return tuple(range(1, len(names) + 1))


def box_xyxy(x1: float, y1: float, x2: float, y2: float) -> tuple[float, float, float, float]:
    """Return a box of the XML with x2 = x1 + width: VOC's pixels count from 1, and x2, y2 lie inside the box."""
    return x1 - 1, y1 - 1, x2, y2
