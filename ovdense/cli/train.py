"""ovdense train: train a model from a config; the same as tools/train.py."""
import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ovdense.cli.output import Report, outcome
from ovdense.cli.own_data import add_own_data_arguments, say_data, use_own_data
from ovdense.cli.parser import Parser
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


def parse_args(argv: Sequence[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    parser = Parser(prog=prog, json=True, description="Train a model from a config file.",
                    epilog="Runs without any download: ovdense train desco_lvis_mini. On your own boxes: ovdense train desco_coco_photos "
                    "--annotations train.json --images photos/ --val-annotations val.json --work-dir work_dirs/mine. With several GPUs: "
                    "torchrun --nproc-per-node 8 -m ovdense.cli "
                    "train CONFIG --launcher pytorch")  # fmt: skip
    parser.add_argument("config", help="config file, such as configs/desco_lvis_mini.py, or a model's name, such as desco_lvis_mini")
    add_run_arguments(parser)
    parser.add_argument("--amp", action="store_true", help="mixed precision (float16 on an accelerator, bfloat16 on the CPU)")
    parser.add_argument("--resume", nargs="?", const="auto", metavar="CHECKPOINT",
                        help="go on from CHECKPOINT, or without one from the newest readable checkpoint in the work dir")  # fmt: skip
    parser.add_argument("--auto-scale-lr", action="store_true", help="scale the learning rate with the batch size over all processes")
    parser.add_argument("--seed", type=int, help="seed of weights, dropout, image order and augmentation (default: the config's; a resumed run keeps its own)")
    parser.add_argument("--strict-data", action="store_true",
                        help="stop at the first image that cannot be read; without it another image stands in, and they are counted and named")  # fmt: skip
    add_own_data_arguments(parser, training=True)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    args = parse_args(argv, prog)
    with outcome(args.json) as found:
        _train(args, found)
    return 0


def _train(args: argparse.Namespace, found: dict[str, Any]) -> None:
    with clean_errors():
        cfg = configure(args)
        if not cfg.get("train_dataloader"):
            raise ValueError(f"{args.config} trains nothing; take a config that does, such as desco_coco_photos")
        use_own_data(cfg, args)
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
        if args.annotations is not None:
            say_data(runner)
    work, newest = Path(runner.work_dir), Path(runner.work_dir) / "last_checkpoint"
    validation = Report(work / "val_metrics.json", goes_on=bool(cfg.get("resume")))
    with clean_run_errors():
        runner.train()
    found |= {"work_dir": str(work), "checkpoint": newest.read_text().strip() if newest.is_file() else None, "validation": validation.read()}

