"""MDETR's rates: three groups (transformer and heads, backbone, text encoder), and the text encoder's own schedule."""
from typing import Any

from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.optim.scheduler.param_scheduler import _ParamScheduler
from torch import nn

from ovdense.registry import OPTIM_WRAPPER_CONSTRUCTORS, PARAM_SCHEDULERS


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class MdetrRates(DefaultOptimWrapperConstructor):
    """Three groups: "base" at the optimizer's rate, "backbone" at `backbone_lr`, "text" at `text_lr`; frozen parameters are left out.

    `paramwise_cfg` must be dict(backbone_lr=..., text_lr=...). Groups carry their `role`, which `MdetrSchedule` reads.
    """

    def _validate_cfg(self) -> None:
        if set(self.paramwise_cfg) != {"backbone_lr", "text_lr"}:
            raise ValueError(f"paramwise_cfg must be dict(backbone_lr=..., text_lr=...), got {self.paramwise_cfg}")

    def add_params(self, params: list[dict[str, Any]], module: nn.Module, **_: Any) -> None:
        """Fill `params` with the groups of `module` that have parameters."""
        groups: dict[str, list[nn.Parameter]] = {"base": [], "backbone": [], "text": []}
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                role = "backbone" if name.startswith("backbone.") else "text" if name.startswith("text_encoder.") else "base"
                groups[role].append(parameter)
        rates = {"base": self.base_lr, "backbone": self.paramwise_cfg["backbone_lr"], "text": self.paramwise_cfg["text_lr"]}
        params += [{"params": group, "lr": rates[role], "role": role} for role, group in groups.items() if group]


@PARAM_SCHEDULERS.register_module()
class MdetrSchedule(_ParamScheduler):
    """Learning rates after each of `total` steps: a tenth from step `drop` on for all but the text encoder, which warms up and then falls to 0.

    The text encoder rises linearly over the share `warmup` of the steps and falls linearly after it. `published_first_step`: the release sets rates
    *after* a step, so that its first step has the full text rate and each later one the rate of the step before; our default starts at 0.
    `by_epoch` must be False: rates are set at every step.
    """

    def __init__(self, optimizer: Any, *, total: int, drop: int, warmup: float = 0.01, published_first_step: bool = False, begin: int = 0,
                 end: int = 2**31, last_step: int = -1, by_epoch: bool = False, verbose: bool = False) -> None:
        if by_epoch or total < 1 or not 0 <= warmup < 1:
            raise ValueError(f"by_epoch must be False, total at least 1 and warmup in 0..1, got {by_epoch}, {total} and {warmup}")
        self.total, self.drop, self.warmup, self.published_first_step = total, drop, round(warmup * total), published_first_step
        super().__init__(optimizer, "lr", begin=begin, end=end, last_step=last_step, by_epoch=False, verbose=verbose)

    @classmethod
    def build_iter_from_epoch(
        cls, *args: Any, total: int, drop: int, epoch_length: int, by_epoch: bool = True, begin: int = 0, end: int | None = None, **kwargs: Any
    ) -> "MdetrSchedule":
        """Return the schedule with `total`, `drop`, `begin` and `end` in epochs of `epoch_length` steps (`convert_to_iter_based` in a config)."""
        if end is not None:
            kwargs["end"] = end * epoch_length
        return cls(*args, total=total * epoch_length, drop=drop * epoch_length, begin=begin * epoch_length, by_epoch=False, **kwargs)

    def factors(self, step: int) -> tuple[float, float]:
        """Return what base and text rates are multiplied by at a step (from 0)."""
        if self.published_first_step:
            if step == 0:
                return 1.0, 1.0
            step -= 1
        base = 0.1 ** (step // self.drop)
        if step < self.warmup:
            return base, step / max(1, self.warmup)
        return base, max(0.0, (self.total - step) / max(1, self.total - self.warmup))

    def _get_value(self) -> list[float]:
        base, text = self.factors(self.last_step)
        return [start * (text if group.get("role") == "text" else base) for start, group in zip(self.base_values, self.optimizer.param_groups)]
