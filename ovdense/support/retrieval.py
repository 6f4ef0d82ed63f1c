"""Retrieval of images by text: an index of an archive's embeddings, exact or by FAISS, over one process or many.

    index = index_images(paths, embedder)                       # computes what is not known yet
    found = index.top_k(encoder.encode_text(["zebra"]).rows_MD, k=50)

Images of the archive that are missing or broken are reported and left out. Q queries, N images, D width.
"""
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from mmengine import dist
from mmengine.logging import print_log
from torch import Tensor

from ovdense.compat.atomic import atomic_write, remove_left
from ovdense.compat.images import SUFFIXES, decode_upright
from ovdense.compat.paths import cache_root, describe_data_root
from ovdense.compat.ranks import gather_json
from ovdense.support.pool import EmbeddingPool, content_key

Engine = Literal["exact", "faiss"]
BLOCK = 65536  # rows compared at once
FAISS_FROM = 1_000_000  # images from which an approximate index is worth it


def archive_missing(entry: str | Path, data_root: str | Path | None, option: str) -> str:
    """Return what is said of an archive of images that is not there; `option`: the setting that names it."""
    below = "" if Path(entry).is_absolute() else f", below {describe_data_root(data_root)}"
    return (f"the archive of images {str(entry)!r} must be an existing folder or file{below}; name another by its absolute path: "
            f"--cfg-options {option}=/FOLDER")  # fmt: skip


class EmbedsImages(Protocol):
    """What the index needs of an encoder."""

    width: int

    def embed_images(self, images: Sequence[np.ndarray]) -> Tensor:
        """Return unit vectors (N, D) of (H, W, 3) uint8 RGB images."""
        ...

    def fingerprint(self) -> str: ...


@dataclass(frozen=True, kw_only=True)
class Retrieved:
    """The best images of each query, best first: positions in the index and cosines, (Q, k), k at most the number of images."""

    position_Qk: Tensor
    score_Qk: Tensor


