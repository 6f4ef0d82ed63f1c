"""Features of frozen encoders on disk, so that a second run does not compute them again. Data only: plain arrays, written whole or not at all."""
import warnings
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ovdense.compat.atomic import NotWritten, atomic_write
from ovdense.compat.paths import cache_root
from ovdense.compat.tensor_files import require_honest_zip


class FeatureFiles:
    """Lists of tensors by key, in `folder` (default: `cache_root() / "features"`), under the `fingerprint` of what computed them."""

    def __init__(self, fingerprint: str, folder: str | Path | None = None) -> None:
        self.folder = Path(folder or cache_root() / "features") / fingerprint[:32]
        self._warned = False

    def _path(self, key: bytes) -> Path:
        name = key.hex()
        return self.folder / name[:2] / f"{name[2:]}.npz"

    def get(self, key: bytes) -> list[Tensor] | None:
        """Return the tensors kept under `key`; None where there are none, or where a file is broken (it is then made anew)."""
        path = self._path(key)
        try:
            if zipfile.is_zipfile(path):
                require_honest_zip(path)
            with np.load(path, allow_pickle=False) as file:
                return [torch.from_numpy(file[f"t{n}"]) for n in range(len(file.files))]
        except (OSError, ValueError, KeyError, EOFError, TypeError, AttributeError, SyntaxError, MemoryError, zipfile.BadZipFile, zlib.error):
            return None

    def put(self, key: bytes, tensors: Sequence[Tensor]) -> None:
        """Keep the tensors, or warn once that they cannot be kept; processes may write the same key at once."""
        try:
            with atomic_write(self._path(key), durable=False) as file:  # an image's file each, checked when read: the disk is not waited for
                np.savez(file, **{f"t{n}": t.numpy() for n, t in enumerate(tensors)})
        except NotWritten as error:
            if not self._warned:
                warnings.warn(f"{error}; features are computed again next time, or set OVDENSE_CACHE to a folder with room", stacklevel=2)
            self._warned = True
