"""Embeddings on disk, keyed by all that they depend on; safe for processes that write at once and for files cut short.

A file is written under another name and moved into place whole, and carries a checksum; nothing that is read runs code.
"""
import hashlib
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from ovdense.compat.atomic import replace_file
from ovdense.compat.paths import cache_root
from ovdense.compat.ranks import on_all_ranks

FORMAT = 1


class Embeds(Protocol):
    """What the cache needs of an encoder."""

    def embed(self, sentences: Sequence[str], templates: Sequence[str]) -> Tensor: ...

    def fingerprint(self) -> str: ...


class EmbeddingCache:
    """Rows of sentences on disk under `folder` (default: embeddings in the cache root), one file a request."""

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = Path(folder) if folder is not None else cache_root() / "embeddings"

    def embed(
        self, encoder: Embeds, sentences: Sequence[str], templates: Sequence[str] = ("{}",), dtype: torch.dtype = torch.float32, *, together: bool = False
    ) -> Tensor:
        """Return `encoder.embed(sentences, templates)` on the CPU in `dtype`, read from disk if the same was asked before.

        A damaged file is removed with a warning and its rows are computed again; where a file cannot be read or removed,
        or the folder cannot be written, a warning says so and the rows are returned all the same. `together`: all ranks ask for this at once, and an
        encoder that needs the others to compute is asked on all of them where one of them found nothing.
        """
        key = self.key(encoder.fingerprint(), sentences, templates, dtype)
        path = self.folder / f"{key}.safetensors"
        rows = self._read(path, key, len(sentences), dtype)
        if not (on_all_ranks(rows is not None) if together else rows is not None):
            rows = encoder.embed(list(sentences), tuple(templates)).detach().cpu().to(dtype).contiguous()
            self._write(path, key, rows)
        return rows

    @staticmethod
    def key(fingerprint: str, sentences: Sequence[str], templates: Sequence[str], dtype: torch.dtype) -> str:
        """Return the hash that names a request: encoder weights, templates, sentences (in order) and dtype."""
        if isinstance(sentences, str) or isinstance(templates, str):
            raise ValueError(f"sentences and templates must be sequences of strings, got {sentences!r} and {templates!r}")
        parts = {"format": FORMAT, "encoder": fingerprint, "templates": list(templates), "sentences": list(sentences), "dtype": str(dtype)}
        return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()).hexdigest()

    def _read(self, path: Path, key: str, num_rows: int, dtype: torch.dtype) -> Tensor | None:
        from safetensors import SafetensorError
        from safetensors.torch import load

        try:
            content = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            warnings.warn(f"{path} cannot be read ({error}); its embeddings are computed, see to its permissions or set OVDENSE_CACHE", stacklevel=3)
            return None
        try:
            tensors = load(content)
            rows, checksum = tensors["rows"], bytes(tensors["checksum"].tolist())
            whole = rows.ndim == 2 and len(rows) == num_rows and rows.dtype == dtype and checksum == _checksum(key, rows)
            problem = "its content does not match its checksum"
        except (SafetensorError, KeyError, ValueError) as error:
            whole, problem = False, str(error)
        if whole:
            return rows
        try:
            path.unlink(missing_ok=True)
            outcome = "it is removed"
        except OSError as error:
            outcome = f"it cannot be removed ({error})"
        warnings.warn(f"{path} is damaged ({problem}); {outcome} and its embeddings are computed again", stacklevel=3)
        return None

    def _write(self, path: Path, key: str, rows: Tensor) -> None:
        from safetensors.torch import save

        content = save({"rows": rows, "checksum": torch.tensor(list(_checksum(key, rows)), dtype=torch.uint8)})
        try:
            replace_file(path, content)
        except OSError as error:
            warnings.warn(
                f"embeddings could not be kept in {self.folder} ({error}); they are computed again "
                "next time, set OVDENSE_CACHE to a writable folder",
                stacklevel=3,
            )


def _checksum(key: str, rows: Tensor) -> bytes:
    digest = hashlib.sha256(f"{key} {tuple(rows.shape)} {rows.dtype}".encode())
    digest.update(rows.contiguous().view(-1).view(torch.uint8).numpy())
    return digest.digest()
