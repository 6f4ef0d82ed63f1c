"""Cost of OVDiff: prediction by number of classes with stored banks, and building prototypes against the published way.

python tools/benchmark_ovdiff.py                        # both, about 5 minutes on two cores
Every part is timed in a process of its own, so that peak memory is its own; features are random, with as many clusters as k-means is asked for.
"""
import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial

from ovdense.cli.parser import Parser
from ovdense.compat.atomic import replace_file
from ovdense.measure import machine, median_seconds, process_peak_mib

ROWS_A_CLASS = 65  # 1 class, 32 instances, 32 parts


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(description="Time OVDiff's prediction by number of classes, and its prototypes against the published way.")
    parser.add_argument("--parts", nargs="+", choices=("predict", "streamed", "published"), default=["predict", "streamed", "published"])
    parser.add_argument("--classes", type=int, nargs="+", default=[1, 20, 80, 1203])
    parser.add_argument("--images", type=int, default=32, help="support images (default: %(default)s)")
    parser.add_argument("--grid", type=int, default=64, help="side of their feature maps (default: %(default)s)")
    parser.add_argument("--width", type=int, default=7680, help="features a place (default: %(default)s, Stable Diffusion's)")
    parser.add_argument("--clusters", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3, help="predictions of which the median is taken (default: %(default)s)")
    parser.add_argument("--out", metavar="FILE.json", help="write the tables to this file, for tools/benchmark_page.py")
    parser.add_argument("--run", choices=("predict", "streamed", "published"), help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    if args.run:
        result = {"predict": predict, "streamed": streamed, "published": published}[args.run](args)
        print(json.dumps(result | {"peak_gib": round(process_peak_mib() / 2**10, 2)}))
        return 0
    shared = ["--classes", *map(str, args.classes), "--images", str(args.images), "--grid", str(args.grid), "--width", str(args.width),
              "--clusters", str(args.clusters), "--repeats", str(args.repeats)]  # fmt: skip
    found: dict[str, dict] = {}
    for part in args.parts:
        out = subprocess.run([sys.executable, __file__, "--run", part, *shared], capture_output=True, text=True, check=False)
        if out.returncode:
            print(f"{part}: failed: {out.stderr.strip().splitlines()[-1] if out.stderr.strip() else out.returncode}")
            continue
        found[part] = json.loads(out.stdout.strip().splitlines()[-1])
        print(f"{part}: {found[part]}", flush=True)
    if args.out:
        replace_file(args.out, json.dumps({"machine": machine(), "tables": tables(found, args)}, indent=1))
    return 0 if len(found) == len(args.parts) else 1


def tables(found: dict[str, dict], args: argparse.Namespace) -> list[dict]:
    """Return the tables of what was measured."""
    out = []
    if "predict" in found:
        p = found["predict"]
        note = (f"An image of {p['image'][0]}x{p['image'][1]}, {p['places']} places of {p['width']} features, {2 * ROWS_A_CLASS} stored rows a class; "
                f"median of {args.repeats}. Its features: {p['features_seconds']} s, once for all classes.")  # fmt: skip
        out.append({"title": "OVDiff: prediction by number of classes", "note": note, "rows": p["rows"]})
    built = {name: found[part] for name, part in (("published: all pixels at once", "published"), ("streamed (ours)", "streamed")) if part in found}
    if built:
        note = f"One class: {args.images} images of {args.grid}x{args.grid}x{args.width} features, {args.clusters} parts; each in a process of its own."
        out.append({"title": "OVDiff: building prototypes", "note": note, "rows": [{"way": name, **numbers} for name, numbers in built.items()]})
    return out


def image_features(number: int, args: argparse.Namespace):
    """Return one support image's features (C, H, W), and masks of two fifths foreground and three fifths background."""
    import torch

    generator = torch.Generator().manual_seed(number)
    centres = torch.randn(args.clusters, args.width, generator=torch.Generator().manual_seed(10**6))
    which = torch.randint(args.clusters, (args.grid, args.grid), generator=generator)
    feat = centres[which] + 0.7 * torch.randn(args.grid, args.grid, args.width, generator=generator)
    inside = torch.zeros(args.grid, args.grid, dtype=torch.bool)
    inside[: args.grid * 2 // 5] = True
    return feat.permute(2, 0, 1), inside, ~inside


def streamed(args: argparse.Namespace) -> dict:
    from ovdense.support.prototypes import PrototypeBuilder

    builder, seconds, cpu = PrototypeBuilder(num_parts=args.clusters), 0.0, 0.0
    for number in range(args.images):
        made = image_features(number, args)
        began, began_cpu = time.perf_counter(), time.process_time()
        builder.add(*made)
        seconds, cpu = seconds + time.perf_counter() - began, cpu + time.process_time() - began_cpu
    began, began_cpu = time.perf_counter(), time.process_time()
    found = builder.finish()
    seconds, cpu = seconds + time.perf_counter() - began, cpu + time.process_time() - began_cpu
    return {"seconds": round(seconds, 1), "cpu_seconds": round(cpu, 1), "rows": len(found.foreground.rows()) + len(found.background.rows())}


def published(args: argparse.Namespace) -> dict:
    """Do what the release does, re-enacted: all pixels of all images in one matrix, scikit-learn's k-means on it."""
    import torch
    from sklearn.cluster import KMeans

    from ovdense.support.prototypes import mask_to_grid

    regions, seconds, cpu, rows = ([], []), 0.0, 0.0, 0
    for number in range(args.images):
        feat, *masks = image_features(number, args)
        began, began_cpu = time.perf_counter(), time.process_time()
        for region, mask in zip(regions, masks):
            region.append(feat.permute(1, 2, 0)[mask_to_grid(mask, tuple(feat.shape[1:]))])
        seconds, cpu = seconds + time.perf_counter() - began, cpu + time.process_time() - began_cpu
    began, began_cpu = time.perf_counter(), time.process_time()
    for region in regions:
        rows += 1 + len(torch.stack([f.mean(0) for f in region]))
        pixels = torch.cat(region, 0)
        pixels.mean(0)
        rows += len(KMeans(n_clusters=args.clusters, random_state=0, n_init="auto").fit(pixels.numpy()).cluster_centers_)
    return {"seconds": round(seconds + time.perf_counter() - began, 1), "cpu_seconds": round(cpu + time.process_time() - began_cpu, 1), "rows": rows}


def predict(args: argparse.Namespace) -> dict:
    import torch

    from ovdense.methods.ovdiff.predict import label_map, read_places
    from ovdense.support.prototypes import prototype_bank
    from ovdense.vision.extractors import BackboneFeatures

    extractor = BackboneFeatures(out_strides=(16, 32))
    size_hw = (320, 480)
    image = torch.rand(3, *size_hw, generator=torch.Generator().manual_seed(0))
    places = read_places(image, [extractor], ())
    unit_PC = places[0].unit_HWC.flatten(0, 1)
    features = median_seconds(lambda: read_places(image, [extractor], ()), args.repeats)
    rows = []
    for classes in args.classes:
        generator = torch.Generator().manual_seed(1)
        given = [torch.randn(ROWS_A_CLASS, extractor.width, generator=generator) for _ in range(2 * classes)]
        bank = prototype_bank(given[:classes], given[classes:])
        del given
        product = median_seconds(partial(torch.matmul, unit_PC, bank.bank.rows_MD.T), args.repeats)
        for active in dict.fromkeys((classes, min(10, classes))):
            chosen = torch.arange(classes) < active
            seconds = median_seconds(partial(label_map, places, [bank], chosen, size_hw, size_hw), args.repeats)
            rows.append({"classes": classes, "looked_for": active, "seconds": round(seconds, 3),
                         "matrix_product_s": round(product * active / classes, 4)})  # fmt: skip
    return {"features_seconds": round(features, 3), "width": extractor.width, "places": len(unit_PC), "image": list(size_hw), "rows": rows}


if __name__ == "__main__":
    sys.exit(main())
