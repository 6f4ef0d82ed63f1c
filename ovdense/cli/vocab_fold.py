"""ovdense vocab fold: a trained model for one fixed vocabulary, without its language model; the same as tools/fold_vocabulary.py."""
import argparse
from collections.abc import Sequence
from pathlib import Path

from ovdense.cli.output import require_other
from ovdense.cli.parser import Parser
from ovdense.runs import clean_errors


def parse_args(argv: Sequence[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    parser = Parser(
        prog=prog,
        description="Prompt, then detect: encode a vocabulary once and write it together with the weights, without the language model. "
        "The file predicts the same as the whole model asked by this vocabulary, and cannot be asked anything else.",
        epilog="Then: ovdense predict PHOTO --model CONFIG --weights OUT.pth, or ovdense.load(CONFIG, 'OUT.pth')",
    )  # fmt: skip
    parser.add_argument("config", help="config file that the checkpoint was trained with, or a model's name")
    parser.add_argument("checkpoint", help="checkpoint, or a run's folder")
    parser.add_argument("out", help="file to write, such as desco_coco80.pth")
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("--vocab", metavar="NAME|FILE", help="classes: lvis, coco, voc, or a file (.txt with one name a line, .json)")
    asked.add_argument("--texts", metavar="TEXT", help='what to look for, each with a full stop: "cat. a red chair. not: dog" (a dog only competes)')
    parser.add_argument("--prompt", choices=("names", "descriptions", "texts"), default="names",
                        help="ask by names, by descriptions, or by names that are whole texts (default: %(default)s)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    args = parse_args(argv, prog)
    with clean_errors():
        from ovdense.api import load_model
        from ovdense.methods.checkpoints import write_checkpoint
        from ovdense.methods.desco.folded import fold
        from ovdense.methods.desco.model import Desco
        from ovdense.rivals import with_rivals
        from ovdense.text.phrases import parse_queries
        from ovdense.text.vocabulary import load_vocabulary
        from ovdense.text.wanted import wanted_of

        out = Path(args.out).expanduser()
        if out.is_dir():
            raise ValueError(f"OUT must be a file, got the folder {out}")
        require_other(out, (args.config, args.checkpoint, args.vocab), "OUT")
        wanted = wanted_of(load_vocabulary(args.vocab) if args.texts is None else parse_queries(args.texts))
        model = load_model(args.config, args.checkpoint, "cpu")
        if not isinstance(model, Desco):
            raise ValueError(f"only a Desco model can be folded, {args.config} has {type(model).__name__}")
        model.set_vocabulary(with_rivals(wanted, wants_background=False, within=True).asked, prompt=args.prompt)
        folded = fold(model)
        write_checkpoint(out, folded)
    whole = sum(t.numel() for t in model.state_dict().values())
    kept = sum(t.numel() for t in folded["state_dict"].values())
    rivals = f" and {len(wanted.negatives)} that only compete" if wanted.negatives else ""
    print(f"{len(wanted.vocabulary)} classes{rivals} in {len(folded['chunks'])} captions, {kept:,} of {whole:,} numbers of the model; written to {out}")
    return 0

