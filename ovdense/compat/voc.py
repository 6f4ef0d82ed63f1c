"""What Pascal VOC's development kit lays down, for those who read its data and those who measure on it."""
from collections.abc import Sequence
from pathlib import Path


def split_names(split_file: Path) -> tuple[str, ...]:
    """Return the image names that .../ImageSets/Main/NAME.txt lists; ValueError when one is there twice, or the file is no list of names."""
    try:
        names = tuple(line.split()[0] for line in split_file.read_text(encoding="utf8").splitlines() if line.strip())
    except UnicodeDecodeError as error:
        raise ValueError(f"{split_file} must be a list of image names in UTF-8, byte {error.start} is not: {error.reason}") from None
    strange = next((name for name in names if len(name) > 200 or not name.isprintable() or ".." in name.split("/")), None)
    if strange is not None:
        raise ValueError(f"{split_file} must be a list of image names, one a line, got {strange[:40]!r}")
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"{split_file}: each image must be listed once, got {name!r} twice")
        seen.add(name)
    return names


def image_ids(names: Sequence[str]) -> tuple[int, ...]:
    """Return integers for VOC's image names: their digits ("2007_000027" -> 2007000027) if all have only those, else 1, 2, ..."""
    digits = [n.replace("_", "") for n in names]
    if all(d.isascii() and d.isdigit() and len(d) < 19 for d in digits) and len({int(d) for d in digits}) == len(names):
        return tuple(int(d) for d in digits)
    return tuple(range(1, len(names) + 1))


def box_xyxy(x1: float, y1: float, x2: float, y2: float) -> tuple[float, float, float, float]:
    """Return a box of the XML with x2 = x1 + width: VOC's pixels count from 1, and x2, y2 lie inside the box."""
    return x1 - 1, y1 - 1, x2, y2
