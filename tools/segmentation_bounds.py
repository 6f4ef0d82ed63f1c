"""What a segmenter's numbers stand between: python tools/segmentation_bounds.py configs/maskclip_voc_mini.py --data-root DATA

Chance, one class everywhere, and the image-level upper bound: the same scores when only the classes that are in the image compete. All on a
config's test set, by the metric of tools/test.py.
"""
import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from ovdense.cli.parser import Parser
from ovdense.compat.atomic import replace_file
from ovdense.measure import print_rows
from ovdense.runs import add_run_arguments, clean_errors, clean_run_errors, configure


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(
        description="Measure what a segmenter that is not trained stands between: chance, one class everywhere, itself, and itself when it is told which "
        "classes are in the image (the image-level upper bound).")  # fmt: skip
    parser.add_argument("config", help="config file of a segmenter that needs no training (MaskClip, ReCo)")
    add_run_arguments(parser)
    parser.add_argument("--first", type=int, metavar="N", help="only the first N images")
    parser.add_argument("--out", metavar="FILE.json", help="write the numbers to this file")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    with clean_errors():
        if args.first is not None and args.first < 1:
            raise ValueError(f"--first must be at least 1, got {args.first}")
        from ovdense.methods.dense_model import TrainingFreeSegmenter
        from ovdense.registry import DATASETS, MODELS

        cfg = configure(args)
        model = MODELS.build(cfg.model)
        if not isinstance(model, TrainingFreeSegmenter):  # said before any data is made
            raise ValueError(f"{args.config} must be of a segmenter that is not trained, got {type(model).__name__}")
        dataset = DATASETS.build(cfg.test_dataloader.dataset)
    with clean_run_errors():
        model.set_vocabulary(dataset.vocabulary)
        rows = measure(model, dataset, args.first)
    print_rows(f"{Path(args.config).name}: {rows[0]['images']} images, {len(dataset.vocabulary)} classes", rows)
    if args.out:
        replace_file(args.out, json.dumps({"config": args.config, "protocol": model.protocol(), "rows": rows}, indent=1))
    return 0


def measure(model, dataset, first: int | None = None) -> list[dict]:
    """Return one row an answer: mIoU over the classes that occur in truth or answer, and pixel accuracy, in percent."""
    import numpy as np
    import torch

    from ovdense.data.collate import collate_detection
    from ovdense.evaluation.segmentation import confusion_matrix, summary
    from ovdense.structures import IGNORE_LABEL

    classes, number, rng = len(dataset.vocabulary), min(len(dataset), first or len(dataset)), np.random.default_rng(0)
    background = next((k for k, entry in enumerate(dataset.vocabulary) if entry.is_background), 0)
    answers = ("chance: every pixel at random", f"{dataset.vocabulary[background].name} everywhere", "the model", "told the image's classes")
    confusion = {name: np.zeros((classes, classes), np.int64) for name in answers}
    for n in range(number):
        data = model.data_preprocessor(collate_detection([dataset[n]]))
        image, target = data["images"][0], data["targets"][0]
        truth = target.label_map_HW.numpy()
        score_KHW = model.score(model.encode_image(image[None, :, : target.size_hw[0], : target.size_hw[1]]), model.text())
        there = torch.zeros(classes, dtype=torch.bool, device=score_KHW.device)
        there[[k for k in np.unique(truth).tolist() if k != IGNORE_LABEL]] = True
        told_KHW = score_KHW.masked_fill(~there[:, None, None], -1e4)
        labels = (rng.integers(0, classes, truth.shape), np.full_like(truth, background),
                  *(model.decode([score], [target])[0].label_map_HW.cpu().numpy() for score in (score_KHW, told_KHW)))
        for name, label in zip(answers, labels, strict=True):
            confusion[name] += confusion_matrix(truth, label, classes)
    found = {name: summary(matrix) for name, matrix in confusion.items()}
    return [{"answer": name, "mIoU": round(float(s["mIoU"]), 1), "aAcc": round(float(s["aAcc"]), 1), "images": number} for name, s in found.items()]


if __name__ == "__main__":
    sys.exit(main())
