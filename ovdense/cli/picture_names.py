"""Where ovdense predict writes: a name for each photo's pictures, and never over a file of the user's own."""
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain, count
from pathlib import Path

SHEET, PREDICTIONS = "contact_sheet.jpg", "predictions.json"


def picture_names(files: Sequence[Path]) -> list[str]:
    """Return a name, without .jpg, for each photo's picture: its stem where only one photo has it, else its whole name, numbered where it is taken.

    Taken are the names of the others, of their heat maps (NAME_heat) and of the contact sheet, in capitals or not.

    >>> picture_names([Path("a.jpg"), Path("a.png"), Path("a_jpg.jpg"), Path("b.jpg"), Path("b_heat.jpg")])
    ['a_jpg', 'a_png', 'a_jpg_2', 'b', 'b_heat_2']
    """
    stems, whole = [f.stem.casefold() for f in files], [f.name.casefold() for f in files]
    num_stem, num_whole, tried = Counter(stems), Counter(whole), Counter()
    taken, names = {Path(SHEET).stem}, []
    for n, file in enumerate(files):
        alone = num_stem[stems[n]] == 1
        name = file.stem if alone else file.name.replace(".", "_")
        plain = [(0, name)] if alone or num_whole[whole[n]] == 1 else []
        numbered = ((k, f"{name}_{k}") for k in count(max(1 + len(plain), tried[name])))  # lazily: there may be many thousand photos
        k, found = next((k, c) for k, c in chain(plain, numbered) if taken.isdisjoint({c.casefold(), f"{c.casefold()}_heat"}))
        tried[name] = k + 1
        taken |= {found.casefold(), f"{found.casefold()}_heat"}
        names.append(found)
    return names


def record_names(files: Sequence[Path]) -> list[str]:
    """Return what each photo is called in predictions.json: its file's name; where two photos have one name, all paths from the folder that holds them all.

    >>> record_names([Path("a/1.jpg"), Path("a/2.jpg")]), record_names([Path("a/1.jpg"), Path("b/1.jpg")])
    (['1.jpg', '2.jpg'], ['a/1.jpg', 'b/1.jpg'])
    """
    names = [f.name for f in files]
    if len(set(names)) == len(names):
        return names
    whole = [Path(os.path.abspath(f.expanduser())) for f in files]  # without "..", which no reader of annotations takes
    common = os.path.commonpath([f.parent for f in whole])
    return [f.relative_to(common).as_posix() for f in whole]


def require_free(out: str | Path, names: Iterable[str], files: Sequence[Path], heat: bool) -> Path:
    """Return the folder `out`; ValueError where what is written there would take the place of a photo, or of any file beside the photos."""
    folder = Path(out).expanduser()
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"--out must be a folder, {out} is a file")
    written = [f"{name}{end}.jpg" for name in names for end in ("", "_heat")[: 1 + heat]] + [SHEET] * (len(files) > 1) + [PREDICTIONS]
    own = {f.expanduser().resolve() for f in files}
    beside = folder.resolve() in {place for f in files for place in (f.expanduser().resolve().parent, f.expanduser().parent.resolve())}
    for target in (folder / name for name in written):
        if target.exists() and (beside or target.resolve() in own):
            raise ValueError(f"--out {out} would overwrite {target}; give another folder")
    return folder
