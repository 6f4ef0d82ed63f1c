"""Does it read descriptions: python tools/context_sensitivity.py configs/desco_lvis_mini.py work_dirs/desco_lvis_mini"""
import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ovdense.cli.parser import Parser
from ovdense.runs import Settings, clean_errors, clean_run_errors, use_data_root

WAYS = ("kept", "altered", "swapped", "control")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(
        description="Ask for every object of the test data by its description, by one with an attribute changed, by another class's, and by its own in another "
        "order. Prints how overlap and confidence change, with bootstrap intervals over images, and how often something absent is found.",
        epilog="Each image is asked once for each way, for all its classes together: captions are chunked alike. Scores below the model's own "
        "threshold (model.test.score_thr) count as no detection. With attributes in the annotation file what is asked for is known to be absent; plain "
        "descriptions are only kept from saying what is said of the classes that the image's annotations name.",
    )
    parser.add_argument("config", help="config file that the checkpoint was trained with; its test data must have descriptions")
    parser.add_argument("checkpoint", help="checkpoint file; or a run's folder, or the last_checkpoint in it, for its newest one")
    parser.add_argument("--data-root", metavar="DIR", help="folder that holds the data; the same as setting OVDENSE_DATA (default: ./data)")
    parser.add_argument("--cfg-options", nargs="+", action=Settings, metavar="KEY=VALUE", help="change settings of the config")
    parser.add_argument("--num-images", type=int, metavar="N", help="use the first N images only (default: all)")
    parser.add_argument("--threshold", type=float, default=0.3, metavar="SCORE", help="score from which an absent thing counts as found (default: %(default)s)")
    parser.add_argument("--min-iou", type=float, default=0.5, metavar="IOU", help="overlap that puts a detection at an object's place (default: %(default)s)")
    parser.add_argument("--num-resamples", type=int, default=1000, metavar="N", help="bootstrap resamples (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the altered descriptions and of the bootstrap (default: %(default)s)")
    parser.add_argument("--out", metavar="FILE.json", help="write the numbers with their protocol")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    with clean_errors():
        _check(args)
        predictor, dataset, classes = _prepare(args)
    from rich.console import Console

    from ovdense.evaluation.context import context_sensitivity, context_table
    from ovdense.evaluation.report import result_table, write_report

    num_images = min(args.num_images or len(dataset), len(dataset))
    with clean_run_errors():
        objects, absences = [], []
        for i in range(num_images):
            found, absent = _image_records(predictor, dataset, classes, i, args)
            objects += found
            absences += absent
    report = context_sensitivity(objects, absences, threshold=args.threshold, generator=np.random.default_rng([args.seed, 1]), num_resamples=args.num_resamples)
    protocol = _protocol(predictor, dataset, num_images, args)
    console = Console()
    if not console.is_terminal:
        console = Console(width=130)  # a file has no edge
    console.print(context_table(report))
    console.print(result_table({}, protocol))
    if args.out is not None:
        print(f"written to {write_report(args.out, report.metrics(), protocol)}")
    return 0


def _check(args: argparse.Namespace) -> None:
    if args.out is not None and Path(args.out).suffix != ".json":
        raise ValueError(f"--out must end with .json, got {args.out!r}")
    if args.num_images is not None and args.num_images < 1 or args.num_resamples < 1 or args.seed < 0:
        raise ValueError(f"--num-images and --num-resamples must be at least 1, --seed at least 0, got {args.num_images}, {args.num_resamples}, {args.seed}")
    if not (0 < args.threshold <= 1 and 0 < args.min_iou <= 1):
        raise ValueError(f"--threshold and --min-iou must lie in (0, 1], got {args.threshold} and {args.min_iou}")
    use_data_root(args.data_root)


