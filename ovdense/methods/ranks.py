"""Models over several ranks: gradients averaged, norms and losses over all of them, as if one process had the whole batch."""
import warnings
from collections.abc import Sequence

from mmengine.model import MMDistributedDataParallel
from torch import Tensor, nn

from ovdense.compat.ranks import per_rank
from ovdense.layers.rank_norm import norms_over_ranks


def over_ranks(total: Tensor, count: Tensor) -> Tensor:
    """Return a rank's part of a mean over all ranks: its sum, divided by the mean count of a rank (1 over all ranks at least)."""
    return total / per_rank(count)


class RankedDataParallel(MMDistributedDataParallel):
    """MMEngine's data parallel model, on any device; `sync_norms`: BatchNorm over all ranks (`layers.rank_norm`)."""

    def __init__(self, module: nn.Module, *, device_ids: Sequence[int] | None = None, sync_norms: bool = False, broadcast_buffers: bool = False,
                 find_unused_parameters: bool = False) -> None:
        if sync_norms:
            norms_over_ranks(module)
        if all(p.device.type == "cpu" for p in module.parameters()):
            device_ids = None  # the runner names one whatever the device
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*broadcast_buffers")  # its successor cannot be asked for through MMEngine yet
            super().__init__(module=module, device_ids=device_ids, broadcast_buffers=broadcast_buffers, find_unused_parameters=find_unused_parameters)
