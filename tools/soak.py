"""Predict thousands of times with changing vocabularies and image sizes, and measure whether memory grows: python tools/soak.py mini

Leaves soak.json and soak.png in the output folder. What is measured every 20 predictions: the memory of the process, what of it is in use (the rest is free,
but kept by the C library for later), and the bytes of all tensors that are alive.
"""
import argparse
import ctypes
import gc
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ovdense.cli.parser import Parser
from ovdense.compat.atomic import replace_file
from ovdense.compat.memory import return_memory
from ovdense.runs import clean_errors

EVERY = 20


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(description="Predict many times with changing vocabularies and sizes; memory must not grow.",
                                     epilog="Four minutes on one core, no download: python tools/soak.py mini --short-side 96 --return-memory")  # fmt: skip
    parser.add_argument("model", nargs="?", default="mini", help="short name or config file of a model (default: mini)")
    parser.add_argument("--weights", metavar="FILE", help="its checkpoint, where it needs one")
    parser.add_argument("--predictions", type=int, default=2000, metavar="N", help="how many (default: 2000)")
    parser.add_argument("--warm-up", type=int, default=500, metavar="N", help="predictions before memory is compared (default: 500)")
    parser.add_argument("--sides", type=int, nargs=2, default=(48, 320), metavar="PX", help="shortest and longest side of an image (default: 48 320)")
    parser.add_argument("--short-side", type=int, metavar="PX", help="what the model resizes a shortest side to (default: as its config says)")
    parser.add_argument("--most-classes", type=int, default=12, metavar="N", help="largest vocabulary (default: 12)")
    parser.add_argument("--return-memory", action="store_true", help="give free memory back to the system every 20 predictions as the web page does")
    parser.add_argument("--max-growth", type=float, default=2.0, metavar="PERCENT", help="exit code 1 above this growth after the warm-up (default: 2)")
    parser.add_argument("--seed", type=int, default=0, help="of images and vocabularies (default: 0)")
    parser.add_argument("--out", default="work_dirs/soak", metavar="DIR", help="folder of soak.json and soak.png (default: work_dirs/soak)")
    return parser.parse_args(argv)


def resident_bytes() -> int:
    """Return the memory that this process holds."""
    statm = Path("/proc/self/statm")
    if not statm.is_file():
        raise ValueError("the memory of a process is read from /proc, which this system does not have; run it on Linux")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class _Mallinfo2(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()]


def in_use_bytes() -> int | None:
    """Return what has been taken from malloc and not given back; None where the C library does not say (glibc does since 2.33)."""
    mallinfo2 = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if mallinfo2 is None:
        return None
    mallinfo2.restype = _Mallinfo2
    found = mallinfo2()
    return found.uordblks + found.hblkhd


def tensor_bytes() -> int:
    """Return the bytes of all tensors that are alive, each storage once."""
    import torch

    found = {}
    for thing in gc.get_objects():
        if type(thing) in (torch.Tensor, torch.nn.Parameter) and thing.layout == torch.strided:
            storage = thing.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
    return sum(found.values())


MEASURED = {"resident_mib": ("process", lambda: resident_bytes()), "in_use_mib": ("in use", lambda: in_use_bytes()),
            "tensors_mib": ("tensors alive", lambda: tensor_bytes())}  # fmt: skip


def small_images(predictor, short_side: int) -> None:
    """Let a model look at images with this shortest side, also where its encoder brings them to sizes of its own."""
    from ovdense.data.transforms import ResizeShortestEdge

    predictor.resize = ResizeShortestEdge((short_side,), 4 * short_side)
    for part in predictor.model.modules():
        if hasattr(part, "short_sides"):
            part.short_sides = (short_side,)


def random_image(rng: np.random.Generator, sides: tuple[int, int]) -> np.ndarray:
    """Return (H, W, 3) uint8, blotches of colour; one in ten is a narrow strip."""
    from PIL import Image

    height, width = (int(v) for v in rng.integers(sides[0], sides[1] + 1, size=2))
    if rng.random() < 0.1:
        height = int(rng.integers(1, 12))
    blotches = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    return np.asarray(blotches.resize((width, height), Image.Resampling.BILINEAR))


