"""Label images with a segmenter's answers, to train another on them: python tools/pseudo_label.py configs/reco_mini.py --images DIR --out DIR --vocab voc21"""
import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from ovdense.cli.parser import Parser
from ovdense.runs import Settings, add_data_root, clean_errors, use_data_root


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(
        description="Write a segmenter's label map for every image of a folder: a grey PNG of class indices under the image's own relative name, "
        "and classes.json with the vocabulary and the protocol. Images that have one already are skipped; one that cannot be read is reported.",
    )
    parser.add_argument("config", help="config of the segmenter, such as configs/reco_mini.py")
    parser.add_argument("checkpoint", nargs="?", help="checkpoint; none for a method that is not trained")
    parser.add_argument("--images", required=True, metavar="DIR", help="folder of images; those in folders below it keep their relative names")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the labels")
    parser.add_argument("--vocab", default=None, metavar="NAME|FILE", help="classes, such as voc21 or a file (default: those of the config's test data)")
    add_data_root(parser)
    parser.add_argument("--cfg-options", nargs="+", action=Settings, metavar="KEY=VALUE", help="change settings of the config, such as its weights")
    parser.add_argument("--device", help="such as cpu or cuda:0 (default: an accelerator if there is one)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    with clean_errors():
        use_data_root(args.data_root)
        from ovdense.api import OpenVocabPredictor, load_config, load_model
        from ovdense.registry import DATASETS
        from ovdense.runs import require_training_free
        from ovdense.support.retrieval import folder_images

        cfg = load_config(args.config, args.cfg_options)
        if args.checkpoint is None:
            require_training_free(cfg, "give a checkpoint after the config")
        files = folder_images(args.images)
        predictor = OpenVocabPredictor(load_model(cfg, args.checkpoint, args.device))
        predictor.set_vocabulary(args.vocab if args.vocab else DATASETS.build(cfg.test_dataloader.dataset).vocabulary)
        failed = write_labels(predictor, files, Path(args.images), Path(args.out))
    for message in failed:
        print(f"error: {message}", file=sys.stderr)
    return 1 if failed else 0


def write_labels(predictor, files: Sequence[Path], folder: Path, out: Path) -> list[str]:
    """Write a label PNG for each file, named by its path relative to `folder`; return what is wrong with those that could not be read."""
    import numpy as np

    from ovdense.compat.atomic import replace_file
    from ovdense.compat.images import load_image, write_picture

    vocabulary = predictor.vocabulary
    if len(vocabulary) > 255:
        raise ValueError(f"labels are one byte a pixel: at most 255 classes, got {len(vocabulary)}")
    targets = {}
    for file in files:
        label = out / file.relative_to(folder.expanduser()).with_suffix(".png")
        if label in targets:
            raise ValueError(f"{file} and {targets[label]} would have the same label file {label}; rename one")
        targets[label] = file
    own = {file.resolve() for file in files}
    if out.resolve() == folder.expanduser().resolve() or any(label.resolve() in own for label in targets):
        raise ValueError(f"labels in {out} would lie where the images are (--images); give another folder with --out")
    protocol = predictor.model.protocol()  # makes an OVDiff's prototypes, which may take hours
    about = {"categories": [{"id": k, "name": e.name, "synonyms": list(e.synonyms), "background": e.is_background} for k, e in enumerate(vocabulary)],
             "source": "pseudo-labels", "protocol": {k: str(v) for k, v in protocol.items()}}  # fmt: skip
    path = out / "classes.json"
    if path.is_file() and json.loads(path.read_text()) != about:
        raise ValueError(f"{path} is of other classes or settings; give an empty folder, labels of two kinds must not mix")
    replace_file(path, json.dumps(about, indent=1))
    failed = []
    for label, file in targets.items():
        if label.is_file():
            continue
        try:
            image = load_image(file)
        except (OSError, ValueError) as error:
            failed.append(str(error))
            continue
        result = predictor.predict(image)
        write_picture(label, result.label_map_HW.cpu().numpy().astype(np.uint8))
    print(f"{len(targets) - len(failed)} labels of {len(vocabulary)} classes are in {out}")
    return failed


if __name__ == "__main__":
    sys.exit(main())
