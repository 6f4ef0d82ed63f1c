"""Time and memory of the LVIS metric against the official tool: python tools/benchmark_evaluation.py --images 4809 --per-image 300

The data are synthetic, of LVIS's shape. Every run is a process of its own, so that its memory is its own.
"""
import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from ovdense.cli.parser import Parser
from ovdense.compat.atomic import replace_file
from ovdense.measure import machine, paired_ratio, print_rows, process_peak_mib
from ovdense.runs import clean_errors

CLASSES, SIZE_HW, BOXES_PER_IMAGE = 1203, (480, 640), 10.4


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(
        description="Measure the LVIS metric on synthetic data of LVIS's shape (1,203 classes, 10.4 boxes an image), against the official lvis: seconds, "
        "memory, and whether the numbers are the same.",
        epilog="Take timings on an idle machine. The official tool takes about 0.06 s an image.",
    )
    parser.add_argument("--images", type=int, nargs="+", default=[200], metavar="N", help="numbers of images; LVIS minival has 4809 (default: %(default)s)")
    parser.add_argument("--per-image", type=int, nargs="+", default=[300], metavar="N", help="detections an image (default: %(default)s)")
    parser.add_argument("--kinds", nargs="+", choices=("bbox", "segm"), default=["bbox"], help="boxes, masks (given as run lengths) or both")
    parser.add_argument("--reference", choices=("each", "none"), default="each", help="run the official tool as well (default: %(default)s)")
    parser.add_argument("--turns", type=int, default=1, metavar="N", help="runs of each engine, in turns (default: %(default)s)")
    parser.add_argument("--out", metavar="FILE", help="write the numbers as JSON, for tools/benchmark_page.py")
    parser.add_argument("--child", nargs=4, metavar=("ENGINE", "KIND", "FOLDER", "RESULT"), help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def write_synthetic(folder: Path, images: int, per_image: int, *, masks: bool, seed: int = 0) -> None:
    """Write ann.json and found.npz: objects of frequent and rare classes, detections near them or anywhere, scores with ties."""
    import numpy as np

    rng = np.random.default_rng(seed)
    weight = 1 / np.arange(1, CLASSES + 1)
    weight = rng.permutation(weight / weight.sum())
    counts = rng.poisson(BOXES_PER_IMAGE, images)
    total, (h, w) = int(counts.sum()), SIZE_HW
    corner, side = rng.random((total, 2)) * (w * 0.8, h * 0.8), 4 + rng.gamma(1.5, 40, (total, 2))
    side = np.minimum(side, (w, h) - corner)
    boxes = np.round(np.concatenate([corner, side], axis=1), 2)
    classes = rng.choice(CLASSES, total, p=weight) + 1
    image_of = np.repeat(np.arange(1, images + 1), counts)
    content = {
        "images": [{"id": i, "height": h, "width": w, "neg_category_ids": [], "not_exhaustive_category_ids": []} for i in range(1, images + 1)],
        "categories": [{"id": k, "name": f"class {k}", "frequency": "rcf"[min(2, int(weight[k - 1] * CLASSES * 3))]} for k in range(1, CLASSES + 1)],
        "annotations": [
            {"id": n, "image_id": i, "category_id": k, "bbox": b, "area": b[2] * b[3], "segmentation": _octagon(b)}
            for n, (i, k, b) in enumerate(zip(image_of.tolist(), classes.tolist(), boxes.tolist()), 1)
        ],
    }
    for image, (some, other) in zip(content["images"], rng.integers(1, CLASSES + 1, (images, 2, 12)).tolist()):
        image["neg_category_ids"], image["not_exhaustive_category_ids"] = sorted(set(some)), sorted(set(other[:3]))
    (folder / "ann.json").write_text(json.dumps(content))
    starts = np.r_[0, np.cumsum(counts)]
    found = np.empty((images * per_image, 6), dtype=np.float32)  # xyxy, score, label
    for i in range(images):
        rows = found[i * per_image : (i + 1) * per_image]
        near = rng.random(per_image) < 0.4 if counts[i] else np.zeros(per_image, dtype=bool)
        pick = starts[i] + rng.integers(0, max(counts[i], 1), per_image)
        xy, wh = rng.random((per_image, 2)) * (w * 0.8, h * 0.8), 4 + rng.gamma(1.5, 40, (per_image, 2))
        xy[near], wh[near] = boxes[pick[near], :2] + rng.normal(0, 4, (near.sum(), 2)), boxes[pick[near], 2:] * rng.uniform(0.85, 1.15, (near.sum(), 2))
        rows[:, :2], rows[:, 2:4], rows[:, 4] = xy, xy + wh, np.round(rng.random(per_image), 3)
        rows[:, 5] = np.where(near, classes[np.minimum(pick, total - 1)], rng.choice(CLASSES, per_image, p=weight) + 1) - 1
    np.savez(folder / "found.npz", found=found, per_image=per_image, masks=masks)


def _octagon(box: Sequence[float]) -> list[list[float]]:
    x, y, w, h = box
    a, b = w * 0.3, h * 0.3
    return [[x + a, y, x + w - a, y, x + w, y + b, x + w, y + h - b, x + w - a, y + h, x + a, y + h, x, y + h - b, x, y + b]]


def run_child(engine: str, kind: str, folder: Path, result: Path) -> None:
    """Measure one engine in this process and write seconds, the process's largest resident MiB and the numbers."""
    start_seconds = time.perf_counter()
    seconds, numbers = (_fast if engine == "hotcoco" else _official)(kind, folder)
    peak = process_peak_mib()
    whole = time.perf_counter() - start_seconds
    replace_file(result, json.dumps({"seconds": seconds, "whole": whole, "peak_mib": peak, "numbers": numbers}))


def _fast(kind: str, folder: Path) -> tuple[float, dict[str, float]]:
    """From the predictions of each image to the numbers: reading the annotations, checking, evaluating."""
    import numpy as np

    from ovdense.evaluation.detection import LvisMetric

    found, per_image = (np.load(folder / "found.npz")[key] for key in ("found", "per_image"))
    metric = LvisMetric(ann_file=folder / "ann.json", iou_types=kind, class_names=[f"class {k}" for k in range(1, CLASSES + 1)])
    images, seconds = len(found) // int(per_image), 0.0
    for i in range(images):
        rows = found[i * per_image : (i + 1) * per_image]
        instances = {"bboxes": rows[:, :4], "scores": rows[:, 4], "labels": rows[:, 5].astype(np.int64)}
        sample = {"img_id": i + 1, "pred_instances": instances | ({"masks": _run_lengths(rows[:, :4])} if kind == "segm" else {})}
        start = time.perf_counter()
        metric.process(None, [sample])
        seconds += time.perf_counter() - start
    start = time.perf_counter()
    numbers = metric.evaluate(images)
    seconds += time.perf_counter() - start
    return seconds, {name.partition(f"{kind}_")[2]: value / 100 for name, value in numbers.items()}


def _run_lengths(boxes_xyxy) -> list[dict]:
    import hotcoco

    return hotcoco.mask.fr_py_objects([_octagon([x, y, x2 - x, y2 - y])[0] for x, y, x2, y2 in boxes_xyxy.tolist()], *SIZE_HW)


def _official(kind: str, folder: Path) -> tuple[float, dict[str, float]]:
    """From the two files to the numbers, as its users run it."""
    from ovdense.evaluation.reference import import_lvis

    lvis = import_lvis()
    start = time.perf_counter()
    truth = lvis.LVIS(str(folder / "ann.json"))
    evaluator = lvis.LVISEval(truth, lvis.LVISResults(truth, str(folder / f"results.{kind}.json")), kind)
    evaluator.run()
    return time.perf_counter() - start, {name.partition("@")[0]: float(value) for name, value in evaluator.get_results().items()}


def write_results(folder: Path, kind: str) -> None:
    """Write the detections as the official tool reads them."""
    import numpy as np

    from ovdense.evaluation.results_file import write_detections

    found, per_image = (np.load(folder / "found.npz")[key] for key in ("found", "per_image"))
    found = found.astype(np.float64)
    image = np.repeat(np.arange(1, len(found) // int(per_image) + 1), per_image)
    rows = np.column_stack([image, found[:, :2], found[:, 2:4] - found[:, :2], found[:, 4], found[:, 5] + 1])
    if kind == "segm":
        write_detections(folder / "results.json", rows, _run_lengths(found[:, :4]), ["segm"])
    else:
        write_detections(folder / "results.bbox.json", rows, None, ["bbox"])


def measure(images: int, per_image: int, kind: str, engines: Sequence[str], turns: int) -> dict:
    """Return one row: both engines in turns, each in a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_synthetic(folder, images, per_image, masks=kind == "segm")
        if "lvis" in engines:
            write_results(folder, kind)
        taken: dict[str, list[dict]] = {engine: [] for engine in engines}
        for turn in range(turns):
            for engine in engines if turn % 2 == 0 else reversed(engines):
                result = folder / "out.json"
                subprocess.run([sys.executable, __file__, "--child", engine, kind, name, str(result)], check=True, capture_output=True)
                taken[engine].append(json.loads(result.read_text()))
    row = {"kind": kind, "images": images, "detections": images * per_image}
    for engine, runs in taken.items():
        seconds = sorted(r["seconds"] for r in runs)
        row |= {f"{engine}_s": round(seconds[len(seconds) // 2], 2), f"{engine}_mib": round(max(r["peak_mib"] for r in runs))}
    if "lvis" in engines:
        ratio = paired_ratio([r["seconds"] for r in taken["lvis"]], [r["seconds"] for r in taken["hotcoco"]])
        row |= {"times_faster": ratio["ratio"], "lowest": ratio["lowest"], "highest": ratio["highest"]}
        ours, theirs = taken["hotcoco"][0]["numbers"], taken["lvis"][0]["numbers"]
        pairs = [(ours[k], theirs[k]) for k in theirs if theirs[k] != -1]
        row |= {"AP": round(100 * theirs["AP"], 2), "largest_difference": f"{max(abs(a - b) for a, b in pairs):.0e}"}
    return row


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    if args.child is not None:
        engine, kind, folder, result = args.child
        run_child(engine, kind, Path(folder), Path(result))
        return 0
    with clean_errors():
        if min(*args.images, *args.per_image, args.turns) < 1:
            raise ValueError("--images, --per-image and --turns must be at least 1")
        engines = ["hotcoco", "lvis"] if args.reference == "each" else ["hotcoco"]
        rows = [measure(i, d, kind, engines, args.turns) for kind in args.kinds for i in args.images for d in args.per_image]
        x = "images" if len(args.images) > 1 else "detections"
        note = f"Synthetic, {CLASSES:,} classes, about {BOXES_PER_IMAGE} boxes an image; from predictions to numbers, the largest resident size of the process"
        title = f"LVIS metric by {x}" + ", against lvis" * (len(engines) > 1)
        table = {"title": title, "note": note, "rows": rows, "x": x, "y": [f"{e}_s" for e in engines], "group": "kind"}
        print_rows(f"{table['title']}: {note}", rows)
        if args.out:
            replace_file(args.out, json.dumps({"machine": machine(), "tables": [table]}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
