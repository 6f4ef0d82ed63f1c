"""From a config file and command line flags to an MMEngine Runner: what tools/train.py and tools/test.py share."""
import argparse
import atexit
import inspect
import os
import re
import sys
import traceback
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from mmengine.config import Config, DictAction

from ovdense.compat.atomic import NotWritten, is_full, replace_file

EXIT_USER_ERROR = 2
MAX_SEED = 2**31 - 1  # data workers add their number, and numpy ends at 2**32
_SPOKEN = (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError, ValueError, NotWritten)  # their message says it all
_TERSE = (KeyError, TypeError, ImportError)  # theirs means little without the type
_PACKAGE = Path(__file__).resolve().parent
_WORKER = re.compile(r"Caught \w+ in DataLoader worker process \d+\.\nOriginal Traceback")
_FRAME = re.compile(r'File "(.+)", line \d+, in .+\n\s+(.+)')


class Settings(DictAction):
    """MMEngine's reading of KEY=VALUE ..., with words for what is no such pair."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option_string: str | None = None) -> None:
        bad = next((text for text in values if not text.partition("=")[0].strip() or "=" not in text), None)
        if bad is not None:
            raise argparse.ArgumentError(self, f"must be KEY=VALUE, such as model.test.score_thr=0.1, got {bad!r}")
        try:
            super().__call__(parser, namespace, values, option_string)
        except (AssertionError, ValueError) as error:  # brackets that do not close
            raise argparse.ArgumentError(self, f"cannot be read: {error}; a list is written key=\"[1,2]\"") from None


@contextmanager
def clean_errors() -> Iterator[None]:
    """While a run is prepared: end with exit code 2 and one line for what the user can put right.

    OVDENSE_TRACEBACK=1 shows the whole trace as well.
    """
    try:
        yield
    except _SPOKEN as error:
        _end(str(error))
    except NotImplementedError as error:  # what a model cannot do, said by this package
        message = _own_message(error)
        if not message:
            raise
        _end(message)
    except _TERSE as error:
        message = error.args[0] if isinstance(error, KeyError) and error.args else error
        if isinstance(error, KeyError) and " " in str(message).strip():  # a sentence, which says it all
            _end(str(message))
        _end(f"{type(error).__name__}: {message} (OVDENSE_TRACEBACK=1 shows where)")


@contextmanager
def clean_run_errors() -> Iterator[None]:
    """While a run goes on: the same for what this package itself says about files and values, such as a broken image.

    Errors of data workers are taken out of their wrapping. Everything else is a bug and keeps its trace.
    """
    try:
        yield
    except (*_SPOKEN, OSError) as error:
        message = _own_message(error)
        if message is None and isinstance(error, OSError) and is_full(error):  # a log of MMEngine's, or TensorBoard's
            message = f"{error.filename or 'a log of the run'} could not be written: {error.strerror}; free some space and go on with --resume"
        if message is None:
            raise
        _end(message)


def _end(message: str) -> NoReturn:
    if os.environ.get("OVDENSE_TRACEBACK") == "1":
        traceback.print_exc()
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(EXIT_USER_ERROR) from None


def _own_message(error: Exception) -> str | None:
    """Return the message of an error that a `raise` of this package made, here or in a data worker; None for any other."""
    message = str(error)
    if _WORKER.match(message):
        file, line = (_FRAME.findall(message) or [("", "")])[-1]
        message = re.split(rf"\n(?:\w+\.)*{type(error).__name__}: ", message)[-1].strip()
    else:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        file, line = frame.filename, frame.line or ""
    return message if line.startswith("raise ") and Path(file).resolve().is_relative_to(_PACKAGE) else None


def add_data_root(parser: argparse.ArgumentParser) -> None:
    """Add --data-root, which `use_data_root` applies."""
    parser.add_argument("--data-root", metavar="DIR", help="folder that holds the data; the same as setting OVDENSE_DATA (default: ./data)")


def use_data_root(folder: str | None) -> None:
    """Let relative paths of data be below this folder; None changes nothing."""
    if folder is None:
        return
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"--data-root must be an existing folder, got {folder}")
    os.environ["OVDENSE_DATA"] = str(Path(folder).resolve())


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that training and testing share."""
    parser.add_argument("--work-dir", metavar="DIR", help="folder for logs, checkpoints and metrics (default: work_dirs/<config name>)")
    add_data_root(parser)
    parser.add_argument("--cfg-options", nargs="+", action=Settings, metavar="KEY=VALUE",
                        help='change settings of the config, for example train_cfg.max_iters=100 model.test.score_thr=0.1 key="[1,2]"')  # fmt: skip
    parser.add_argument("--launcher", choices=("none", "pytorch", "slurm", "mpi"), default="none", help="what starts the processes of a distributed run")
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)


