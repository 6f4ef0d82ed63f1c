"""Training of so many epochs, counted in iterations."""
from typing import Any

from mmengine.runner import IterBasedTrainLoop, Runner
from torch.utils.data import DataLoader


class EpochTrainLoop(IterBasedTrainLoop):
    """MMEngine's loop over iterations, as long as `max_epochs` passes over the data; `max_iters` ends it sooner, and leaves schedules as they are.

    For schedules that papers give in epochs. MMEngine's own loop over epochs begins an interrupted one again when it is resumed; and since its samplers do not
    count passes, a data set here would draw the same crop and scale of an image in every epoch. This one needs a sampler that does not end
    (`ResumableInfiniteSampler`): each pass is drawn anew, and a resumed run goes on at the image where it stopped.
    """

    def __init__(self, runner: Runner, dataloader: DataLoader | dict, max_epochs: int, max_iters: int | None = None, **settings: Any) -> None:
        if max_epochs < 1 or max_iters is not None and max_iters < 1:
            raise ValueError(f"max_epochs must be at least 1, and max_iters too or None, got {max_epochs} and {max_iters}")
        if isinstance(dataloader, dict):
            dataloader = runner.build_dataloader(dataloader, seed=runner.seed, diff_rank_seed=runner._randomness_cfg.get("diff_rank_seed", False))
        if not hasattr(dataloader.sampler, "pass_length"):
            raise ValueError("train_dataloader.sampler must be one that counts passes and does not end, such as ResumableInfiniteSampler, "
                             f"got {type(dataloader.sampler).__name__}")  # fmt: skip
        super().__init__(runner, dataloader, max_iters=max_iters or max_epochs * len(dataloader), **settings)
        self._max_epochs = int(max_epochs)  # what schedules in epochs end with
