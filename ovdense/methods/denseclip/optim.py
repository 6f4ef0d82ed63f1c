"""The released learning-rate schedule of DenseCLIP's segmenters, as mmcv 1.x computes it.

MMEngine's PolyLR after LinearLR gives nearly the same; this one gives the same numbers, the floor's effect on a rate of 0 included:
a text tower with rate 0 (lr_mult 0.0) and gradients rises to `min_lr` at the end. Freeze the tower (the default) to keep it.
"""
from mmengine.optim.scheduler.lr_scheduler import LRSchedulerMixin
from mmengine.optim.scheduler.param_scheduler import _ParamScheduler
from torch.optim import Optimizer


class PublishedPolyLR(LRSchedulerMixin, _ParamScheduler):
    """Each group's rate: ((base - min_lr) * (1 - t / max_iters) ** power + min_lr) * warm(t), by iteration.

    warm(t) = 1 - (1 - t / warmup_iters) * (1 - warmup_ratio) before `warmup_iters`, then 1. `min_lr` is absolute, the same for all groups.
    """

    def __init__(self, optimizer: Optimizer, *, max_iters: int, power: float = 0.9, min_lr: float = 1e-6, warmup_iters: int = 1500, warmup_ratio: float = 1e-6,
                 last_step: int = -1, verbose: bool = False) -> None:
        if max_iters < 1 or not 0 <= warmup_iters <= max_iters:
            raise ValueError(f"max_iters must be at least 1 and warmup_iters in 0..max_iters, got {max_iters} and {warmup_iters}")
        self.max_iters, self.power, self.min_lr = max_iters, power, min_lr
        self.warmup_iters, self.warmup_ratio = warmup_iters, warmup_ratio
        super().__init__(optimizer, begin=0, end=max_iters, last_step=last_step, by_epoch=False, verbose=verbose)

    def _get_value(self) -> list[float]:
        done = min(self.last_step, self.max_iters)
        share = (1 - done / self.max_iters) ** self.power
        warm = 1 - (1 - done / self.warmup_iters) * (1 - self.warmup_ratio) if done < self.warmup_iters else 1.0
        return [((group["initial_lr"] - self.min_lr) * share + self.min_lr) * warm for group in self.optimizer.param_groups]
