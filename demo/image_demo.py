"""Find what a text says in photos: python demo/image_demo.py photo.jpg --texts "cat. sofa" (the same as: ovdense predict)"""
import sys

from ovdense.cli.predict import main, parse_args

__all__ = ["main", "parse_args"]

if __name__ == "__main__":
    sys.exit(main())
