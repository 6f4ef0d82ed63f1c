"""Where data and caches live: one rule for every room."""
import os
from pathlib import Path


def cache_root() -> Path:
    """Return the folder for what the package makes itself: OVDENSE_CACHE, else ~/.cache/ovdense. Not created here."""
    return Path(os.environ.get("OVDENSE_CACHE") or Path.home() / ".cache" / "ovdense").expanduser()


def data_path(relative: str | Path, data_root: str | Path | None = None) -> Path:
    """Return `relative` under the data root: the argument, else OVDENSE_DATA, else ./data. Absolute paths stay."""
    root = Path(data_root or os.environ.get("OVDENSE_DATA") or "data").expanduser()
    return root / relative


def path_below(folder: str | Path, name: str) -> Path:
    """Return where a file that an annotation names goes below `folder`: parts that lead out of it ("..", a leading "/") are dropped."""
    return Path(folder, *(part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")))


def describe_data_root(data_root: str | Path | None = None) -> str:
    """Return which folder is the data root, what set it, and up to 5 of its entries, for error messages."""
    root = data_path("", data_root)
    origin = "data_root" if data_root else "OVDENSE_DATA" if os.environ.get("OVDENSE_DATA") else "the default: data_root and OVDENSE_DATA are not set"
    if not root.is_dir():
        return f"the data root {root.absolute()} ({origin}), which is no folder"
    names = sorted(p.name + "/" * p.is_dir() for p in root.iterdir())
    held = f"holds {', '.join(names[:5])}{f' and {len(names) - 5} more' if len(names) > 5 else ''}" if names else "is empty"
    return f"the data root {root.absolute()} ({origin}), which {held}"
