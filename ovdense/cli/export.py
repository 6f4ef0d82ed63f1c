"""ovdense export: a model for another runtime; the same as tools/export_model.py."""
import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ovdense.cli.output import outcome, require_other
from ovdense.cli.parser import Parser
from ovdense.runs import add_data_root, clean_errors, use_data_root


def parse_args(argv: Sequence[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    parser = Parser(
        prog=prog, json=True,
        description="Write a model as ONNX or as a program of torch.export, for images of one size, with its vocabulary folded in or with the text embeddings "
        "as an input. The file says the names, prompt, sizes and how its outputs are read; ovdense.export.ExportedModel runs it.",
        epilog='Example: ovdense export mini --texts "cat. sofa" --out cats.onnx --size 480 640 --check photo.jpg')
    parser.add_argument("config", help="config file or short name of a model")
    parser.add_argument("checkpoint", nargs="?", help="checkpoint, or a run's folder (none for models that are not trained)")
    parser.add_argument("--out", required=True, metavar="FILE", help="file to write, such as model.onnx")
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("--texts", metavar="TEXT", help='what to look for, each with a full stop: "cat. a red chair"')
    asked.add_argument("--vocab", metavar="NAME|FILE", help="classes: coco, voc, lvis, ... or a file")
    parser.add_argument("--prompt", choices=("names", "descriptions", "texts"), 
                        help="ask by names, descriptions or whole texts (default: names; descriptions where --vocab is a JSON file of them)")
    parser.add_argument("--format", choices=("onnx", "torch"), default="onnx", help="default: %(default)s")
    parser.add_argument("--text-input", action="store_true",
                        help="do not fold the vocabulary in: its embeddings are an input (MaskCLIP, DenseCLIP's open form)")
    parser.add_argument("--size", nargs=2, type=int, metavar=("H", "W"), help="height and width of the input (default: the config's test size, 4:3)")
    add_data_root(parser)
    parser.add_argument("--check", metavar="IMAGE",
                        help="run both on this image ('-': on random colours); print the largest difference and the seconds of each")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    args = parse_args(argv, prog)
    with clean_errors(), outcome(args.json) as found:
        import ovdense
        from ovdense.export import export
        from ovdense.text.phrases import parse_queries

        require_other(args.out, (args.config, args.checkpoint, args.vocab), "--out")
        use_data_root(args.data_root)
        predictor = ovdense.load(args.config, args.checkpoint, device="cpu", precision="float32")
        predictor.set_vocabulary(args.vocab if args.texts is None else parse_queries(args.texts), prompt=args.prompt)
        path = export(predictor, args.out, format=args.format, fold=not args.text_input, size_hw=tuple(args.size) if args.size else None)
        found |= {"out": str(path), "classes": len(predictor.vocabulary), "mib": round(path.stat().st_size / 2**20, 1)}
        print(f"{len(predictor.vocabulary)} classes, {path.stat().st_size / 2**20:.1f} MiB, written to {path}")
        if args.check:
            found |= _check(predictor, path, args.check)
    return 0


def _check(predictor: Any, path: Path, image: str) -> dict[str, Any]:
    from ovdense.compat.images import load_image
    from ovdense.export import ExportedModel
    from ovdense.export.checking import parity

    found = parity(predictor, path, None if image == "-" else ExportedModel(path).fitted(load_image(image)))
    height, width = found["size_hw"]
    print(f"input {height}x{width}; largest value {found['largest_value']:.4g}")
    for name, off in found["largest_difference"].items():
        print(f"  {name}: largest difference {off:.2g}")
    print(f"  seconds: model {found['seconds']['model']:.3f}, file {found['seconds']['file']:.3f}")
    return found
