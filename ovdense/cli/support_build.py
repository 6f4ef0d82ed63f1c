"""ovdense support build: the support images and prototypes of a vocabulary; the same as tools/build_support_set.py.

What is there already is kept; a run that was killed goes on where it stopped. Several at once, one an accelerator, share out the classes to be drawn.
"""
import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ovdense.cli.output import outcome
from ovdense.cli.parser import Parser
from ovdense.runs import add_run_arguments, clean_errors, clean_run_errors, configure


def parse_args(argv: Sequence[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    parser = Parser(
        prog=prog, json=True,
        description="Draw, retrieve or read the support images of OVDiff's classes, and make their prototypes; they are kept below the cache root.",
        epilog="The segmenter of the config finds them there; --out writes one file for its bank_file, which needs no images. Started several times at once, "
        "each on an accelerator of its own, it shares out the classes to be drawn.",
    )  # fmt: skip
    parser.add_argument("config", help="config file of an OVDiff segmenter, such as configs/ovdiff_shapes_mini.py, or a model's name")
    add_run_arguments(parser)
    parser.add_argument("--vocabulary", metavar="FILE|NAMES", 
                        help="names separated by commas, or a vocabulary file or name (default: the folders of --pictures, else the "
                        "config's test set's)")  # fmt: skip
    parser.add_argument("--pictures", metavar="DIR", help="use your own pictures, DIR/CLASS/*.jpg, perhaps with masks *.mask.png, not the config's source")
    parser.add_argument("--out", metavar="FILE.safetensors", help="write the vocabulary's banks with their provenance to this file")
    parser.add_argument("--sheet", metavar="DIR", help="draw a contact sheet a class: images, heat, foreground and background, parts")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    args = parse_args(argv, prog)
    with outcome(args.json) as said:
        _support(args, said)
    return 0


def _support(args: argparse.Namespace, said: dict[str, Any]) -> None:
    with clean_errors():
        from mmengine.device import get_device

        from ovdense.registry import MODELS

        cfg = configure(args)
        model = MODELS.build(cfg.model)
        if not hasattr(model, "use_support"):
            raise ValueError(f"{args.config} must be of an OVDiff segmenter, got {type(model).__name__}")
        model.to(get_device())
        if args.pictures:
            from ovdense.support.sources import FolderSupport

            model.use_support(FolderSupport(args.pictures))
        vocabulary = _vocabulary(args, cfg)
    with clean_run_errors():
        said |= {"classes": _build(model, vocabulary, args), "banks": args.out}


def _vocabulary(args: argparse.Namespace, cfg):
    from ovdense.registry import DATASETS
    from ovdense.support.sources import FolderSupport
    from ovdense.text.vocabulary import load_vocabulary
    from ovdense.text.wanted import wanted_of

    if args.vocabulary is None and args.pictures:
        return load_vocabulary(FolderSupport(args.pictures).classes())
    if args.vocabulary is None:
        if cfg.get("test_dataloader") is None:
            raise ValueError(f"{args.config} has no test set to take the classes from; give --vocabulary")
        return DATASETS.build(cfg.test_dataloader.dataset).vocabulary
    if "," in args.vocabulary:
        return load_vocabulary([n.strip() for n in args.vocabulary.split(",") if n.strip()])
    return wanted_of(args.vocabulary).vocabulary  # a plain name that is neither built in nor a file is a class


def free_first(source, entries: Sequence) -> Iterator:
    """Yield classes, those that another process is drawing when their turn comes after all others: builds side by side share the work."""
    late = []
    for entry in entries:
        if hasattr(source, "is_drawn_elsewhere") and source.is_drawn_elsewhere(entry):
            late.append(entry)
        else:
            yield entry
    yield from late


def _build(model, vocabulary, args: argparse.Namespace) -> list[dict[str, Any]]:
    classes, done = [e for e in vocabulary if not e.is_background], []
    for number, entry in enumerate(free_first(model.support, classes), start=1):
        began = time.perf_counter()
        found = model.support.support_set(entry)
        made = model.build_class(entry)
        kinds = model.prototypes.kinds
        rows = sum(len(m.foreground.rows(kinds)) + len(m.background.rows(kinds)) for m in made)
        print(f"[{number}/{len(classes)}] {entry.name}: {len(found)} images, {len(made[0].used)} with a foreground, {rows} prototypes, "
              f"{time.perf_counter() - began:.1f} s", flush=True)  # fmt: skip
        done.append({"name": entry.name, "images": len(found), "with_foreground": len(made[0].used), "prototypes": rows})
        if args.sheet:
            from ovdense.methods.ovdiff.sheets import write_sheet

            write_sheet(Path(args.sheet), model, entry)
    if args.out:
        model.save_banks(args.out, vocabulary)
        print(f"banks of {len(classes)} classes are in {args.out}")
    return done