def _prepare(args: argparse.Namespace) -> tuple[Any, Any, tuple]:
    """Return the predictor, the test data and its classes; ValueError where no class has a description."""
    from ovdense.api import OpenVocabPredictor, load_config, load_model
    from ovdense.evaluation.ground_truth import load_ground_truth
    from ovdense.registry import DATASETS
    from ovdense.text.alterations import described_classes

    cfg = load_config(args.config, args.cfg_options)
    if (cfg.get("test_dataloader") or {}).get("dataset") is None:
        raise ValueError(f"{args.config} must have test_dataloader to be tested")
    model = load_model(cfg, args.checkpoint)
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    classes = described_classes(dataset.vocabulary, load_ground_truth(dataset.ann_file, federated=False).categories)
    if not any(c.parts for c in classes):
        raise ValueError(f"the classes of {dataset.ann_file} must have descriptions, none of {len(classes)} has one; pass description_file to the data set")
    return OpenVocabPredictor(model), dataset, classes


def _image_records(predictor: Any, dataset: Any, classes: Sequence, index: int, args: argparse.Namespace) -> tuple[list, list]:
    """Return the ObjectRecords and AbsenceRecords of one image; objects of classes without a description are left out."""
    from ovdense.data.transforms import read_image
    from ovdense.evaluation.context import AbsenceRecord, ObjectRecord, match_at
    from ovdense.text.alterations import context_queries

    info, truth = dataset.image_info(index), dataset.annotations(index)
    present = sorted({*truth["labels"].tolist(), *info["not_exhaustive_labels"].tolist()})
    rng = np.random.default_rng([args.seed, 0, info["image_id"]])
    asked = {k: context_queries(rng, k, classes, present, info["negative_labels"].tolist()) for k in present if classes[k].parts}
    if not asked:
        return [], []
    image = read_image(info["path"])
    found = {way: _ask(predictor, image, {k: getattr(q, way) for k, q in asked.items()}) for way in WAYS}
    objects = []
    for box, k, crowd in zip(truth["boxes_xyxy"], truth["labels"].tolist(), truth["crowd"]):
        if k not in asked or crowd:
            continue
        matches = {way: match_at(*found[way][k], box, args.min_iou) for way in WAYS if k in found[way]}
        objects.append(ObjectRecord(image_id=info["image_id"], attribute=asked[k].attribute, **matches))
    absences = [
        AbsenceRecord(image_id=info["image_id"], way=way, best_confidence=float(max(scores, default=0.0)))
        for way in ("altered", "swapped")
        for _, scores in found[way].values()
    ]
    return objects, absences


def _ask(predictor: Any, image: np.ndarray, queries: Mapping[int, Any]) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Return boxes and scores found for each class whose query is there; queries of the same words are asked once."""
    from ovdense.structures import Vocabulary

    entries = {q.name.casefold(): q for q in queries.values() if q is not None}
    if not entries:
        return {}
    predictor.set_vocabulary(Vocabulary(tuple(entries.values())), prompt="descriptions")
    results = predictor.predict(image)
    boxes, scores, labels = (t.float().cpu().numpy() for t in (results.boxes_xyxy, results.scores, results.labels))
    place = {name: n for n, name in enumerate(entries)}
    return {k: _of(place[q.name.casefold()], boxes, scores, labels) for k, q in queries.items() if q is not None}


def _of(label: int, boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return boxes[labels == label], scores[labels == label]


def _protocol(predictor: Any, dataset: Any, num_images: int, args: argparse.Namespace) -> dict[str, Any]:
    from ovdense.evaluation.ground_truth import fingerprint
    from ovdense.evaluation.protocol import software, weights_fingerprint

    told = {k: v for k, v in predictor.model.protocol().items() if k not in ("classes", "vocabulary_sha256", "chunks")}
    return {
        "annotations": dataset.ann_file.name,
        "ann_sha256": fingerprint([dataset.ann_file]),
        "images": num_images,
        "images_in_file": len(dataset),
        "asked_together": "the classes of an image, one way at a time",
        "min_iou": args.min_iou,
        "absence_threshold": args.threshold,
        "interval": f"95%, {args.num_resamples:,} resamples of images",
        "seed": args.seed,
        "checkpoint": str(args.checkpoint),
        "weights_sha256": weights_fingerprint(predictor.model.state_dict()),
        **told,
        **software(),
    }


if __name__ == "__main__":
    sys.exit(main())