class ImageIndex:
    """Embeddings of images in the archive's order. `skipped` says which images were left out, and why."""

    def __init__(self, paths: Sequence[Path], keys: Sequence[bytes], pool: EmbeddingPool, skipped: dict[Path, str] | None = None) -> None:
        self.paths, self.keys, self.pool = tuple(paths), tuple(keys), pool
        self.skipped = skipped or {}
        self._places = pool.places(self.keys)
        self._fingerprint = ""

    def __len__(self) -> int:
        return len(self.paths)

    def fingerprint(self) -> str:
        """Return a hash of the contents in order (and of the encoder, which the pool's folder names)."""
        if not self._fingerprint:  # asked for each class; of ImageNet's it takes a tenth of a second
            self._fingerprint = hashlib.sha256(self.pool.folder.name.encode() + b"".join(self.keys)).hexdigest()[:32]
        return self._fingerprint

    def rows(self, start: int, stop: int) -> Tensor:
        """Return (stop - start, D) vectors."""
        rows = self.pool.rows(self._places[start:stop])
        return torch.from_numpy(rows if rows.flags.writeable else np.array(rows))

    def top_k(self, queries_QD: Tensor, k: int, *, engine: Engine = "exact", factory: str | None = None, nprobe: int = 32) -> Retrieved:
        """Return the k images with the largest cosine to each query, equal ones in the archive's order.

        "faiss" looks in an approximate index (`factory`, FAISS's index string; by default inverted lists as many as 4 x the root of
        the images, `nprobe` of them visited), kept beside the embeddings; what it finds is ranked by exact cosines, and where that is fewer than k, all
        images are. With several processes each searches its part of the archive, and all get the same answer.
        """
        if engine not in ("exact", "faiss"):
            raise ValueError(f'engine must be "exact" or "faiss", got {engine!r}')
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        queries_QD = queries_QD.detach().float().cpu()
        if queries_QD.ndim != 2 or queries_QD.shape[1] != self.pool.width:
            raise ValueError(f"queries must have shape (Q, {self.pool.width}), as the embeddings, got {tuple(queries_QD.shape)}")
        rank, world = dist.get_rank(), dist.get_world_size()
        start, stop = (len(self) * r // world for r in (rank, rank + 1))
        if engine == "exact":
            found = self._exact(queries_QD, k, start, stop)
        else:
            found = self._approximate(queries_QD, k, start, stop, factory, nprobe)
        if world > 1:
            parts = gather_json([[position.tolist(), score.tolist()] for position, score in found])  # float32 goes through JSON and back to the bit
            found = [_merged([(torch.tensor(p, dtype=torch.int64), torch.tensor(s, dtype=torch.float32)) for p, s in (part[q] for part in parts)], k)
                     for q in range(len(queries_QD))]  # fmt: skip
        return Retrieved(position_Qk=torch.stack([p for p, _ in found]), score_Qk=torch.stack([s for _, s in found]))

    def _exact(self, queries_QD: Tensor, k: int, start: int, stop: int) -> list[tuple[Tensor, Tensor]]:
        found = [(torch.zeros(0, dtype=torch.int64), torch.zeros(0))] * len(queries_QD)
        for first in range(start, stop, BLOCK):
            score_QN = queries_QD @ self.rows(first, min(first + BLOCK, stop)).T
            for q, score_N in enumerate(score_QN):
                found[q] = _merged([found[q], _best(score_N, k, first)], k)
        return found

    def _approximate(self, queries_QD: Tensor, k: int, start: int, stop: int, factory: str | None, nprobe: int) -> list[tuple[Tensor, Tensor]]:
        faiss = _faiss()
        if start == stop:  # more processes than images
            return self._exact(queries_QD, k, start, stop)
        engine = self._faiss_index(faiss, start, stop, factory)
        if hasattr(engine, "nprobe"):
            engine.nprobe = nprobe
        _, near_Qk = engine.search(np.ascontiguousarray(queries_QD.numpy()), min(4 * k, stop - start))
        found = []
        for query_D, near in zip(queries_QD, near_Qk):
            position = np.sort(near[near >= 0]) + start
            if len(position) < min(k, stop - start):  # the lists that were visited hold fewer
                found += self._exact(query_D[None], k, start, stop)
                continue
            score_N = torch.from_numpy(np.asarray(self.pool.rows(self._places[position]))) @ query_D
            found.append(_merged([(torch.from_numpy(position), score_N)], k))
        return found

    def _faiss_index(self, faiss, start: int, stop: int, factory: str | None):
        """Return the FAISS index of these images: read, or made and kept."""
        lists = max(1, min(int(4 * (stop - start) ** 0.5), (stop - start) // 39))  # FAISS wants 39 points a list
        factory = factory or f"IVF{lists},Flat"
        name = hashlib.sha256(f"{self.fingerprint()} {start} {stop} {factory}".encode()).hexdigest()[:16]
        path = self.pool.folder / f"faiss-{name}.index"
        if path.is_file():
            try:
                return faiss.read_index(str(path))
            except RuntimeError as error:
                said = str(error).splitlines()[0][:200]
                raise ValueError(f"{path} must be an index that FAISS wrote, but is damaged ({said}); remove it, it is made again") from None
        engine = faiss.index_factory(self.pool.width, factory, faiss.METRIC_INNER_PRODUCT)
        if not engine.is_trained:
            wanted = min(stop - start, 64 * lists)
            chosen = np.sort(np.random.default_rng(0).choice(stop - start, wanted, replace=False)) + start
            engine.train(np.ascontiguousarray(self.pool.rows(self._places[chosen])))
        for first in range(start, stop, BLOCK):
            engine.add(np.ascontiguousarray(self.rows(first, min(first + BLOCK, stop)).numpy()))
        remove_left(path.parent)
        with atomic_write(path) as file:
            faiss.write_index(engine, faiss.PyCallbackIOWriter(file.write))
        return engine


def _best(score_N: Tensor, k: int, first: int) -> tuple[Tensor, Tensor]:
    """Return positions (from `first`) and scores of the k largest, equal ones by position; topk alone would not keep that order."""
    if k < len(score_N):
        kept = (score_N >= score_N.topk(k).values[-1]).nonzero()[:, 0]
    else:
        kept = torch.arange(len(score_N))
    return _merged([(kept + first, score_N[kept])], k)


def _merged(parts: Sequence[tuple[Tensor, Tensor]], k: int) -> tuple[Tensor, Tensor]:
    """Return the k best of several (rising positions, scores)."""
    position, score = torch.cat([p for p, _ in parts]), torch.cat([s for _, s in parts])
    by_position = position.argsort()
    order = by_position[score[by_position].argsort(descending=True, stable=True)][:k]
    return position[order], score[order]


def _faiss():
    try:
        import faiss
    except ImportError as error:
        raise ModuleNotFoundError(
            'engine "faiss" needs the package faiss-cpu, which is not installed: pip install ovdense[faiss]; or use engine="exact"', name="faiss"
        ) from error
    return faiss


def folder_images(folder: str | Path) -> tuple[Path, ...]:
    """Return the image files in a folder and below it, by suffix, sorted; ValueError when there are none."""
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"an archive must be an existing folder of images, got {folder}")
    found = tuple(sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and not p.is_dir()))
    if not found:
        raise ValueError(f"the folder {folder} must hold images ({' '.join(SUFFIXES)}), found none")
    return found


def index_images(
    paths: Sequence[str | Path], embedder: EmbedsImages, *, folder: str | Path | None = None, batch_size: int = 32, progress: bool = True
) -> ImageIndex:
    """Return the index of these images; only contents that this encoder has not embedded before are computed.

    Embeddings are kept in `folder` (default: index in the cache root), by the encoder's fingerprint, and written after each
    batch. With several processes each embeds its part. A broken image, or one that has gone, is reported and skipped.
    """
    paths = [Path(p).expanduser().absolute() for p in paths]
    root = Path(folder) if folder is not None else cache_root() / "index"
    pool = EmbeddingPool(root / hashlib.sha256(embedder.fingerprint().encode()).hexdigest()[:32], embedder.width)
    keys = {path: pool.known_file(path) for path in paths}
    unknown = [path for path in keys if keys[path] is None]
    skipped: dict[Path, str] = {}
    several = dist.get_world_size() > 1
    if unknown or several:
        # shares of all paths: what is known differs where one process has begun before another looked
        mine = [path for path in list(keys)[dist.get_rank() :: dist.get_world_size()] if keys[path] is None]
        skipped = _embed_files(mine, embedder, pool, batch_size, progress and dist.is_main_process()) if mine else {}
        if several:
            skipped = {Path(path): reason for part in gather_json([[str(p), r] for p, r in skipped.items()]) for path, reason in part}
        pool.refresh()
        keys.update({path: pool.known_file(path) for path in unknown})
        for path in unknown:
            if keys[path] is None:
                skipped.setdefault(path, "it changed while it was indexed")
    if skipped and dist.is_main_process():
        some = "; ".join(f"{path}: {reason}" for path, reason in list(skipped.items())[:5])
        more = f"; and {len(skipped) - 5} more" if len(skipped) > 5 else ""
        print_log(f"{len(skipped)} of {len(paths)} images are left out of the index: {some}{more}", logger="current", level=30)
    kept = [path for path in dict.fromkeys(paths) if path not in skipped]
    if not kept:
        raise ValueError(f"an archive must have at least one image that can be read, got none of {len(paths)}")
    return ImageIndex(kept, [keys[path] for path in kept], pool, skipped)


def _embed_files(paths: Sequence[Path], embedder: EmbedsImages, pool: EmbeddingPool, batch_size: int, progress: bool) -> dict[Path, str]:
    """Embed the contents of `paths` that the pool lacks, and note the files; return those that could not be read, with the reason."""
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    skipped: dict[Path, str] = {}
    writer = pool.writer()
    try:
        for batch in _batches(paths, batch_size, progress):
            fresh: dict[bytes, np.ndarray] = {}
            files = []
            for path in batch:
                try:
                    stat, content = path.stat(), path.read_bytes()
                    key = content_key(content)
                    if key not in pool and key not in fresh:
                        fresh[key] = decode_upright(content, path)
                    files.append((path, stat, key))
                except (OSError, ValueError) as error:
                    skipped[path] = str(error)
            rows = embedder.embed_images(list(fresh.values())).float().cpu().numpy() if fresh else np.zeros((0, pool.width), dtype=np.float32)
            writer.append(list(fresh), np.ascontiguousarray(rows), files)
    finally:
        writer.close()
    return skipped


def _batches(paths: Sequence[Path], size: int, progress: bool) -> Iterator[Sequence[Path]]:
    """Yield batches, with a bar of the images done."""
    if not progress:
        yield from (paths[n : n + size] for n in range(0, len(paths), size))
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    with Progress(TextColumn("indexing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), transient=True) as bar:
        task = bar.add_task("indexing", total=len(paths))
        for n in range(0, len(paths), size):
            yield paths[n : n + size]
            bar.advance(task, len(paths[n : n + size]))
