"""Measure what each part of OVDiff is worth on a config's test set: python tools/ablate_ovdiff.py configs/ovdiff_shapes_mini.py

An image's features are computed once and judged by all variants; the numbers are those of tools/test.py.
"""
import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace

from ovdense.runs import add_run_arguments, clean_errors, clean_run_errors, configure

VARIANTS = {
    "full": {},
    "without background prototypes": {"test": {"background": "zero"}},
    "without pre-filter": {"prefilter": False},
    "class prototypes only": {"prototypes": {"kinds": ("class",)}},
    "class and instance": {"prototypes": {"kinds": ("class", "instance")}},
    "with PAMR": {"test": {"pamr": True}},
}


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure variants of OVDiff: mIoU with and without each part, features read once.")
    parser.add_argument("config", help="config file of an OVDiff segmenter")
    add_run_arguments(parser)
    parser.add_argument("--variants", nargs="+", choices=sorted(VARIANTS), default=list(VARIANTS), help="which to measure (default: all)")
    parser.add_argument("--exemplars", metavar="DIR", help="measure besides with support images of this folder, DIR/CLASS/*.png with masks *.mask.png")
    parser.add_argument("--oracle", type=int, metavar="N", help="measure besides with N true objects a class of the shapes' training images as support")
    parser.add_argument("--first", type=int, metavar="N", help="only the first N images")
    parser.add_argument("--out", metavar="FILE.json", help="write the numbers to this file")
    parser.add_argument("--sheet", metavar="FILE.png", help="draw the first images with truth and each variant's answer")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    with clean_errors():
        from ovdense.compat.atomic import replace_file
        from ovdense.registry import DATASETS, MODELS

        cfg = configure(args)
        model = MODELS.build(cfg.model)
        dataset = DATASETS.build(cfg.test_dataloader.dataset)
        if not hasattr(model, "use_support"):
            raise ValueError(f"{args.config} must be of an OVDiff segmenter, got {type(model).__name__}")
        model.set_vocabulary(dataset.vocabulary)
        variants = build_variants(model, args)
    with clean_run_errors():
        rows = measure(model, variants, dataset, cfg, args)
    width = max(len(r["variant"]) for r in rows)
    for r in rows:
        print(f"{r['variant']:{width}}  mIoU {r['mIoU']:5.1f}  without background {r['mIoU_objects']:5.1f}  aAcc {r['aAcc']:5.1f}")
    if args.out:
        replace_file(args.out, json.dumps({"config": args.config, "protocol": model.protocol(), "rows": rows}, indent=1))
    return 0


def build_variants(model, args: argparse.Namespace) -> dict:
    """Return {name: (model, uses the pre-filter)}; all share extractors, pre-filter and stored prototypes."""
    from ovdense.methods.ovdiff.model import OVDiff

    def variant(support, change):
        made = OVDiff(extractors=list(model.extractors), support=support, masks=model.masker.source, heat_encoder=None, stuff=sorted(model.stuff),
                      prefilter=model.filter, prototype_folder=model.files.folder)
        made._masker = model.masker
        made.prototypes, made.test = replace(model.prototypes, **change.get("prototypes", {})), replace(model.test, **change.get("test", {}))
        made.set_vocabulary(model.vocabulary)
        return made, change.get("prefilter", True)

    names = [n for n in args.variants if n != "without pre-filter" or model.filter is not None]
    out = {name: variant(model.support, VARIANTS[name]) for name in names}
    if args.exemplars:
        from ovdense.support.sources import FolderSupport

        out["support: example pictures"] = variant(FolderSupport(args.exemplars), {})
    if args.oracle:
        from ovdense.data.detection import ShapesDetection
        from ovdense.methods.ovdiff.exemplars import DatasetExemplars

        out[f"support: {args.oracle} true objects"] = variant(DatasetExemplars(ShapesDetection(split="train", with_masks=True), num_images=args.oracle), {})
    for made, _ in out.values():
        made.encode_text(model.vocabulary)
    return out


def measure(model, variants: dict, dataset, cfg, args: argparse.Namespace) -> list[dict]:
    import numpy as np
    import torch

    from ovdense.data.collate import collate_detection
    from ovdense.evaluation.segmentation import class_scores, confusion_matrix, summary

    number = min(len(dataset), args.first or len(dataset))
    classes = len(dataset.vocabulary)
    confusion = {name: np.zeros((classes, classes), np.int64) for name in [*variants, "chance: every pixel at random"]}
    rng, began, shown = np.random.default_rng(0), time.process_time(), []
    for n in range(number):
        data = model.data_preprocessor(collate_detection([dataset[n]]))
        image, target = data["images"][0], data["targets"][0]
        [places] = model.encode_image(image[None])
        truth = target.label_map_HW.numpy()
        answers = []
        for name, (made, filtered) in variants.items():
            label = made.answer(places, image, target, filtered).label_map_HW.numpy()
            confusion[name] += confusion_matrix(truth, label, classes)
            answers.append(label)
        confusion["chance: every pixel at random"] += confusion_matrix(truth, rng.integers(0, classes, truth.shape), classes)
        if args.sheet and len(shown) < 6:
            shown.append((image, truth, answers))
    if args.sheet:
        draw(args.sheet, shown, torch)
    background = [k for k, e in enumerate(dataset.vocabulary) if e.is_background]
    rows = []
    for name, matrix in confusion.items():
        numbers, iou = summary(matrix), class_scores(matrix)["IoU"]
        objects = np.delete(iou, background)
        rows.append({"variant": name, **{k: round(float(v), 2) for k, v in numbers.items()}, "mIoU_objects": round(float(np.nanmean(objects)), 2),
                     "images": number, "cpu_seconds_an_image_all_variants": round((time.process_time() - began) / number, 3)})
    return rows


def draw(path: str, shown: list, torch) -> None:
    """Write rows of photo, truth and answers; each class has a colour, background is black and ignored pixels white."""
    import colorsys

    import numpy as np
    from PIL import Image

    from ovdense.compat.images import write_picture

    def paint(label):
        colours = [colorsys.hsv_to_rgb(k * 0.382 % 1, 0.55 + 0.4 * (k % 2), 0.95) for k in range(1, 255)]
        table = np.array([[0, 0, 0], *([round(255 * c) for c in rgb] for rgb in colours), [255, 255, 255]], np.uint8)
        return table[label]

    rows = []
    for image, truth, answers in shown:
        photo = Image.fromarray((255 * image).round().byte().permute(1, 2, 0).numpy()).resize((192, 192))
        rows.append(np.concatenate([np.asarray(photo)] + [np.asarray(Image.fromarray(paint(a)).resize((192, 192), 0)) for a in (truth, *answers)], 1))
    write_picture(path, np.concatenate(rows))


if __name__ == "__main__":
    sys.exit(main())
