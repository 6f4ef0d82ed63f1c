"""Build the support images and prototypes of a vocabulary: python tools/build_support_set.py CONFIG (the same as: ovdense support build)"""
import sys

from ovdense.cli.support_build import main, parse_args

__all__ = ["main", "parse_args"]

if __name__ == "__main__":
    sys.exit(main())
