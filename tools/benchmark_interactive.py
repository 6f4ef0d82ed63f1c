"""Another question about the same picture, against the first: python tools/benchmark_interactive.py configs/desco_lvis_mini.py

The first one reads the file, resizes it, runs the backbone, encodes the texts and matches; the second does only what its texts ask for.
"""
import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from ovdense.cli.parser import Parser
from ovdense.compat.atomic import replace_file
from ovdense.measure import machine, paired_ratio, print_rows
from ovdense.runs import clean_errors

NOTE = ("first: a picture file never seen and texts never read; second: the same picture, its features kept, and the texts edited; medians over the turns, "
        "each of which times all; results of the second are equal to those without the kept features")  # fmt: skip


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(description="Time the second question about a picture against the first, with the features of images kept.")
    parser.add_argument("config", nargs="?", default="configs/desco_lvis_mini.py", help="config or model's name (default: %(default)s)")
    parser.add_argument("--weights", default="random", metavar="CHECKPOINT", help="checkpoint; times do not depend on it (default: %(default)s)")
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 1024, 4000], metavar="PX", help="longer sides of the pictures (default: %(default)s)")
    parser.add_argument("--texts", type=int, default=5, metavar="N", help="texts of the first question (default: %(default)s)")
    parser.add_argument("--turns", type=int, default=7, metavar="N", help="repetitions (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="torch's threads (default: %(default)s)")
    parser.add_argument("--out", metavar="FILE.json", help="write the numbers")
    return parser.parse_args(argv)


def pictures(folder: Path, sizes: Sequence[int]) -> list[tuple[Path, str]]:
    """Return (file, its size) of mosaics of drawn scenes, 4:3 JPEG as a camera writes them (256: one scene, PNG)."""
    import numpy as np
    from PIL import Image

    from ovdense.data.shapes_scene import compose_scene, plan_scenes

    scenes = [compose_scene(0, "val", n, planned).image for n, planned in enumerate(plan_scenes(0, "val", 12))]
    found = []
    for size in sizes:
        width, height = (size, size) if size <= 256 else (size, size * 3 // 4)
        rows, columns = -(-height // 256), -(-width // 256)
        tiles = [np.concatenate([scenes[(r * columns + c) % len(scenes)] for c in range(columns)], 1) for r in range(rows)]
        file = folder / (f"{size}.png" if size <= 256 else f"{size}.jpg")
        Image.fromarray(np.concatenate(tiles)[:height, :width]).save(file, **({} if size <= 256 else {"quality": 92}))
        found.append((file, f"{width}x{height} {file.suffix[1:]}"))
    return found


def edits(turn: int, number: int, size: str) -> dict[str, list[str]]:
    """Return the texts of the first question and of the edits that follow it; no text was read before."""
    base = [f"a striped thing of kind {turn} {size} {n}" for n in range(number)]
    return {"first": base, "one class less": base[:-1], "one class more": [*base, f"one more of kind {turn} {size}"],
            "one class changed": [*base[:-1], f"something else of kind {turn} {size}"], "all classes changed": [f"other {text}" for text in base]}  # fmt: skip


def measure(predictor, file: Path, size: str, number: int, turns: int) -> list[dict]:
    """Return a row a kind of edit."""
    import torch

    times: dict[str, list[float]] = {}
    for turn in range(-1, turns):  # the first one warms up
        predictor.model.image_cache.forget()
        for kind, texts in edits(turn, number, size).items():
            start = time.perf_counter()
            found = predictor(file, texts)
            if turn >= 0:
                times.setdefault(kind, []).append(time.perf_counter() - start)
    cache, predictor.model.image_cache = predictor.model.image_cache, None
    plain = predictor(file, texts)
    predictor.model.image_cache = cache
    equal = torch.equal(found.scores, plain.scores) and torch.equal(found.boxes_xyxy, plain.boxes_xyxy)
    middle = {kind: sorted(t)[len(t) // 2] for kind, t in times.items()}
    return [{"picture": size, "second question": kind, "first_ms": round(1000 * middle["first"], 1), "second_ms": round(1000 * middle[kind], 1),
             **paired_ratio(times["first"], times[kind]), "equal": equal} for kind in times if kind != "first"]  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    with clean_errors(), tempfile.TemporaryDirectory() as folder:
        import torch

        from ovdense.api import load

        if args.turns < 1 or args.texts < 2:
            raise ValueError(f"--turns must be at least 1 and --texts at least 2, got {args.turns} and {args.texts}")
        torch.set_num_threads(args.threads)
        predictor = load(args.config, args.weights)
        predictor.remember_images()
        rows = [row for file, size in pictures(Path(folder), args.sizes) for row in measure(predictor, file, size, args.texts, args.turns)]
    title = f"{Path(args.config).name}: another question about the same picture"
    print_rows(f"{title}, {args.threads} threads", rows)
    if args.out:
        table = {"title": title, "note": f"{NOTE}. {args.texts} texts at first, {args.threads} threads.", "rows": rows}
        replace_file(args.out, json.dumps({"machine": machine(), "tables": [table]}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
