"""Files of tensors, read as data: torch's (zip and legacy), safetensors. Nothing in them can run code, and none can fill the memory by a trick.

What is let through besides tensors and plain values: numpy scalars and arrays, MMEngine's logs, argparse's Namespace (old
releases keep their settings in one). Everything else is refused by name.
"""
import argparse
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging.history_buffer import HistoryBuffer

MOST_GROWTH = 200  # of a zip's content over its file; torch stores tensors as they are, so honest files stay near 1
ROOM = 64 * 2**20  # a small file may grow to this in any case
_core = np._core if hasattr(np, "_core") else np.core


def _statistic(owner: Any, name: str) -> Any:
    """Stand in for the builtin getattr, by which MMEngine's logs name their four statistics: anything else is refused."""
    if owner is not HistoryBuffer or name not in ("min", "max", "mean", "current"):
        raise pickle.UnpicklingError(f"GLOBAL builtins.getattr of {name!r}")
    return getattr(HistoryBuffer, name)


_NUMBERS = (np.float64, np.float32, np.float16, np.int64, np.int32, np.int16, np.int8, np.uint32, np.uint8, np.bool_)
ALLOWED = [
    (_statistic, "builtins.getattr"),
    (_statistic, "__builtin__.getattr"),
    HistoryBuffer,
    argparse.Namespace,
    np.ndarray,
    np.dtype,
    _core.multiarray._reconstruct,
    (_core.multiarray._reconstruct, "numpy.core.multiarray._reconstruct"),
    _core.multiarray.scalar,
    (_core.multiarray.scalar, "numpy.core.multiarray.scalar"),
    *(type(np.dtype(t)) for t in _NUMBERS),
]
_BROKEN = (pickle.UnpicklingError, RuntimeError, EOFError, LookupError, ValueError, AttributeError, TypeError, OSError, zipfile.BadZipFile,
           MemoryError, OverflowError, RecursionError)  # fmt: skip


def read_tensors(path: str | Path, map_location: Any = "cpu", what: str = "a checkpoint") -> dict[str, Any]:
    """Return the mapping in a file of tensors; nothing in the file can run code.

    FileNotFoundError for a missing file; ValueError, which names the file, when it is cut short, is another kind of file, asks for
    anything but tensors and plain values, would unpack to far more than its size, or holds no mapping.
    """
    path = Path(path).expanduser()
    try:
        if not path.is_file():
            raise FileNotFoundError(f"{what} must be an existing file, got {path}")
        content = _safetensors(path, map_location) if _is_safetensors(path) else _torch(path, map_location)
    except _Refused as error:
        raise ValueError(str(error)) from None
    except FileNotFoundError:
        raise
    except _BROKEN as error:
        refused = re.search(r"GLOBAL ([\w.]+)", str(error))
        if refused:
            raise ValueError(f"{path} must hold tensors and plain values only, but asks for {refused[1]}, which could run code; it is not loaded") from None
        raise ValueError(f"{path} is not a whole checkpoint: it is cut short, or another kind of file ({type(error).__name__} on reading it)") from None
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{path} must hold a mapping with the model's weights, got {'an empty one' if isinstance(content, dict) else type(content).__name__}")
    return content


class _Refused(ValueError):
    pass


def _torch(path: Path, map_location: Any) -> Any:
    if zipfile.is_zipfile(path):
        require_honest_zip(path)
    with torch.serialization.safe_globals(ALLOWED):
        return torch.load(path, map_location=map_location, weights_only=True)


def require_honest_zip(path: Path) -> None:
    """Raise ValueError for an archive whose members would unpack to far more than the file's size."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    grown, size = sum(m.file_size for m in members), path.stat().st_size
    if grown > max(ROOM, MOST_GROWTH * size):
        raise _Refused(f"{path} must unpack to about its size, but its {size:,} bytes would become {grown:,}; it is not loaded")


def _is_safetensors(path: Path) -> bool:
    """Return whether the file begins as safetensors do: the length of a JSON header, then its brace."""
    with open(path, "rb") as file:
        start = file.read(9)
    return path.suffix == ".safetensors" or (len(start) == 9 and start[8:] == b"{" and 0 < int.from_bytes(start[:8], "little") < path.stat().st_size)


def _safetensors(path: Path, map_location: Any) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    device = map_location if isinstance(map_location, str) else "cpu"
    try:
        return load_file(path, device=device)
    except SafetensorError as error:
        raise RuntimeError(str(error)) from None
