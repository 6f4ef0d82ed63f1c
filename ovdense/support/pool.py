"""Embeddings of images on disk, keyed by the images' content: memory-mapped, appended batch by batch.

A batch's vectors are written before their keys, so that a process that is killed loses the batch it was at and no more,
and a tail that was cut short is never read. Each writing process has a shard of its own. D width.
"""
import fcntl
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ovdense.compat.atomic import append_to, replace_file
from ovdense.compat.json_text import loads

KEY_BYTES = 16
FORMAT = 1


def content_key(content: bytes) -> bytes:
    """Return the key of an image file's content."""
    return hashlib.sha256(content).digest()[:KEY_BYTES]


class EmbeddingPool:
    """Unit vectors (float32, `width` wide) of images under `folder`, by content key."""

    def __init__(self, folder: str | Path, width: int) -> None:
        self.folder, self.width = Path(folder), width
        self.folder.mkdir(parents=True, exist_ok=True)
        about = {"format": FORMAT, "width": width}
        path = self.folder / "pool.json"
        if path.is_file() and _said(path) != about:
            raise ValueError(f"{path} must say {about}, got {_said(path)!r:.80}; it belongs to another encoder or is damaged, remove {self.folder}")
        if not path.is_file():
            replace_file(path, json.dumps(about))
        self.refresh()

    def refresh(self) -> None:
        """See what has been written by now, by any process."""
        self._maps: list[np.memmap] = []
        self._place: dict[bytes, tuple[int, int]] = {}
        self._files: dict[str, tuple[int, int, bytes]] = {}
        for keys_path in sorted(self.folder.glob("shard-*.keys")):
            rows_path = keys_path.with_suffix(".rows")
            keys = keys_path.read_bytes()
            count = min(len(keys) // KEY_BYTES, rows_path.stat().st_size // (4 * self.width))
            if count:
                for n in range(count):
                    self._place.setdefault(keys[n * KEY_BYTES : (n + 1) * KEY_BYTES], (len(self._maps), n))
                self._maps.append(np.memmap(rows_path, dtype=np.float32, mode="r", shape=(count, self.width)))
        for path in sorted(self.folder.glob("shard-*.files")):
            self._files.update(_read_files(path))

    def __len__(self) -> int:
        return len(self._place)

    def __contains__(self, key: bytes) -> bool:
        return key in self._place

    def known_file(self, path: Path) -> bytes | None:
        """Return the key of a file that was read before and has kept its size and time since; None otherwise."""
        known = self._files.get(str(path))
        if known is None:
            return None
        try:
            now = path.stat()
        except OSError:
            return None
        return known[2] if (now.st_size, now.st_mtime_ns) == known[:2] and known[2] in self else None

    def places(self, keys: Sequence[bytes]) -> np.ndarray:
        """Return (N, 2) int64: the shard and the row of each key; KeyError for one that is not there."""
        return np.array([self._place[key] for key in keys], dtype=np.int64).reshape(-1, 2)

    def rows(self, places_N2: np.ndarray) -> np.ndarray:
        """Return (N, D) float32; a view into the file where the rows follow each other in one shard."""
        if len(places_N2) and (places_N2[:, 0] == places_N2[0, 0]).all():
            table, rows = self._maps[places_N2[0, 0]], places_N2[:, 1]
            if rows[-1] - rows[0] == len(rows) - 1 and (np.diff(rows) == 1).all():
                return table[rows[0] : rows[-1] + 1]
            return table[rows]
        out = np.empty((len(places_N2), self.width), dtype=np.float32)
        for shard in np.unique(places_N2[:, 0]):
            here = places_N2[:, 0] == shard
            out[here] = self._maps[shard][places_N2[here, 1]]
        return out

    def writer(self) -> "PoolWriter":
        """Return a writer to a shard that no other process writes to."""
        number = 0
        while True:
            lock = open(self.folder / f"shard-{number:04d}.lock", "w")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return PoolWriter(self.folder / f"shard-{number:04d}", self.width, lock)
            except BlockingIOError:
                lock.close()
                number += 1


class PoolWriter:
    """Appends batches to one shard; `close` gives the shard free."""

    def __init__(self, stem: Path, width: int, lock) -> None:
        self._width, self._lock = width, lock
        self._rows, self._keys, self._files = (open(stem.with_suffix(f".{kind}"), "ab", buffering=0) for kind in ("rows", "keys", "files"))
        count = min(self._rows.tell() // (4 * width), self._keys.tell() // KEY_BYTES)
        self._rows.truncate(count * 4 * width)  # what a killed process has left half written
        self._keys.truncate(count * KEY_BYTES)
        self._files.truncate(_whole_lines(stem.with_suffix(".files")))

    def append(self, keys: Sequence[bytes], rows_ND: np.ndarray, files: Sequence[tuple[Path, os.stat_result, bytes]]) -> None:
        """Write a batch: the vectors of new contents, and which files held which content when they were read."""
        if rows_ND.shape != (len(keys), self._width) or rows_ND.dtype != np.float32:
            raise ValueError(f"rows must be float32 of shape {(len(keys), self._width)}, got {rows_ND.dtype} {rows_ND.shape}")
        lines = [json.dumps([str(path), stat.st_size, stat.st_mtime_ns, key.hex()], ensure_ascii=False) + "\n" for path, stat, key in files]
        append_to([(self._rows, rows_ND.tobytes()), (self._keys, b"".join(keys)), (self._files, "".join(lines).encode())])

    def close(self) -> None:
        for file in (self._rows, self._keys, self._files, self._lock):
            file.close()


def _said(path: Path) -> object:
    """Return the JSON in a file, the beginning of what is no JSON."""
    content = path.read_bytes()
    try:
        return loads(content)
    except ValueError:
        return content[:40]


def _whole_lines(path: Path) -> int:
    """Return the bytes of a file up to the end of its last whole line."""
    return path.read_bytes().rfind(b"\n") + 1


def _read_files(path: Path) -> dict[str, tuple[int, int, bytes]]:
    """Return {path: (size, time, key)} of the whole lines of a file."""
    found = {}
    for line in path.read_bytes().split(b"\n"):
        try:
            name, size, time, key = loads(line)
            found[name] = (size, time, bytes.fromhex(key))
        except (ValueError, TypeError, RecursionError):  # the last line of a killed process, or nothing after the last newline
            continue
    return found
