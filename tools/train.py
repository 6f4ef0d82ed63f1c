"""Train a model: python tools/train.py configs/desco_lvis_mini.py (the same as: ovdense train)"""
from ovdense.cli.program import end
from ovdense.cli.train import main, parse_args

__all__ = ["main", "parse_args"]

if __name__ == "__main__":
    end(main())
