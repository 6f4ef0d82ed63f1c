"""ovdense vocab show: the classes of a vocabulary, and what it says of them."""
import argparse
from collections.abc import Sequence
from dataclasses import asdict

from ovdense.cli.output import outcome, table
from ovdense.cli.parser import Parser
from ovdense.runs import clean_errors


def parse_args(argv: Sequence[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    parser = Parser(prog=prog, json=True, description="Print the classes of a vocabulary with synonyms and descriptions; what is wrong with a file is said.",
                    epilog="Example: ovdense vocab show lvis --find chair")  # fmt: skip
    parser.add_argument("vocabulary", help="built in (see: ovdense vocab list), a .txt file of names, a .json file of classes, annotations, or a VOC folder")
    parser.add_argument("--find", metavar="TEXT", help="only classes whose name, synonyms or descriptions have this text")
    parser.add_argument("--most", type=int, default=40, metavar="N", help="rows of the table; 0 for all (default: %(default)s); --json has all")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    args = parse_args(argv, prog)
    with outcome(args.json) as found:
        with clean_errors():
            from ovdense.text.vocabulary import load_vocabulary

            if args.most < 0:
                raise ValueError(f"--most must be 0 or more, got {args.most}")
            vocabulary = load_vocabulary(args.vocabulary)
            wanted = (args.find or "").casefold()
            kept = [(k, e) for k, e in enumerate(vocabulary) if any(wanted in text.casefold() for text in (e.name, *e.synonyms, *e.descriptions))]
        found |= {"classes": [{"id": k, **asdict(e)} for k, e in kept], "of": len(vocabulary), "fingerprint": vocabulary.fingerprint()}
        if not args.json:
            rows = [(k, e.name + (" (background)" if e.is_background else ""), ", ".join(e.synonyms), "; ".join(e.descriptions)) for k, e in kept]
            shown = rows[: args.most or None]
            table(("", "class", "synonyms", "descriptions"), shown, title=f"{len(kept)} of {len(vocabulary)} classes of {args.vocabulary}")
            if len(rows) > len(shown):
                print(f"and {len(rows) - len(shown)} more; --most 0 prints all")
    return 0
