"""Train a model: python tools/train.py configs/desco_lvis_mini.py"""
import argparse
import sys
from collections.abc import Sequence

from ovdense.runs import (
    add_run_arguments,
    build_runner,
    clean_errors,
    clean_run_errors,
    configure,
    skip_broken_images,
    use_amp,
    use_auto_scale_lr,
    use_checkpoint,
    use_seed,
)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train a model from a config file.",
                                     epilog="Runs without any download: python tools/train.py configs/desco_lvis_mini.py")  # fmt: skip
    parser.add_argument("config", help="config file, such as configs/desco_lvis_mini.py")
    add_run_arguments(parser)
    parser.add_argument("--amp", action="store_true", help="mixed precision (float16 on an accelerator, bfloat16 on the CPU)")
    parser.add_argument("--resume", nargs="?", const="auto", metavar="CHECKPOINT",
                        help="go on from CHECKPOINT, or without one from the newest readable checkpoint in the work dir")  # fmt: skip
    parser.add_argument("--auto-scale-lr", action="store_true", help="scale the learning rate with the batch size over all processes")
    parser.add_argument("--seed", type=int, help="seed of weights, dropout, image order and augmentation (default: the config's; a resumed run keeps its own)")
    parser.add_argument("--strict-data", action="store_true",
                        help="stop at the first image that cannot be read; without it another image stands in, and they are counted and named")  # fmt: skip
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    with clean_errors():
        cfg = configure(args)
        options = args.cfg_options or {}
        use_seed(cfg, args.seed, kept=options)
        if args.amp:
            use_amp(cfg)
        if args.auto_scale_lr:
            use_auto_scale_lr(cfg)
        use_checkpoint(cfg, args.resume, options.get("randomness.seed") if args.seed is None else args.seed, kept=options)
        runner = build_runner(cfg)
        if not args.strict_data:
            skip_broken_images(runner)
        runner.train_loop, runner.val_loop  # noqa: B018  (builds the data sets: what is missing is said before training)
    with clean_run_errors():
        runner.train()
    return 0


if __name__ == "__main__":
    sys.exit(main())
