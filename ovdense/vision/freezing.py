"""Freezing the first stages of a backbone, and keeping BatchNorm's statistics while training on small batches."""
from collections.abc import Iterable

from torch import nn

BATCH_NORMS = (nn.modules.batchnorm._BatchNorm,)  # all of PyTorch's, and those over all ranks


def check_frozen_stages(frozen_stages: int, num_stages: int) -> None:
    """Raise ValueError unless -1 <= frozen_stages <= num_stages."""
    if not -1 <= frozen_stages <= num_stages:
        meaning = "-1 nothing, 0 the stem, n also the first n stages"
        raise ValueError(f"frozen_stages must be in -1..{num_stages} ({meaning}), got {frozen_stages}")


def hold(frozen: Iterable[nn.Module], whole: nn.Module, norm_eval: bool) -> None:
    """Put `frozen` modules in eval mode without gradients, and, if `norm_eval`, every BatchNorm of `whole` in eval mode.

    To be called at the end of `train()`. Autograd records nothing before the first parameter that wants a gradient,
    so that frozen stages cost what they cost in inference.
    """
    for module in frozen:
        module.eval()
        module.requires_grad_(False)
    if norm_eval:
        for module in whole.modules():
            if isinstance(module, BATCH_NORMS):
                module.eval()
