"""Speed of a model as ratios measured in one run: python tools/benchmark.py configs/desco_lvis_mini.py"""
import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from ovdense.cli.parser import Parser
from ovdense.compat.atomic import replace_file
from ovdense.measure import PeakMemory, interleaved_seconds, machine, median_seconds, paired_ratio, print_rows
from ovdense.runs import clean_errors

ADJECTIVES = ("small", "old", "wooden", "painted", "broken", "shiny", "heavy", "folded")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(
        description="Measure seconds an image and memory over growing vocabularies, and what each shortcut saves; or, with --startup, how long imports take. "
        "Every ratio is measured in this run: both sides in turns, median, lowest and highest of the turns.",
        epilog="Take timings on an idle machine. tools/benchmark_evaluation.py measures the metrics, tools/benchmark_page.py makes a page of what --out wrote.",
    )
    parser.add_argument("config", nargs="?", help="config file, such as configs/desco_lvis_mini.py")
    parser.add_argument("--checkpoint", help="weights (default: the config's fresh ones; the time is the same)")
    parser.add_argument("--sizes", type=int, nargs="+", default=[80, 400, 1203, 4812], metavar="N", help="numbers of classes (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="images timed for each number; the median counts (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: %(default)s)")
    parser.add_argument("--max-classes", type=int, help="classes a chunk (default: the config's)")
    parser.add_argument("--train-size", type=int, nargs=2, metavar=("H", "W"), help="time training steps at this size instead, on one batch made of noise")
    parser.add_argument("--batch", type=int, default=2, help="images a training step (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=1, help="training steps (default: %(default)s)")
    parser.add_argument("--startup", action="store_true", help="time imports and the help of tools/test.py, each in a process of its own, instead")
    parser.add_argument("--out", metavar="FILE", help="write the numbers as JSON")
    args = parser.parse_args(argv)
    if args.config is None and not args.startup:
        parser.error("a config is required, or --startup")
    return args


def vocabulary_of(size: int):
    """Return `size` names: LVIS's, then LVIS's with an adjective."""
    from ovdense.structures import Vocabulary
    from ovdense.text.vocabulary import load_vocabulary

    lvis = list(load_vocabulary("lvis").names)
    names = lvis + [f"{a} {n}" for a in ADJECTIVES for n in lvis]
    if not 1 <= size <= len(names):
        raise ValueError(f"--sizes must lie in 1..{len(names)}, got {size}")
    return Vocabulary.of(names[:size])


def growth(model, batch: dict, sizes: Sequence[int], repeats: int) -> list[dict]:
    """Return seconds an image, chunks and memory for each size."""
    rows = []
    for size in sizes:
        model.set_vocabulary(vocabulary_of(size))
        start = time.perf_counter()
        chunks = len(model.text())
        text_seconds = time.perf_counter() - start
        with PeakMemory() as memory:
            seconds = median_seconds(lambda: model.predict(**batch), repeats)
        rows.append({"classes": size, "chunks": chunks, "seconds_per_image": round(seconds, 3), "ms_per_chunk": round(1000 * seconds / chunks, 1),
                     "text_seconds_once": round(text_seconds, 2), "peak_mib": round(memory.mib)})
    return rows


def shortcuts(model, batch: dict, repeats: int) -> list[dict]:
    """Return how many times slower the same work is without each shortcut, both measured in turns."""
    import torch

    from ovdense.layers.deform import deform_conv3x3

    model.set_vocabulary(vocabulary_of(80))

    def text_every_image():
        model._chunks = None
        model.predict(**batch)

    def backbone_every_chunk():
        for chunk in model.text():
            for _ in model.score(model.encode_image(batch["images"]), [chunk]):
                pass

    def backbone_once():
        features = model.encode_image(batch["images"])
        for _ in model.score(features, model.text()):
            pass

    x = torch.randn(4, 64, 32, 32, requires_grad=True)
    offset, mask, weight, bias = torch.randn(4, 18, 32, 32), torch.rand(4, 9, 32, 32), torch.randn(64, 64, 3, 3, requires_grad=True), torch.zeros(64)

    def deform(kernel: str) -> None:
        deform_conv3x3(x, offset, mask, weight, bias, kernel=kernel).sum().backward()

    rows = []
    with torch.no_grad():
        rows.append(_saved("text encoded once a vocabulary, against once an image", lambda: model.predict(**batch), text_every_image, repeats))
        rows.append(_saved("backbone once an image, against once a chunk", backbone_once, backbone_every_chunk, repeats))
    name = "deformable convolution by sampling, against torchvision (CPU, with backward)"
    return [*rows, _saved(name, lambda: deform("sampling"), lambda: deform("torchvision"), repeats)]


def _saved(name: str, fast, slow, repeats: int) -> dict:
    times = interleaved_seconds({"fast": fast, "slow": slow}, repeats)
    return {"shortcut": name, **paired_ratio(times["slow"], times["fast"])}


def startup(repeats: int) -> list[dict]:
    """Return seconds of imports and of a tool's help, each a new process, in turns, as ratios to `import torch`."""
    import subprocess

    root = Path(__file__).resolve().parents[1]
    commands = {
        "import torch": [sys.executable, "-c", "import torch"],
        "import ovdense": [sys.executable, "-c", "import ovdense"],
        "tools/test.py --help": [sys.executable, str(root / "tools/test.py"), "--help"],
        "import mmdet.models": [sys.executable, "-c", "from ovdense.compat.mmcv_ext import install; install(); import mmdet.models"],
    }
    runs = {name: (lambda c=command: subprocess.run(c, check=True, capture_output=True, cwd=root)) for name, command in commands.items()}
    times = interleaved_seconds(runs, repeats)
    return [
        {"what": name, "seconds": round(sorted(taken)[len(taken) // 2], 2), **{f"{k}_to_torch" if k == "ratio" else k: v for k, v in
         paired_ratio(taken, times["import torch"]).items()}}
        for name, taken in times.items()
    ]  # fmt: skip


def noise_batch(size_hw: tuple[int, int], batch: int) -> dict[str, list]:
    """Return images and targets: noise, four boxes an image, a caption of eight described classes."""
    import torch

    from ovdense.structures import ClassEntry, ImageTarget
    from ovdense.text.prompts import description_piece, join_pieces
    from ovdense.text.vocabulary import load_vocabulary

    generator = torch.Generator().manual_seed(0)
    height, width = size_hw
    entries = [ClassEntry(name=e.name, kind="thing", descriptions=e.descriptions) for e in list(load_vocabulary("lvis"))[:8]]
    caption, spans = join_pieces([description_piece(e, e.descriptions[0]) for e in entries])
    images, targets = [], []
    for n in range(batch):
        corner = torch.rand(4, 2, generator=generator) * torch.tensor([width, height]) * 0.6
        boxes = torch.cat([corner, corner + torch.tensor([width, height]) * (0.1 + 0.3 * torch.rand(4, 2, generator=generator))], dim=1)
        images.append(torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator))
        targets.append(ImageTarget(image_id=n, file_name="noise", size_hw=size_hw, original_size_hw=size_hw, boxes_xyxy=boxes, labels=torch.arange(4),
                                       caption=caption, positive_spans=tuple(tuple(s) for s in spans[:4])))
    return {"images": images, "targets": targets}


def training_steps(model, size_hw: tuple[int, int], batch: int, steps: int) -> list[dict]:
    """Return losses, seconds and peak memory of steps on one batch of noise."""
    import torch

    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    data = model.data_preprocessor(noise_batch(size_hw, batch), True)
    rows = []
    for step in range(steps):
        start = time.perf_counter()
        with PeakMemory() as memory:
            losses = model(**data, mode="loss")
            total = sum(losses.values())
            optimizer.zero_grad()
            total.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        rows.append({"step": step + 1, "loss": round(float(total.detach()), 4), **{k: round(float(v.detach()), 4) for k, v in losses.items()},
                     "seconds": round(time.perf_counter() - start, 1), "peak_gib": round(memory.mib / 1024, 2)})
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    if args.startup:
        rows = startup(args.repeats)
        print_rows("start-up, each in a new process", rows)
        _write(args.out, {"machine": machine(), "tables": [{"title": "Start-up", "note": "Each in a new process, in turns.", "rows": rows}]})
        return 0
    with clean_errors():
        import torch

        from ovdense.api import OpenVocabPredictor, load_model
        from ovdense.structures import ImageTarget

        torch.set_num_threads(args.threads)
        model = load_model(args.config, args.checkpoint, "cpu")
        if args.max_classes:
            model.test = type(model.test)(**(vars(model.test) | {"max_classes": args.max_classes}))
        if args.train_size:
            rows = training_steps(model, tuple(args.train_size), args.batch, args.steps)
            print_rows(f"{args.config}, {args.batch} images of {args.train_size[0]}x{args.train_size[1]}, {args.threads} threads", rows)
            print(f"{sum(p.numel() for p in model.parameters()):,} parameters; {PeakMemory.note()}")
            note = f"{args.config}, {args.batch} images of {args.train_size[0]}x{args.train_size[1]}, {args.threads} threads; {PeakMemory.note()}"
            _write(args.out, {"machine": machine(), "tables": [{"title": "Training steps on one batch of noise", "note": note, "rows": rows}]})
            return 0
        side = OpenVocabPredictor(model).resize.short_sides[0]
        image = torch.randint(0, 256, (3, side, side * 4 // 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        target = ImageTarget(image_id=0, file_name="noise", size_hw=tuple(image.shape[1:]), original_size_hw=tuple(image.shape[1:]),
                                 boxes_xyxy=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
        batch = model.data_preprocessor({"images": [image], "targets": [target]}, False)
        numbers = {"config": args.config, "image_hw": list(image.shape[1:]), "threads": args.threads, "torch": torch.__version__, "memory": PeakMemory.note(),
                   "growth": growth(model, batch, args.sizes, args.repeats), "shortcuts": shortcuts(model, batch, args.repeats)}
    note = f"{args.config}, one image of {side}x{side * 4 // 3}, {args.threads} threads, median of {args.repeats}; {numbers['memory']}"
    numbers |= {"machine": machine(), "tables": [
        {"title": "Inference by the size of the vocabulary", "note": note, "rows": numbers["growth"], "x": "classes", "y": ["seconds_per_image"]},
        {"title": "What each shortcut saves", "note": f"{args.config}, {args.threads} threads; slow / fast, in turns", "rows": numbers["shortcuts"]},
    ]}  # fmt: skip
    for table in numbers["tables"]:
        print_rows(f"{table['title']}: {table['note']}", table["rows"])
    _write(args.out, numbers)
    return 0


def _write(file: str | None, numbers: object) -> None:
    if file:
        replace_file(file, json.dumps(numbers, indent=1))


if __name__ == "__main__":
    sys.exit(main())
