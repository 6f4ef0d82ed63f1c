"""Published GLIP, DesCo, DenseCLIP, MDETR weights -> a checkpoint of ours: python tools/convert_weights.py SRC DST (the same as: ovdense convert)"""
import sys

from ovdense.cli.convert import main, parse_args

__all__ = ["main", "parse_args"]

if __name__ == "__main__":
    sys.exit(main())
