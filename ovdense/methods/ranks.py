"""Numbers that all processes of a distributed run must agree on."""
from torch import Tensor, distributed


def mean_over_ranks(value: Tensor) -> float:
    """Return the mean of a scalar over all ranks: losses are divided by the same number everywhere."""
    if distributed.is_available() and distributed.is_initialized():
        value = value.clone()
        distributed.all_reduce(value)
        value = value / distributed.get_world_size()
    return float(value)
