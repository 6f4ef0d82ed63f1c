"""MMEngine hooks that every method needs: the vocabulary before a test, runs that can be repeated and resumed, and broken images counted."""
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook, Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import IterBasedTrainLoop, Runner

from ovdense.compat.ranks import gather_json
from ovdense.evaluation.report import write_json
from ovdense.registry import HOOKS


def _model(runner: Runner) -> Any:
    return runner.model.module if is_model_wrapper(runner.model) else runner.model


@HOOKS.register_module()
class VocabularyHook(Hook):
    """Give the model the classes (and the prompt form) of the data set that it is about to be tested, or trained, on.

    The protocol (chunks, prompt, detections an image) goes to every metric, to be stored beside its numbers. Runs after
    hooks that swap weights (EMA), since it has the text encoded.
    """

    priority = "LOW"

    def _set(self, runner: Runner, loop: Any) -> None:
        dataset, model = loop.dataloader.dataset, _model(runner)
        model.eval()  # the loop does so after this hook; the text below must not be encoded with dropout
        model.set_vocabulary(dataset.vocabulary, prompt=dataset.prompt)
        for metric in loop.evaluator.metrics:
            metric.conditions = model.protocol()

    def before_train(self, runner: Runner) -> None:
        """Give a model that is trained on a vocabulary the training data's classes."""
        model, dataset = _model(runner), runner.train_loop.dataloader.dataset
        if hasattr(model, "train_on"):
            model.train_on(dataset.vocabulary, prompt=dataset.prompt)

    def before_val_epoch(self, runner: Runner) -> None:
        self._set(runner, runner.val_loop)

    def before_test_epoch(self, runner: Runner) -> None:
        self._set(runner, runner.test_loop)


@HOOKS.register_module()
class IterationSeedHook(Hook):
    """Seed PyTorch, Python's random and NumPy before each training iteration from (seed, iteration, rank).

    So nothing that is drawn in a step, such as dropout, depends on what was drawn before: a resumed run repeats it to the bit. Where it is resumed with
    another batch size or number of ranks, the order of the images goes on where it stopped.
    """

    priority = "VERY_HIGH"
    DRAWN = "samples_drawn"

    def before_train(self, runner: Runner) -> None:
        """Note, for checkpoints, how many samples were drawn before this run, and how many it draws a step."""
        loader = runner.train_dataloader
        if loader.batch_size is None or not isinstance(runner.train_loop, IterBasedTrainLoop):
            return
        own = loader.batch_size * runner.world_size
        known = runner.message_hub.get_info(self.DRAWN) if runner.iter else None
        known = known or {"drawn": 0, "iteration": 0, "a_step": own}
        drawn = known["drawn"] + (runner.iter - known["iteration"]) * known["a_step"]
        runner.message_hub.update_info(self.DRAWN, {"drawn": drawn, "iteration": runner.iter, "a_step": own})
        if hasattr(loader.sampler, "move"):
            loader.sampler.move(drawn // runner.world_size - runner.iter * loader.batch_size)
        if known["a_step"] != own:
            runner.logger.warning(f"a step takes {own} images, before the checkpoint it took {known['a_step']}: their order goes on after the {drawn} that "
                                  "were drawn, and the learning rate is the checkpoint's")  # fmt: skip

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        seed = (runner.seed or 0) * 1_000_003 + runner.iter * 64 + runner.rank
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)


@HOOKS.register_module()
class BrokenImageHook(Hook):
    """Count and name the images that training leaves out since they cannot be read (`data.skipping`).

    Each is said once, when it is first met (by another rank: at the next checkpoint); the sum over all ranks is said at the end and written to
    broken_images.json in the work_dir. It is kept in checkpoints, so that a resumed run counts on.
    """

    priority = "VERY_HIGH"
    KEY = "broken_images"
    MOST_NAMED = 1000

    def __init__(self) -> None:
        self._own: list[str] = []
        self._said: set[str] = set()
        self._samples, self._files = 0, {}

    def before_train(self, runner: Runner) -> None:
        known = runner.message_hub.get_info(self.KEY) or {}
        self._samples, self._files = int(known.get("samples", 0)), dict(known.get("files", {}))
        self._said = set(self._files)
        at_once = list(getattr(runner.train_dataloader.dataset, "broken", ()))
        for line in at_once:
            self._say(runner, line)
            self._files.setdefault(line, 0)
        self._note(runner)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        if isinstance(data_batch, dict):
            for line in data_batch.pop("broken", ()):
                self._say(runner, line)
                self._own.append(line)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Gather where a checkpoint is about to be written."""
        hooks = [h for h in runner.hooks if isinstance(h, CheckpointHook) and not h.by_epoch]
        if any(self.every_n_train_iters(runner, h.interval) or self.is_last_train_iter(runner) for h in hooks):
            self._gather(runner)

    def after_train_epoch(self, runner: Runner) -> None:
        self._gather(runner)

    def before_val_epoch(self, runner: Runner) -> None:
        self._gather(runner)

    def after_train(self, runner: Runner) -> None:
        self._gather(runner)
        if not self._files or not is_main_process():
            return
        write_json(Path(runner.work_dir) / "broken_images.json", {"samples": self._samples, "files": self._files})
        named = "; ".join(list(self._files)[:5]) + (f"; and {len(self._files) - 5} more" if len(self._files) > 5 else "")
        runner.logger.warning(f"{len(self._files)} images could not be read, {self._samples} samples of them were replaced by others: {named} "
                              "(all in broken_images.json; --strict-data stops at the first one)")

    def _say(self, runner: Runner, line: str) -> None:
        if line not in self._said and len(self._said) < self.MOST_NAMED:
            self._said.add(line)
            runner.logger.warning(f"left out, another image stands in: {line}")

    def _gather(self, runner: Runner) -> None:
        own, self._own = self._own, []
        for lines in gather_json(own):
            for line in lines:
                self._say(runner, line)
                self._samples += 1
                if line in self._files or len(self._files) < self.MOST_NAMED:
                    self._files[line] = self._files.get(line, 0) + 1
        self._note(runner)

    def _note(self, runner: Runner) -> None:
        if self._files:
            runner.message_hub.update_info(self.KEY, {"samples": self._samples, "files": dict(self._files)})
