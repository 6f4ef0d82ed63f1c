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
