"""Show a run flattened, every base and option applied: python tools/print_config.py configs/desco_lvis_mini.py"""
import argparse
import sys
from collections.abc import Sequence

from ovdense.api import load_config
from ovdense.cli.parser import Parser
from ovdense.runs import Settings, clean_errors


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(description="Print a config as one flat file, with its bases and --cfg-options applied. Nothing is built.")
    parser.add_argument("config", help="config file, such as configs/desco_lvis_mini.py")
    parser.add_argument("--cfg-options", nargs="+", action=Settings, metavar="KEY=VALUE", help="change settings, as for tools/train.py")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    with clean_errors():
        print(load_config(args.config, args.cfg_options).pretty_text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
