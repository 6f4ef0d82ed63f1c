"""Time and memory of ReCo's parts, in one run: co-segmentation against the published arithmetic, and retrieval: python tools/benchmark_reco.py"""
import argparse
import gc
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ovdense.cli.parser import Parser
from ovdense.compat.atomic import replace_file
from ovdense.measure import PeakMemory, print_rows
from ovdense.methods.reco.cosegment import cosegment

SIZES = ((50, 14), (12, 40), (50, 40))  # images, side of the grid: the paper's, finer maps of fewer images, and both
GROWTH_SIDES = (7, 10, 14, 20, 28)  # at 50 images
GROWTH_IMAGES = (10, 20, 50, 100, 200)  # at 14 x 14


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(description="Measure co-segmentation (CPU seconds of one thread, peak memory, equal seeds) and retrieval.")
    parser.add_argument("--channels", type=int, default=384, help="width of the features (default: %(default)s, DeiT-S)")
    parser.add_argument("--largest-at-once", type=int, default=20_000, metavar="PATCHES",
                        help="the published arithmetic holds patches x patches numbers twice; above this it is not tried (default: %(default)s)")  # fmt: skip
    parser.add_argument("--index-images", type=int, default=100_000, help="embeddings in the retrieval index; 0 leaves retrieval out (default: %(default)s)")
    parser.add_argument("--index-width", type=int, default=384)
    parser.add_argument("--skip-cosegmentation", action="store_true")
    parser.add_argument("--out", default="benchmark_reco.json", metavar="FILE", help="numbers as JSON; the plot goes beside it (default: %(default)s)")
    return parser.parse_args(argv)


