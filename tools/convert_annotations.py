"""Annotations from one format to another: python tools/convert_annotations.py instances.json labels/ --to labelme (the same as: ovdense annotations)"""
import sys

from ovdense.cli.annotations import main, parse_args

__all__ = ["main", "parse_args"]

if __name__ == "__main__":
    sys.exit(main())
