"""MMEngine hooks that every method needs: the vocabulary before a test, and runs that can be repeated and resumed."""
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

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
    """Seed torch before each training iteration from (seed, iteration, rank): dropout repeats itself after a resume."""

    priority = "VERY_HIGH"

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        torch.manual_seed((runner.seed or 0) * 1_000_003 + runner.iter * 64 + runner.rank)