def configure(args: argparse.Namespace) -> Config:
    """Return the config of `args.config` with the shared flags applied; sets OVDENSE_DATA and joins a distributed run."""
    from ovdense.api import load_config
    from ovdense.zoo import config_path

    os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # data workers are forked
    use_data_root(args.data_root)
    cfg = load_config(args.config, args.cfg_options)
    cfg.launcher = args.launcher
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get("work_dir") is None:
        cfg.work_dir = str(Path("work_dirs") / config_path(args.config).stem)  # of a short name's config, where others look for its weights
    if args.launcher != "none":
        join_processes(cfg)
        atexit.register(leave_processes)
        use_ranks(cfg)
    return cfg


def join_processes(cfg: Config) -> None:
    """Without CUDA, join the process group with gloo, which MMEngine's own way does not do."""
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
        raise ValueError(f"--launcher {cfg.launcher} needs the environment variables {', '.join(missing)}; "
                         "start with: torchrun --nproc-per-node 2 tools/train.py ...")  # fmt: skip
    if not distributed.is_initialized():
        distributed.init_process_group("gloo")


def leave_processes() -> None:
    """End the process group: a process that ends while the group's threads still run is now and then aborted, and the launcher calls the run failed."""
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def use_ranks(cfg: Config) -> None:
    """Wrap the model for training over several ranks, BatchNorm over all of them, as if one process had the whole batch; a config's own wrapper stays.

    `sync_bn` names MMEngine's way to do so, which needs CUDA and is left to it there.
    """
    import torch

    from ovdense.methods.ranks import RankedDataParallel

    if not torch.cuda.is_available():
        cfg.pop("sync_bn", None)
    if cfg.get("model_wrapper_cfg") is None:
        cfg.model_wrapper_cfg = dict(type=RankedDataParallel, sync_norms=True, find_unused_parameters=cfg.get("find_unused_parameters", False))


def use_amp(cfg: Config) -> None:
    """Train with mixed precision: float16 with loss scaling on an accelerator, bfloat16 on the CPU. ValueError where the config has its own way to step."""
    from mmengine.device import get_device

    kind = cfg.optim_wrapper.get("type", "OptimWrapper")
    name = kind.rpartition(".")[2] if isinstance(kind, str) else kind.__name__
    if name not in ("OptimWrapper", "AmpOptimWrapper", "CpuAmpOptimWrapper"):
        raise ValueError(f"--amp would take the place of the config's {name}, which does what MMEngine's wrappers do not; leave --amp out "
                         "(sharded weights: model_wrapper_cfg.param_dtype=bfloat16)")  # fmt: skip
    if get_device() == "cpu":
        cfg.optim_wrapper.type = "CpuAmpOptimWrapper"
    else:
        cfg.optim_wrapper.type = "AmpOptimWrapper"
        cfg.optim_wrapper.loss_scale = "dynamic"


def use_auto_scale_lr(cfg: Config) -> None:
    """Scale the learning rate with the images of a step, over all processes and added up batches, linearly from the config's base_batch_size."""
    if "base_batch_size" not in (cfg.get("auto_scale_lr") or {}):
        raise ValueError("--auto-scale-lr needs auto_scale_lr = dict(enable=False, base_batch_size=...) in the config")
    if cfg.auto_scale_lr.get("enable"):  # such as the config that a run with this flag has written down
        return
    cfg.auto_scale_lr.enable = True
    cfg.auto_scale_lr.base_batch_size /= cfg.optim_wrapper.get("accumulative_counts", 1)  # MMEngine counts the images of one batch


def use_seed(cfg: Config, seed: int | None = None, kept: Collection[str] = ()) -> None:
    """Let one seed decide everything random: weights, dropout, the order of the images and their augmentation.

    `seed`: 0..2**31 - 1; None takes the config's randomness.seed, and where that is None too, a new one. `kept`: keys of
    settings that stay as they are (those of the command line), such as train_dataloader.sampler.seed.
    """
    from ovdense.registry import DATA_SAMPLERS

    if seed is None:
        seed = (cfg.get("randomness") or {}).get("seed")
    if seed is None:
        if cfg.get("launcher", "none") != "none":
            raise ValueError("the processes of a run must share a seed, the config has none; give --seed N")
        seed = int.from_bytes(os.urandom(4), "little") & MAX_SEED
    if not isinstance(seed, int) or not 0 <= seed <= MAX_SEED:
        raise ValueError(f"a seed must be an integer in 0..{MAX_SEED}, got {seed!r}")
    cfg.randomness = {**(cfg.get("randomness") or {}), "seed": seed}
    loader = cfg.get("train_dataloader") or {}
    if "sampler" in loader and "train_dataloader.sampler.seed" not in kept and _takes(loader["sampler"]["type"], "seed", DATA_SAMPLERS):
        loader["sampler"]["seed"] = seed
    _seed_data(loader.get("dataset"), "train_dataloader.dataset", seed, kept)


def _seed_data(settings: Any, place: str, seed: int, kept: Collection[str]) -> None:
    """Give the seed to a data set of a config and to those that it is made of."""
    from ovdense.registry import DATASETS

    if not isinstance(settings, Mapping) or "type" not in settings:
        return
    if f"{place}.seed" not in kept and _takes(settings["type"], "seed", DATASETS):
        settings["seed"] = seed
    _seed_data(settings.get("dataset"), f"{place}.dataset", seed, kept)
    for n, part in enumerate(settings.get("datasets") or ()):
        _seed_data(part, f"{place}.datasets.{n}", seed, kept)


