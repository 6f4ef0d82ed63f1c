"""One table of many results with their protocol: python tools/results_table.py work_dirs/*/test_metrics.json"""
import argparse
import sys
from collections.abc import Sequence

from ovdense.cli.parser import Parser
from ovdense.runs import clean_errors


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(description="Print a Markdown table of results: a row each, its numbers and the protocol that they were measured with.")
    parser.add_argument("results", nargs="+", metavar="RESULT.json", help="files that tools/test.py wrote: test_metrics.json, or FILE.metrics.json of --out")
    parser.add_argument("--names", nargs="+", metavar="NAME", help="name of each result (default: what tells the paths apart)")
    parser.add_argument("--numbers", nargs="+", default=[], metavar="NUMBER",
                        help="numbers to show, such as mIoU or lvis/bbox_AP (default: the first four of each metric)")
    parser.add_argument("--lines", nargs="+", metavar="LINE",
                        help="protocol lines to show, such as images prompt weights_sha256 (default: those that explain a number)")
    parser.add_argument("--out", metavar="FILE.md", help="write the table to this file as well")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    with clean_errors():
        from ovdense.compat.atomic import replace_file
        from ovdense.evaluation.comparison import FACTS, markdown_table, read_report, short_names

        if args.names is not None and len(args.names) != len(args.results):
            raise ValueError(f"--names must be one name a result, got {len(args.names)} for {len(args.results)}")
        names = args.names or short_names(args.results)
        table = markdown_table(names, [read_report(r) for r in args.results], numbers=args.numbers, facts=args.lines or FACTS)
        print(table)
        if args.out is not None:
            replace_file(args.out, table + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
