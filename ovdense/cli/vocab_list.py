"""ovdense vocab list: the built-in vocabularies."""
import argparse
from collections.abc import Sequence

from ovdense.cli.output import outcome, table
from ovdense.cli.parser import Parser


def parse_args(argv: Sequence[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    parser = Parser(prog=prog, json=True, description="List the built-in vocabularies, by the names that --vocab takes.")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    args = parse_args(argv, prog)
    with outcome(args.json) as found:
        from ovdense.text.vocabulary import BUILTIN, load_vocabulary

        known = {name: load_vocabulary(name) for name in BUILTIN}
        found["vocabularies"] = {name: len(vocabulary) for name, vocabulary in known.items()}
        rows = [(name, len(v), sum(bool(e.descriptions) for e in v), ", ".join(v.names[:6]) + ", ...") for name, v in known.items()]
        if not args.json:
            table(("name", "classes", "described", "begins with"), rows, right=("classes", "described"))
    return 0
