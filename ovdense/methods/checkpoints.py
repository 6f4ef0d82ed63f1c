"""Checkpoints are data: reading one runs no code, and a kill in the middle of writing one loses nothing.

`read_checkpoint` reads; `AtomicCheckpointHook` writes (temporary file, then rename; older files go only afterwards).
"""
import hashlib
import io
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.logging import print_log
from mmengine.runner import CheckpointLoader, Runner
from torch import Tensor, nn

from ovdense.compat.atomic import atomic_write, remove_left, replace_file
from ovdense.compat.tensor_files import read_tensors
from ovdense.compat.weights import load_checked
from ovdense.registry import HOOKS

BACKEND = "ovdense_atomic"
_STEP = re.compile(r"(?:iter|epoch)_(\d+)\.pth")

def read_checkpoint(path: str | Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Return the content of a checkpoint, as data: nothing in the file can run code.

    `path`: the file; or a run's folder, or the `last_checkpoint` in it, which mean its newest one. FileNotFoundError for
    a missing file; ValueError when it is cut short, is no checkpoint, or holds other objects (see `compat.tensor_files`).
    """
    path = _resolved(Path(path).expanduser())
    try:
        content = read_tensors(path, map_location)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}; tools/train.py writes them to its --work-dir") from None
    if isinstance(content.get("meta"), dict):
        content["meta"].pop("config", None)  # MMEngine would run it as Python
    return content


def _resolved(path: Path) -> Path:
    """Return the file that a folder or a `last_checkpoint` stands for; other paths as they are."""
    if path.is_dir():
        newest = newest_readable(path)
        if newest is None:
            raise FileNotFoundError(f"the folder {path} must hold a readable checkpoint iter_N.pth, found none")
        return newest
    if path.name == "last_checkpoint" and path.is_file() and path.stat().st_size < 4096:
        named = Path(path.read_text(encoding="utf8").strip())
        return path.parent / named.name if (path.parent / named.name).is_file() else named  # the folder may have moved
    return path


def model_state(path: str | Path) -> dict[str, Tensor]:
    """Return the model's weights in a checkpoint: under "state_dict" or "model", or the file itself; "module." is cut."""
    content = read_checkpoint(path)
    state = next((content[k] for k in ("state_dict", "model") if isinstance(content.get(k), dict)), content)
    tensors = {k.removeprefix("module."): v for k, v in state.items() if isinstance(v, Tensor)}
    if not tensors:
        raise ValueError(f"{path} must hold the model's tensors under 'state_dict', 'model' or at the top, got none under {sorted(map(str, content))[:8]}")
    return tensors


def require_fitting(model: nn.Module, state: Mapping[str, Tensor], origin: str | Path) -> int:
    """Return how many tensors of `state` fit one of `model` by name and shape; ValueError if none does."""
    own = model.state_dict()
    fitting = sum(name in own and own[name].shape == tensor.shape for name, tensor in state.items())
    if not fitting:
        raise ValueError(
            f"{origin} must hold weights of {type(model).__name__}, such as {next(iter(own), 'none')}, but no tensor fits; "
            f"it has {', '.join(list(state)[:3])}; "
            f"a published GLIP or DesCo-GLIP file is converted first: python tools/convert_weights.py {origin} OUT.pth"
        )
    return fitting


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load a checkpoint's weights into `model`; ValueError if one is missing or misshapen, what is left over is printed."""
    state = model_state(path)
    require_fitting(model, state, path)
    load_checked(model, state, str(path))


def _steps(folder: Path) -> dict[Path, int]:
    return {p: int(m[1]) for p in folder.glob("*.pth") if (m := _STEP.fullmatch(p.name))}


def _newest_first(folder: Path) -> list[Path]:
    """Return the checkpoints of a folder: those written since its `last_checkpoint` was, the one that this names, those before it, all others.

    A run that went back to an earlier checkpoint leaves later ones of the run before beside its own: the largest N is not always the newest. Where the
    folder has none, they are where `last_checkpoint` says (the checkpoint hook's `out_dir`).
    """
    last = named = folder / "last_checkpoint"
    with suppress(OSError, ValueError):  # no text, or no path
        named = _resolved(last)
    step = _steps(folder) or (_steps(named.parent) if named != last and named.is_file() else {})
    order = sorted(step, key=lambda p: (step[p], p), reverse=True)
    if named not in step:
        return order
    later = [p for p in order if step[p] > step[named] and p.lstat().st_mtime_ns > last.stat().st_mtime_ns]
    return [*later, *(p for p in order if step[p] <= step[named]), *(p for p in order if step[p] > step[named] and p not in later)]


def newest_readable(folder: str | Path) -> Path | None:
    """Return the newest checkpoint iter_N.pth (or epoch_N.pth) in `folder` that can be read, None if there is none: see `_newest_first`."""
    for path in _newest_first(Path(folder)):
        try:
            read_checkpoint(path)
        except (ValueError, FileNotFoundError) as error:
            print_log(f"left aside: {error}", logger="current", level=30)
        else:
            return path
    return None


def install_safe_loading() -> None:
    """Make MMEngine read local checkpoints with `read_checkpoint`, and none from elsewhere: its own loaders run what is in a file that they do not know.

    Done when this module is imported, as any config with `AtomicCheckpointHook` does.
    """

    def load_from_local(filename: str, map_location: Any) -> dict[str, Any]:
        content = read_checkpoint(filename, map_location)
        if "state_dict" not in content and isinstance(content.get("model"), dict):
            content["state_dict"] = content.pop("model")  # MMEngine does not look there
        broken = [k for k, v in content.get("state_dict", {}).items() if isinstance(v, Tensor) and v.is_floating_point() and bool(v.isnan().any())]
        if broken:
            raise ValueError(f"{filename} must hold numbers, but {len(broken)} tensors hold nan, such as {broken[0]}; the training that wrote it has diverged")
        return content

    def load_from_elsewhere(filename: str, map_location: Any) -> dict[str, Any]:
        raise ValueError(f"weights must be a file of this machine, nothing is fetched, got {filename}; download it and give its path")

    for prefix in [p for p in CheckpointLoader._schemes if p]:
        CheckpointLoader.register_scheme(prefixes=prefix, loader=load_from_elsewhere, force=True)
    CheckpointLoader.register_scheme(prefixes="", loader=load_from_local, force=True)


install_safe_loading()


def write_checkpoint(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write `content` to `path` as a checkpoint, whole or not at all."""
    with atomic_write(path) as file:
        torch.save(dict(content), file)


class AtomicBackend(LocalBackend):
    """Local files, written whole or not at all. While `held` is a list, removals are only noted in it."""

    held: list[str] | None = None

    def put(self, obj: bytes, filepath: str | Path) -> None:
        replace_file(filepath, obj)

    def put_text(self, obj: str, filepath: str | Path, encoding: str = "utf-8") -> None:
        replace_file(filepath, obj.encode(encoding))

    def remove(self, filepath: str | Path) -> None:
        if self.held is None:
            super().remove(filepath)
        else:
            self.held.append(str(filepath))


register_backend(BACKEND, AtomicBackend, force=True)


@HOOKS.register_module()
class AtomicCheckpointHook(CheckpointHook):
    """MMEngine's CheckpointHook (same arguments), safe against a kill at any moment.

    A checkpoint appears under its name only when it is whole; `last_checkpoint` names it after that; checkpoints beyond
    `max_keep_ckpts`, and the best one before, are removed last.
    """

    def before_train(self, runner: Runner) -> None:
        steps = getattr(runner.optim_wrapper, "_accumulative_counts", 1)
        if not self.by_epoch and self.interval > 0 and self.interval % steps:
            raise ValueError(f"checkpoints must fall on whole optimiser steps, of {steps} iterations each, got an interval of {self.interval}: gradients in "
                             f"between are in no checkpoint; set default_hooks.checkpoint.interval to a multiple of {steps}")
        self.backend_args = self.backend_args or {"backend": BACKEND}
        super().before_train(runner)
        if is_main_process():
            for folder in {self.out_dir, runner.work_dir}:
                remove_left(folder)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        removed = []
        if self.max_keep_ckpts > 0 and (not self.keep_ckpt_ids or self.keep_ckpt_ids[-1] != step):
            ids = [n for n in self.keep_ckpt_ids if n != step] + [step]
            removed, ids = ids[: -self.max_keep_ckpts], ids[-self.max_keep_ckpts :]
            self.keep_ckpt_ids.clear()
            self.keep_ckpt_ids.extend(ids)
            runner.message_hub.update_info("keep_ckpt_ids", ids)
        name = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info("last_ckpt", self.last_ckpt)
        runner.save_checkpoint(self.out_dir, name, save_optimizer=self.save_optimizer, save_param_scheduler=self.save_param_scheduler, meta=meta,
                               by_epoch=self.by_epoch, backend_args=self.backend_args)  # fmt: skip
        if not is_main_process():
            return
        replace_file(Path(runner.work_dir) / "last_checkpoint", self.last_ckpt.encode())
        for old in removed:
            path = self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(old))
            if self.file_backend.isfile(path):
                self.file_backend.remove(path)

    def _publish_model(self, runner: Runner, ckpt_path: str) -> None:
        """Write the checkpoint with `published_keys` only, whole or not at all, under MMEngine's name for it."""
        if is_main_process():
            kept = {k: v for k, v in read_checkpoint(ckpt_path).items() if k in self.published_keys}
            file = io.BytesIO()
            torch.save(kept, file)
            path = Path(ckpt_path)
            replace_file(path.with_name(f"{path.stem}-{hashlib.sha256(file.getbuffer()).hexdigest()[:8]}.pth"), file.getvalue())

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        if not isinstance(self.file_backend, AtomicBackend):
            return super()._save_best_checkpoint(runner, metrics)
        self.file_backend.held = []
        try:
            super()._save_best_checkpoint(runner, metrics)
        finally:
            before, self.file_backend.held = self.file_backend.held, None
        kept = {getattr(self, "best_ckpt_path", None), *getattr(self, "best_ckpt_path_dict", {}).values()}
        for path in set(before) - kept:
            if self.file_backend.isfile(path):
                self.file_backend.remove(path)
