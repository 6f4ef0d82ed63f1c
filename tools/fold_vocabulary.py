"""A trained model for one fixed vocabulary, without its language model: python tools/fold_vocabulary.py ... (the same as: ovdense vocab fold)"""
import sys

from ovdense.cli.vocab_fold import main, parse_args

__all__ = ["main", "parse_args"]

if __name__ == "__main__":
    sys.exit(main())
