"""Look at ReCo's support sets: python tools/show_support.py configs/reco_mini.py --texts "cat. zebra" (the same as: ovdense support show)"""
import sys

from ovdense.cli.support_show import main, parse_args

__all__ = ["main", "parse_args"]

if __name__ == "__main__":
    sys.exit(main())
