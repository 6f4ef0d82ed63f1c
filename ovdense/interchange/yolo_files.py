"""Where the pictures of a YOLO split lie, and the label file of each: the last folder "images" of its path is "labels" there, as Ultralytics has it."""
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ovdense.interchange.files import image_files, read_text


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture's file, its name in the record, its label file (which need not exist) and the folder or list that it comes from."""

    file: Path
    name: str
    label: Path
    source: Path


def labels_of(folder: Path) -> Path | None:
    """Return the folder of labels to a folder of pictures; None where no part of its path is "images"."""
    parts = folder.parts
    at = max((n for n, part in enumerate(parts) if part == "images"), default=None)
    return None if at is None else Path(*parts[:at], "labels", *parts[at + 1:])


def is_list(source: Path) -> bool:
    return source.suffix == ".txt" and not source.is_dir()


def tidy(path: Path) -> Path:
    """Return the path without "..": as it is written where that is there, else by its links."""
    plain = Path(os.path.normpath(path))
    return plain if plain.exists() else path.resolve()


def pictures_of(sources: Sequence[Path], images: Path | None, where: Path) -> list[Picture]:
    """Return the pictures of folders and lists; their names are relative to the folder that holds all. `images` stands for that folder, if given."""
    lists = {source: list(_listed(source, where.parent.absolute(), images)) for source in sources if is_list(source)}
    folders = [s for s in sources if s not in lists] + [p.parent for found in lists.values() for p in found]
    common = Path(os.path.commonpath(folders)) if len(set(folders)) > 1 else folders[0] if folders else Path()
    found: dict[str, Picture] = {}
    for source in sources:
        if source in lists:
            names = [p.relative_to(common) for p in lists[source]]
        else:
            base = images / source.relative_to(common) if images else source
            names = [source.relative_to(common) / p.relative_to(base) for p in image_files(base)]
        for name in names:
            labels = labels_of((common / name).parent)
            if labels is None:
                raise ValueError(f"{where}: {str(common / name)[:400]} must have 'images' in its path (the labels lie in 'labels')")
            if name.as_posix() in found:
                raise ValueError(f"{where}: each picture must be there once, got {name.as_posix()[:200]!r} twice, in {found[name.as_posix()].source.name} "
                                 f"and {source.name}")
            found[name.as_posix()] = Picture(file=(images or common) / name, name=name.as_posix(), label=labels / f"{name.stem}.txt", source=source)
    if not found:
        raise ValueError(f"{where}: the split must have pictures, there are none in {', '.join(str(images or s) for s in sources)[:400]}; "
                         "if they lie elsewhere, give images=")
    return list(found.values())


def _listed(file: Path, here: Path, images: Path | None) -> Iterator[Path]:
    """Yield where the pictures of a list lie: a line is a path from the list's folder, or data.yaml's, perhaps below CVAT's "data/"."""
    for n, line in enumerate(read_text(file).splitlines(), 1):
        if line := line.strip().replace("\\", "/"):
            tries = [root / name for root in (file.parent, here) for name in (line, line.removeprefix("data/"))]
            found = next(filter(os.path.isfile, tries), tries[0] if images else None)
            if found is None:
                raise ValueError(f"{file}, line {n}: the picture must exist, there is no {str(tries[0])[:400]}")
            yield tidy(found)


def check_labels(sources: Sequence[Path], pictures: Sequence[Picture]) -> None:
    """Raise ValueError for label files of no picture, and where labels are missing altogether; warn where all pictures are background."""
    known = {p.label for p in pictures}
    for source in sources:
        mine = [p.label for p in pictures if p.source == source]
        roots = sorted({label.parent for label in mine}) if is_list(source) else [labels_of(source)]
        lost = [] if is_list(source) else [p for p in sorted(roots[0].rglob("*.txt")) if p not in known and p.name != "classes.txt"]
        if lost:
            raise ValueError(f"{lost[0].parent}: {len(lost)} label files have no picture, the first is {lost[0].name}; YOLO's sizes come from the pictures: "
                             "give images=")
        if mine and not any(map(os.path.isfile, mine)):
            if not any(map(os.path.isdir, roots)):
                raise ValueError(f"{source}: the labels of its {len(mine)} pictures were looked for in {roots[0]}, which is missing; "
                                 "make that folder if all are background")
            warnings.warn(f"{source}: none of its {len(mine)} pictures has a label file in {roots[0]}: all are taken for background", stacklevel=2)
