"""How training scales with the number of ranks on this machine, one thread each: python tools/benchmark_ranks.py configs/desco_lvis_mini.py

The same batch a rank for every number of ranks (weak scaling): images a second, and their ratio to one rank's.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from ovdense.cli.parser import Parser
from ovdense.runs import clean_errors

ROOT = Path(__file__).resolve().parents[1]


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(description="Train a few iterations on one rank and on several, and compare images a second.")
    parser.add_argument("configs", nargs="*", default=["configs/desco_lvis_mini.py"], help="config files (default: configs/desco_lvis_mini.py)")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2], metavar="N", help="numbers of ranks (default: 1 2)")
    parser.add_argument("--iterations", type=int, default=40, metavar="N", help="iterations of each run; the first quarter is not counted (default: 40)")
    parser.add_argument("--batch-size", type=int, default=4, metavar="N", help="images a rank and iteration (default: 4)")
    parser.add_argument("--data-root", metavar="DIR", help="folder that holds the data")
    return parser.parse_args(argv)


def seconds_of(config: str, ranks: int, args: argparse.Namespace) -> float:
    """Return the median seconds of an iteration of a training with so many ranks."""
    with tempfile.TemporaryDirectory() as work:
        start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
        root = ["--data-root", args.data_root] if args.data_root else []
        options = [f"train_cfg.max_iters={args.iterations}", "train_cfg.val_begin=1000000000", "train_dataloader.num_workers=0",
                   "train_dataloader.persistent_workers=False", f"train_dataloader.batch_size={args.batch_size}", "default_hooks.logger.interval=1",
                   "log_processor.window_size=1", f"default_hooks.checkpoint.interval={10 * args.iterations}", "default_hooks.checkpoint.save_last=False"]
        command = [sys.executable, *start, str(ROOT / "tools/train.py"), config, "--launcher", "pytorch", "--work-dir", work, *root, "--cfg-options", *options]
        done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
        if done.returncode:
            raise ValueError(f"{config} on {ranks} ranks ended with {done.returncode}: {done.stderr[-1500:]}")
        rows = [json.loads(line) for file in Path(work).glob("*/vis_data/*.json") for line in file.read_text().splitlines()]
    return median(row["time"] for row in rows if row.get("step", 0) > args.iterations // 4 and "time" in row)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    with clean_errors():
        if args.iterations < 2 or args.batch_size < 1 or min(args.ranks) < 1:
            raise ValueError(f"--iterations must be at least 2, --batch-size and --ranks at least 1, got {args.iterations}, {args.batch_size}, {args.ranks}")
        print(f"{'config':32} {'ranks':>5} {'s/iteration':>12} {'images/s':>9} {'speed-up':>9} {'efficiency':>11}")
        for config in args.configs:
            alone = None
            for ranks in args.ranks:
                seconds = seconds_of(config, ranks, args)
                speed = ranks * args.batch_size / seconds
                alone = alone or speed / ranks
                print(f"{Path(config).stem:32} {ranks:5d} {seconds:12.3f} {speed:9.2f} {speed / alone:9.2f} {speed / alone / ranks:11.0%}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
