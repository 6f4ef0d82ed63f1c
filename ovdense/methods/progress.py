"""A progress bar with the remaining time, on a terminal; elsewhere MMEngine's LoggerHook writes lines with an ETA."""
import logging
import sys
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ovdense.registry import HOOKS


@HOOKS.register_module()
class ProgressHook(Hook):
    """Show one bar a loop (train, val, test): done of all, elapsed and remaining time, and in training the loss.

    `enabled`: None shows the bar where standard output is a terminal.
    """

    priority = "VERY_LOW"

    def __init__(self, enabled: bool | None = None) -> None:
        self.enabled = enabled
        self._progress: Progress | None = None
        self._tasks: dict[str, Any] = {}
        self._streams: list[tuple[logging.StreamHandler, Any]] = []

    def _open(self, runner: Runner, mode: str, total: int, done: int = 0) -> None:
        enabled = sys.stdout.isatty() if self.enabled is None else self.enabled
        if not enabled or not is_main_process():
            return
        if self._progress is None:
            self._progress = Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"),
                                      TimeRemainingColumn(elapsed_when_finished=False), TextColumn("{task.fields[note]}"),
                                      console=Console(file=sys.stdout, force_terminal=True if self.enabled else None), refresh_per_second=2)  # fmt: skip
            self._progress.start()
            self._redirect(runner.logger)
        self._tasks[mode] = self._progress.add_task(mode, total=total, completed=done, note="")

    def _redirect(self, logger: logging.Logger) -> None:
        """Let log lines go through rich's stand-in for sys.stdout, so that they appear above the bar."""
        for handler in logger.handlers:
            if type(handler) is logging.StreamHandler:
                self._streams.append((handler, handler.setStream(sys.stdout)))

    def _step(self, mode: str, note: str = "") -> None:
        if mode in self._tasks:
            self._progress.update(self._tasks[mode], advance=1, note=note)

    def _close(self, mode: str) -> None:
        if mode not in self._tasks:
            return
        self._progress.remove_task(self._tasks.pop(mode))
        if not self._tasks:
            for handler, stream in self._streams:
                if stream is not None:
                    handler.setStream(stream)
            self._streams.clear()
            self._progress.stop()
            self._progress = None

    def before_train(self, runner: Runner) -> None:
        self._open(runner, "train", runner.max_iters, runner.iter)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None) -> None:
        if "train" in self._tasks:
            loss = (outputs or {}).get("loss")
            self._step("train", "" if loss is None else f"loss {loss.item():.3f}")

    def after_train(self, runner: Runner) -> None:
        self._close("train")

    def before_val_epoch(self, runner: Runner) -> None:
        self._open(runner, "val", len(runner.val_dataloader))

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self._step("val")

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        self._close("val")

    def before_test_epoch(self, runner: Runner) -> None:
        self._open(runner, "test", len(runner.test_dataloader))

    def after_test_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self._step("test")

    def after_test_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        self._close("test")


_ABOUT_EVERY_TENSOR = ("is skipped since its requires_grad=False", "paramwise_options -- ", '"FileClient" will be deprecated', '"HardDiskBackend" is the alias')


def quieten(logger: logging.Logger) -> None:
    """Keep MMEngine's hundreds of lines about single parameters, and about its own parts, off the console; they stay in the run's log file."""
    for handler in logger.handlers:
        if type(handler) is logging.StreamHandler:
            handler.addFilter(lambda record: not any(words in record.getMessage() for words in _ABOUT_EVERY_TENSOR))
