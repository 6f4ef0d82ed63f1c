"""K-means over more rows than memory holds: rows are kept on disk beyond a limit and clustered in blocks.

At 32 images of 64x64 places and 7,680 features a class has up to 4 GB of them. Results do not depend on where the rows are kept. Differs from the release
(scikit-learn's): plain k-means++ without trials, 50 iterations at most (there 300). N rows, C width, K clusters.
"""
import tempfile
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

MEMORY_BYTES = 256 * 2**20
BLOCK_BYTES = 32 * 2**20
SAMPLE_BYTES = 128 * 2**20
ITERATIONS, TOLERANCE = 50, 1e-4


class RowStore:
    """Float32 rows, appended and read back in blocks; beyond `memory_bytes` all of them lie in a temporary file."""

    def __init__(self, width: int, memory_bytes: int = MEMORY_BYTES) -> None:
        self.width, self.memory_bytes, self.count = width, memory_bytes, 0
        self._rows: list[Tensor] = []
        self._file = None

    def append(self, rows_NC: Tensor) -> None:
        rows_NC = rows_NC.detach().to("cpu", torch.float32)
        if rows_NC.ndim != 2 or rows_NC.shape[1] != self.width:
            raise ValueError(f"rows must have shape (N, {self.width}), got {tuple(rows_NC.shape)}")
        self.count += len(rows_NC)
        if self._file is None and 4 * self.count * self.width > self.memory_bytes:
            self._file = tempfile.TemporaryFile()
            for kept in self._rows:
                self._file.write(kept.numpy().tobytes())
            self._rows = []
        if self._file is None:
            self._rows.append(rows_NC.clone())
        else:
            self._file.write(rows_NC.contiguous().numpy().tobytes())

    def blocks(self, block_bytes: int = BLOCK_BYTES) -> Iterator[Tensor]:
        """Yield all rows in order, in blocks of the same sizes wherever they lie."""
        step = max(1, block_bytes // (4 * self.width))
        if self._file is None:
            yield from (torch.cat(self._rows) if self._rows else torch.zeros(0, self.width)).split(step) if self.count else ()
            return
        for start in range(0, self.count, step):
            number = min(step, self.count - start)
            self._file.seek(4 * start * self.width)
            yield torch.from_numpy(np.frombuffer(self._file.read(4 * number * self.width), np.float32).reshape(number, self.width).copy())
        self._file.seek(0, 2)

    def take(self, index_N: Tensor) -> Tensor:
        """Return the rows of these ascending indices."""
        out, start = [], 0
        for block in self.blocks():
            inside = index_N[(index_N >= start) & (index_N < start + len(block))] - start
            out.append(block[inside])
            start += len(block)
        return torch.cat(out) if out else torch.zeros(0, self.width)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._rows = []


def seed_centres(rows_NC: Tensor, num_clusters: int, generator: torch.Generator) -> Tensor:
    """Return (K, C) rows chosen by k-means++; fewer where there are not so many different rows."""
    chosen = [int(torch.randint(len(rows_NC), (), generator=generator))]
    square_N = rows_NC.pow(2).sum(1)
    nearest_N = _distance(rows_NC, square_N, rows_NC[chosen])[:, 0]
    floor = 1e-10 * float(square_N.max())
    for _ in range(num_clusters - 1):
        weight_N = nearest_N.where(nearest_N > floor, torch.zeros(())).double()
        if float(weight_N.sum()) <= 0:
            break
        chosen.append(int(torch.multinomial(weight_N, 1, generator=generator)))
        nearest_N = torch.minimum(nearest_N, _distance(rows_NC, square_N, rows_NC[chosen[-1:]])[:, 0])
    return rows_NC[chosen]


def _distance(rows_NC: Tensor, square_N: Tensor, centres_KC: Tensor) -> Tensor:
    return (square_N[:, None] - 2 * rows_NC @ centres_KC.T + centres_KC.pow(2).sum(1)).clamp(min=0)


def lloyd(rows: RowStore, centres_KC: Tensor, iterations: int = ITERATIONS, tolerance: float = TOLERANCE) -> Tensor:
    """Return the (K, C) centres after Lloyd's iterations from these; a centre that no row is nearest to stays where it is.

    Ends when the centres' squared shift is below `tolerance` x the rows' mean variance, as scikit-learn does, or when no row changes.
    """
    variance = _mean_variance(rows)
    before = None
    for _ in range(iterations):
        total, count, labels = torch.zeros(centres_KC.shape, dtype=torch.float64), torch.zeros(len(centres_KC), dtype=torch.float64), []
        half_K = centres_KC.pow(2).sum(1) / 2
        for block in rows.blocks():
            nearest = (half_K - block @ centres_KC.T).argmin(1)
            total += torch.zeros(centres_KC.shape).index_add_(0, nearest, block).double()
            count += nearest.bincount(minlength=len(centres_KC))
            labels.append(nearest)
        moved = torch.where(count[:, None] > 0, total / count.clamp(min=1)[:, None], centres_KC.double()).float()
        shift, centres_KC = float((moved - centres_KC).pow(2).sum()), moved
        label_N = torch.cat(labels)
        if before is not None and torch.equal(label_N, before) or shift <= tolerance * variance:
            break
        before = label_N
    return centres_KC


def _mean_variance(rows: RowStore) -> float:
    total, square = torch.zeros(rows.width, dtype=torch.float64), torch.zeros(rows.width, dtype=torch.float64)
    for block in rows.blocks():
        total += block.sum(0).double()
        square += block.pow(2).sum(0).double()
    return float((square / rows.count - (total / rows.count) ** 2).clamp(min=0).mean())


def cluster(rows: RowStore, num_clusters: int, seed: int = 0) -> Tensor:
    """Return up to (K, C) k-means centres: k-means++ on a sample of the rows that fits in memory, Lloyd's iterations on all."""
    if num_clusters < 1:
        raise ValueError(f"num_clusters must be at least 1, got {num_clusters}")
    if rows.count == 0:
        return torch.zeros(0, rows.width)
    generator = torch.Generator().manual_seed(seed)
    most = max(num_clusters, SAMPLE_BYTES // (4 * rows.width))
    index = torch.arange(rows.count) if rows.count <= most else torch.randperm(rows.count, generator=generator)[:most].sort().values
    return lloyd(rows, seed_centres(rows.take(index), num_clusters, generator))
