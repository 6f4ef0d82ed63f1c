"""Test a checkpoint: python tools/test.py configs/desco_lvis_mini.py work_dirs/desco_lvis_mini (the same as: ovdense test)"""
import sys

from ovdense.cli.test import main, parse_args

__all__ = ["main", "parse_args"]

if __name__ == "__main__":
    sys.exit(main())
