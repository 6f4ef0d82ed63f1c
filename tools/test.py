"""Test a checkpoint: python tools/test.py configs/desco_lvis_mini.py work_dirs/desco_lvis_mini (the same as: ovdense test)"""
from ovdense.cli.program import end
from ovdense.cli.test import main, parse_args

__all__ = ["main", "parse_args"]

if __name__ == "__main__":
    end(main())
