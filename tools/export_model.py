"""A model for another runtime: python tools/export_model.py CONFIG [CHECKPOINT] --texts "cat. sofa" --out model.onnx (the same as: ovdense export)"""
import sys

from ovdense.cli.export import main, parse_args

__all__ = ["main", "parse_args"]

if __name__ == "__main__":
    sys.exit(main())
