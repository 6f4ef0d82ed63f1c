"""Learning rates and decay of each parameter as DesCo-GLIP was trained."""
from typing import Any

from mmengine.optim import DefaultOptimWrapperConstructor
from torch import nn

from ovdense.registry import OPTIM_WRAPPER_CONSTRUCTORS


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class PublishedRates(DefaultOptimWrapperConstructor):
    """One group a parameter: the text encoder at `text_lr`, the rest at the base rate; names that contain "bias" at twice
    their rate and without decay (this takes in `bias_lang`, `bias0` and Swin's relative position tables, as in the release).

    `paramwise_cfg` must be dict(text_lr=...). Frozen parameters are left out.
    """

    def _validate_cfg(self) -> None:
        if set(self.paramwise_cfg) != {"text_lr"}:
            raise ValueError(f"paramwise_cfg must be dict(text_lr=...), got {self.paramwise_cfg}")

    def add_params(self, params: list[dict[str, Any]], module: nn.Module, **_: Any) -> None:
        """Fill `params` with a group for each trained parameter of `module`."""
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad:
                continue
            lr = self.paramwise_cfg["text_lr"] if name.startswith("text_encoder.") else self.base_lr
            bias = "bias" in name
            params.append({"params": [parameter], "lr": 2 * lr if bias else lr, "weight_decay": 0.0 if bias else self.base_wd})