def _takes(kind: Any, argument: str, registry: Any) -> bool:
    """Return whether a config's type, a class or (in a dumped config) its name, has an argument of this name."""
    found = registry.get(kind) if isinstance(kind, str) else kind
    return found is not None and argument in inspect.signature(found).parameters


def use_checkpoint(cfg: Config, resume: str | None, seed: int | None = None, kept: Collection[str] = ()) -> None:
    """Apply --resume: None leaves the config's setting, "auto" takes the newest readable checkpoint of the work_dir, else a file.

    Where there is none yet, the config's load_from stays. A resumed run goes on with the seed that it began with; another
    `seed`, asked for on the command line, is refused. `kept`: see `use_seed`.
    """
    from ovdense.methods.checkpoints import newest_readable, read_checkpoint

    if resume is None and cfg.get("resume") and not cfg.get("load_from"):
        resume = "auto"
    if resume == "auto":
        newest = newest_readable(cfg.work_dir)
        cfg.resume = newest is not None
        if newest is not None:
            cfg.load_from = str(newest)
        start = f"with the weights of {cfg.load_from}" if cfg.get("load_from") else "at the beginning"
        print(f"resume from {newest}" if newest else f"no checkpoint in {cfg.work_dir} yet: training starts {start}")
    elif resume is not None:
        cfg.resume, cfg.load_from = True, resume
    if not cfg.get("load_from"):
        return
    content = read_checkpoint(cfg.load_from)
    if not cfg.get("resume"):
        return
    if not {"meta", "optimizer", "message_hub"} <= content.keys():
        raise ValueError(f"{cfg.load_from} holds weights only and cannot be resumed; start from it with --cfg-options load_from={cfg.load_from}")
    began_with = content["meta"].get("seed")
    if began_with is None:
        return
    if seed is not None and seed != began_with:
        raise ValueError(f"{cfg.load_from} was trained with seed {began_with}, a resumed run cannot change to {seed}; leave the seed out")
    use_seed(cfg, began_with, kept)


class _WholeConfig(Config):
    """MMEngine's Config, written whole or not at all."""

    def dump(self, file: str | Path | None = None) -> str | None:
        if file is None or Path(file).suffix != ".py":
            return super().dump(file)
        replace_file(file, self.pretty_text)
        return None


def build_runner(cfg: Config) -> Any:
    """Return MMEngine's Runner of the config; ValueError when nothing of its load_from fits the model."""
    from mmengine.runner import Runner

    from ovdense.methods.checkpoints import install_safe_loading, model_state, require_fitting
    from ovdense.methods.progress import quieten

    install_safe_loading()
    object.__setattr__(cfg, "__class__", _WholeConfig)  # MMEngine copies it, class and all, and writes the copy into the work_dir
    runner = Runner.from_cfg(cfg)
    quieten(runner.logger)
    if cfg.get("load_from"):
        model, state = getattr(runner.model, "module", runner.model), model_state(cfg.load_from)
        fitting = require_fitting(model, state, cfg.load_from)
        print(f"{fitting} of the model's {len(model.state_dict())} tensors come from {cfg.load_from}")
    return runner


def skip_broken_images(runner: Any) -> None:
    """Let the training of a runner go on past images that cannot be read, count them, and say so (`data.skipping`)."""
    from functools import partial

    from mmengine.registry import FUNCTIONS

    from ovdense.data.skipping import CollateBroken, SkipBroken
    from ovdense.methods.hooks import BrokenImageHook
    from ovdense.registry import DATASETS

    loader = runner._train_dataloader  # as Runner has it before it builds the loader
    if not isinstance(loader, dict) or not isinstance(loader["dataset"], dict):
        return
    loader = runner._train_dataloader = dict(loader)
    settings = dict(loader["dataset"])
    if _takes(settings["type"], "skip_broken", DATASETS):
        settings.setdefault("skip_broken", True)
    loader["dataset"] = SkipBroken(DATASETS.build(settings))
    collate = loader.get("collate_fn") or dict(type="pseudo_collate")
    if isinstance(collate, dict):
        kind, more = collate["type"], {k: v for k, v in collate.items() if k != "type"}
        collate = partial(FUNCTIONS.get(kind) if isinstance(kind, str) else kind, **more)
    loader["collate_fn"] = CollateBroken(collate)
    runner.register_hook(BrokenImageHook())


def is_training_free(cfg: Any) -> bool:
    """Return `methods.base.is_training_free`; imported when it is called, so that the tools' --help stays quick."""
    from ovdense.methods.base import is_training_free as of_config

    return of_config(cfg)


def require_training_free(cfg: Any, advice: str) -> None:
    """Raise ValueError, with the advice, if the model of a config has to be trained."""
    if not is_training_free(cfg):
        raise ValueError(f"{cfg.filename}: the weights of this model must be given, since it is trained; {advice}")