def soak(predictor, names: Sequence[str], args: argparse.Namespace) -> dict[str, list[float]]:
    """Run all predictions; return columns of what was measured: done, seconds, and those of `MEASURED` that can be."""
    rng, began = np.random.default_rng(args.seed), time.monotonic()
    rows: dict[str, list[float]] = {"done": [], "seconds": [], **{column: [] for column, (_, read) in MEASURED.items() if read() is not None}}
    image = random_image(rng, tuple(args.sides))
    for n in range(1, args.predictions + 1):
        asked = rng.choice(len(names), size=int(rng.integers(1, args.most_classes + 1)), replace=False)
        predictor.set_vocabulary([names[k] for k in asked])
        if rng.random() < 0.8:  # else the same image with other names: what is kept of an image is used
            image = random_image(rng, tuple(args.sides))
        found = predictor.predict(image)
        if tuple(found.size_hw) != image.shape[:2]:
            raise ValueError(f"the result must have the image's size {image.shape[:2]}, got {found.size_hw}")
        if n % EVERY == 0 or n == args.predictions:
            gc.collect()
            if args.return_memory:
                return_memory()
            found = {"done": n, "seconds": time.monotonic() - began, **{c: MEASURED[c][1]() / 2**20 for c in MEASURED if c in rows}}
            for column, value in found.items():
                rows[column].append(round(value, 2))
    return rows


def growth_percent(done: Sequence[float], values: Sequence[float], warm_up: int) -> float:
    """Return by how much the mean of the last tenth after the warm-up is above that of the first tenth."""
    after = [v for d, v in zip(done, values) if d > warm_up]
    tenth = max(1, len(after) // 10)
    if not after:
        raise ValueError(f"there must be predictions after the warm-up of {warm_up}, got {int(max(done))} in all")
    first, last = float(np.mean(after[:tenth])), float(np.mean(after[-tenth:]))
    return 100 * (last - first) / first


def draw(rows: dict[str, list[float]], warm_up: int, title: str, path: Path) -> None:
    """Write the plot of memory over predictions."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4), layout="constrained")
    for column, (name, _) in MEASURED.items():
        if column in rows:
            axes.plot(rows["done"], rows[column], label=name)
    axes.axvline(warm_up, color="grey", linestyle=":", label="end of the warm-up")
    axes.set(xlabel="predictions", ylabel="MiB", ylim=(0, None), title=title)
    axes.legend()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    with clean_errors():
        import ovdense
        from ovdense.text.vocabulary import load_vocabulary

        if not 0 <= args.warm_up < args.predictions:
            raise ValueError(f"--warm-up must lie in 0..{args.predictions - 1}, got {args.warm_up}")
        predictor, names = ovdense.load(args.model, args.weights), load_vocabulary("lvis").names
        if args.short_side:
            small_images(predictor, args.short_side)
        rows = soak(predictor, names, args)
        growth = {c: round(growth_percent(rows["done"], rows[c], args.warm_up), 2) for c in MEASURED if c in rows}
        out = Path(args.out)
        out.mkdir(parents=True, exist_ok=True)
        content = {"model": args.model, "seed": args.seed, "warm_up": args.warm_up, "growth_percent": growth, **rows}
        replace_file(out / "soak.json", json.dumps(content))
        took = rows["seconds"][-1]
        said = f"{args.model}: {args.predictions} predictions in {took:.0f} s, memory {growth['resident_mib']:+.2f}% after the first {args.warm_up}"
        draw(rows, args.warm_up, said, out / "soak.png")
    more = ", ".join(f"{MEASURED[c][0]} {growth[c]:+.2f}% (now {rows[c][-1]:.0f} MiB)" for c in growth)
    print(f"{args.model}: {args.predictions} predictions in {took:.0f} s; after the first {args.warm_up}: {more}; {out / 'soak.png'}")
    failed = [c for c in growth if growth[c] > args.max_growth]
    if failed == ["resident_mib"] and "in_use_mib" in growth:
        print("What is in use does not grow: the rest is free, and kept by the C library; --return-memory gives it back now and then.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
