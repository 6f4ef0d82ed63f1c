"""Descriptions for the classes of a vocabulary: python tools/describe_vocabulary.py coco --from lvis --out FILE.json (the same as: ovdense vocab describe)"""
import sys

from ovdense.cli.vocab_describe import main, parse_args

__all__ = ["main", "parse_args"]

if __name__ == "__main__":
    sys.exit(main())