def all_at_once(feat_NCHW: Tensor, weight_NHW: Tensor) -> tuple[Tensor, Tensor]:
    """Return grid and seeds by the published steps: the full matrix, the weighted matrix, slices that run too far."""
    n, c, h, w = feat_NCHW.shape
    place_MC = feat_NCHW.permute(0, 2, 3, 1).reshape(-1, c)
    place_MC = place_MC / place_MC.norm(dim=1, keepdim=True)
    cosine_MM = place_MC @ place_MC.T
    if not (float(cosine_MM.min()) > -1.01 and float(cosine_MM.max()) < 1.01):  # it checks the range, which reads all of it
        raise ValueError("not cosines")
    cosine_MM = cosine_MM * weight_NHW.flatten()
    p = h * w
    grid_MN = torch.stack([cosine_MM[:, j * p : j * p + (j + 1) * p].amax(1) for j in range(n)], dim=1)
    seeds = grid_MN.mean(1).view(n, p).argmax(1)
    return grid_MN, torch.stack([seeds // w, seeds % w], dim=1)


def measured(run: Callable[[], object]) -> tuple[object, float, float]:
    """Return what `run` gives, its CPU seconds, and the memory (MiB) by which it exceeded that at its start."""
    gc.collect()
    with PeakMemory() as before:
        time.sleep(0.02)
    with PeakMemory() as peak:
        start = time.process_time()
        result = run()
        seconds = time.process_time() - start
    return result, seconds, peak.mib - before.mib


def one_size(images: int, side: int, channels: int, largest_at_once: int) -> dict:
    generator = torch.Generator().manual_seed(images * 1000 + side)
    feat, weight = torch.randn(images, channels, side, side, generator=generator), torch.rand(images, side, side, generator=generator)
    patches = images * side * side
    ours, seconds, mib = measured(lambda: cosegment(feat, weight))
    row = {"images": images, "grid": f"{side} x {side}", "patches": patches, "ours_cpu_s": round(seconds, 2), "ours_MiB": round(mib),
           "published_cpu_s": None, "published_MiB": None, "ratio": None, "seeds_equal": None}  # fmt: skip
    if patches <= largest_at_once:
        (_, seeds), seconds_all, mib_all = measured(lambda: all_at_once(feat, weight))
        row |= {"published_cpu_s": round(seconds_all, 2), "published_MiB": round(mib_all), "ratio": round(seconds_all / seconds, 1),
                "seeds_equal": bool(torch.equal(seeds, ours.seed_yx_N2))}  # fmt: skip
    else:
        row["published_MiB"] = f"would need {2 * 4 * patches**2 / 2**20:,.0f}"
    return row


def retrieval(images: int, width: int, k: int = 50, queries: int = 80) -> dict:
    """Index synthetic embeddings (clusters, unit length) and search them, exactly and by FAISS."""
    import tempfile

    from ovdense.support.pool import EmbeddingPool, content_key
    from ovdense.support.retrieval import ImageIndex

    rng = np.random.default_rng(0)
    centres = rng.standard_normal((1000, width)).astype(np.float32)
    rows = centres[rng.integers(1000, size=images)] + 1.0 * rng.standard_normal((images, width)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    asked = F.normalize(torch.from_numpy(centres[rng.integers(1000, size=queries)] + 0.5 * rng.standard_normal((queries, width)).astype(np.float32)), dim=1)
    with tempfile.TemporaryDirectory() as folder:
        def build() -> ImageIndex:
            pool = EmbeddingPool(folder, width)
            writer, keys = pool.writer(), [content_key(n.to_bytes(8, "little")) for n in range(images)]
            for start in range(0, images, 1024):
                writer.append(keys[start : start + 1024], rows[start : start + 1024], [])
            writer.close()
            pool.refresh()
            return ImageIndex([Path(str(n)) for n in range(images)], keys, pool)

        start = time.perf_counter()
        index = build()
        row = {"images": images, "width": width, "queries": queries, "k": k, "store_s": round(time.perf_counter() - start, 2)}
        start = time.perf_counter()
        EmbeddingPool(folder, width)
        row["open_s"] = round(time.perf_counter() - start, 2)
        for name, run in (("exact", lambda: index.top_k(asked, k)), ("faiss_build_and", lambda: index.top_k(asked, k, engine="faiss")),
                          ("faiss", lambda: index.top_k(asked, k, engine="faiss"))):
            start = time.perf_counter()
            found = run()
            row[f"{name}_search_s"] = round(time.perf_counter() - start, 3)
            if name == "exact":
                exact = found
        one = asked[:1]
        for engine in ("exact", "faiss"):
            start = time.perf_counter()
            index.top_k(one, k, engine=engine)
            row[f"{engine}_one_query_ms"] = round(1000 * (time.perf_counter() - start), 1)
        row["faiss_recall_at_50"] = round(float(np.mean([len(set(a) & set(b)) / k for a, b in zip(exact.position_Qk.tolist(), found.position_Qk.tolist())])), 4)
    return row


def plot(rows: Sequence[dict], path: Path) -> None:
    """Draw seconds and memory, once over the images (at 14 x 14) and once over the patches (of 50 images)."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import NullFormatter, ScalarFormatter

    figure, axes = pyplot.subplots(2, 2, figsize=(10, 7))
    series = (("images", "images of 14 x 14 patches", [r for r in rows if r["grid"] == "14 x 14"]),
              ("patches", "patches of 50 images", [r for r in rows if r["images"] == 50]))  # fmt: skip
    for column, (x, xlabel, chosen) in zip(axes.T, series):
        for axis, key, unit in ((column[0], "cpu_s", "CPU seconds, one thread"), (column[1], "MiB", "memory above the start, MiB")):
            for who, label in (("published", "all at once (published)"), ("ours", "pairs of images (ours)")):
                points = sorted((r[x], r[f"{who}_{key}"]) for r in chosen if isinstance(r[f"{who}_{key}"], (int, float)))
                axis.plot(*zip(*points), marker="s" if who == "published" else "o", label=label)
            axis.set(xscale="log", yscale="log", xlabel=xlabel, ylabel=unit)
            axis.set_xticks(sorted({r[x] for r in chosen}))
            axis.xaxis.set_major_formatter(ScalarFormatter())
            axis.xaxis.set_minor_formatter(NullFormatter())
            axis.grid(alpha=0.3)
            axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=90)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    torch.set_num_threads(1)
    content: dict = {"threads": 1, "channels": args.channels}
    if not args.skip_cosegmentation:
        cosegment(torch.randn(4, args.channels, 4, 4))  # warm up
        shapes = dict.fromkeys((*SIZES, *((50, s) for s in GROWTH_SIDES), *((n, 14) for n in GROWTH_IMAGES)))
        rows = [one_size(*shape, args.channels, args.largest_at_once) for shape in sorted(shapes, key=lambda s: s[0] * s[1] ** 2)]
        print_rows(f"co-segmentation, {args.channels} channels, weighted; {PeakMemory.note()}", rows)
        content["cosegmentation"] = rows
        plot(rows, Path(args.out).with_suffix(".png"))
    if args.index_images:
        torch.set_num_threads(2)
        content["retrieval"] = row = retrieval(args.index_images, args.index_width)
        print_rows("retrieval of synthetic embeddings, two threads", [{"what": k, "value": v} for k, v in row.items()])
    replace_file(args.out, json.dumps(content, indent=1))
    print(f"written: {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
