"""From a config file and command line flags to an MMEngine Runner: what tools/train.py and tools/test.py share."""
import argparse
import inspect
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.config import Config, DictAction

EXIT_USER_ERROR = 2


@contextmanager
def clean_errors() -> Iterator[None]:
    """End with exit code 2 and one line for what the user can put right; OVDENSE_TRACEBACK=1 shows the whole trace."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError, ValueError, KeyError, TypeError, ImportError) as error:
        if os.environ.get("OVDENSE_TRACEBACK") == "1":
            traceback.print_exc()
        message = error.args[0] if isinstance(error, KeyError) and error.args else error
        print(f"error: {message}", file=sys.stderr)
        raise SystemExit(EXIT_USER_ERROR) from None


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that training and testing share."""
    parser.add_argument("--work-dir", metavar="DIR", help="folder for logs, checkpoints and metrics (default: work_dirs/<config name>)")
    parser.add_argument("--data-root", metavar="DIR", help="folder that holds the data; the same as setting OVDENSE_DATA (default: ./data)")
    parser.add_argument("--cfg-options", nargs="+", action=DictAction, metavar="KEY=VALUE",
                        help='change settings of the config, for example train_cfg.max_iters=100 model.test.score_thr=0.1 key="[1,2]"')  # fmt: skip
    parser.add_argument("--launcher", choices=("none", "pytorch", "slurm", "mpi"), default="none", help="what starts the processes of a distributed run")
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)


def configure(args: argparse.Namespace) -> Config:
    """Return the config of `args.config` with the shared flags applied; sets OVDENSE_DATA and joins a distributed run."""
    from ovdense.api import load_config

    os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # data workers are forked
    if args.data_root is not None:
        if not Path(args.data_root).is_dir():
            raise FileNotFoundError(f"--data-root must be an existing folder, got {args.data_root}")
        os.environ["OVDENSE_DATA"] = str(Path(args.data_root).resolve())
    cfg = load_config(args.config, args.cfg_options)
    cfg.launcher = args.launcher
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get("work_dir") is None:
        cfg.work_dir = str(Path("work_dirs") / Path(args.config).stem)
    if args.launcher != "none":
        join_processes(cfg)
    return cfg


def join_processes(cfg: Config) -> None:
    """Without CUDA, join the process group with gloo and wrap the model for the CPU, which MMEngine's own way does not do."""
    import torch
    from torch import distributed

    if torch.cuda.is_available():
        return
    names = {"slurm": ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"),
             "mpi": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK")}.get(cfg.launcher)  # fmt: skip
    for ours, theirs in zip(("RANK", "WORLD_SIZE", "LOCAL_RANK"), names or ()):
        if theirs in os.environ:
            os.environ[ours] = os.environ[theirs]
    missing = [n for n in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if n not in os.environ]
    if missing:
        raise ValueError(f"--launcher {cfg.launcher} needs the environment variables {', '.join(missing)}; start with: torchrun --nproc-per-node 2 tools/train.py ...")
    if not distributed.is_initialized():
        distributed.init_process_group("gloo")
    cfg.model_wrapper_cfg = dict(type="MMDistributedDataParallel", device_ids=None, broadcast_buffers=False,
                                 find_unused_parameters=cfg.get("find_unused_parameters", False))  # fmt: skip


def use_amp(cfg: Config) -> None:
    """Train with mixed precision: float16 with loss scaling on an accelerator, bfloat16 on the CPU."""
    from mmengine.device import get_device

    if get_device() == "cpu":
        cfg.optim_wrapper.type = "CpuAmpOptimWrapper"
    else:
        cfg.optim_wrapper.type = "AmpOptimWrapper"
        cfg.optim_wrapper.loss_scale = "dynamic"


def use_auto_scale_lr(cfg: Config) -> None:
    """Scale the learning rate with the batch size over all processes, linearly from the config's base_batch_size."""
    if "base_batch_size" not in (cfg.get("auto_scale_lr") or {}):
        raise ValueError("--auto-scale-lr needs auto_scale_lr = dict(enable=False, base_batch_size=...) in the config")
    cfg.auto_scale_lr.enable = True


def use_seed(cfg: Config, seed: int) -> None:
    """Let `seed` decide everything random: weights, dropout, the order of the images and their augmentation."""
    cfg.randomness = {**(cfg.get("randomness") or {}), "seed": seed}
    loader = cfg.get("train_dataloader") or {}
    for part in ("sampler", "dataset"):
        if part in loader and "seed" in inspect.signature(loader[part]["type"]).parameters:
            loader[part]["seed"] = seed


def use_checkpoint(cfg: Config, resume: str | None) -> None:
    """Apply --resume: None leaves the config's setting, "auto" takes the newest readable checkpoint of the work_dir, else a file."""
    from ovdense.methods.checkpoints import newest_readable, read_checkpoint

    if resume is None and cfg.get("resume") and not cfg.get("load_from"):
        resume = "auto"
    if resume == "auto":
        newest = newest_readable(cfg.work_dir)
        cfg.resume, cfg.load_from = newest is not None, None if newest is None else str(newest)
        print(f"resume from {newest}" if newest else f"no checkpoint in {cfg.work_dir} yet: training starts at the beginning")
    elif resume is not None:
        cfg.resume, cfg.load_from = True, resume
    if cfg.get("load_from"):
        content = read_checkpoint(cfg.load_from)
        if cfg.get("resume") and not {"meta", "optimizer", "message_hub"} <= content.keys():
            raise ValueError(f"{cfg.load_from} holds weights only and cannot be resumed; start from it with --cfg-options load_from={cfg.load_from}")


def build_runner(cfg: Config) -> Any:
    """Return MMEngine's Runner of the config."""
    from mmengine.runner import Runner

    from ovdense.methods.checkpoints import install_safe_loading

    install_safe_loading()
    return Runner.from_cfg(cfg)
