"""Numbers and small facts that all processes of a distributed run must agree on; nothing is pickled."""
import json
from typing import Any

import torch
from mmengine import dist
from torch import Tensor, distributed


def per_rank(value: Tensor, least: float = 1.0) -> float:
    """Return the mean of a scalar over all ranks, their sum being at least `least`: losses are divided by the same number everywhere.

    With it the mean of the ranks' losses is the loss of one process that has all of their images.
    """
    if distributed.is_available() and distributed.is_initialized():
        value = value.detach().double()
        distributed.all_reduce(value)
        return max(float(value), least) / distributed.get_world_size()
    return max(float(value), least)


def gather_json(content: Any) -> list[Any]:
    """Return what every rank holds, in the order of the ranks, on all of them; `content` is anything that JSON can hold."""
    if dist.get_world_size() == 1:
        return [content]
    own = torch.tensor(list(json.dumps(content).encode()), dtype=torch.uint8)
    lengths = [int(n) for n in dist.all_gather(torch.tensor([len(own)]))]
    parts = dist.all_gather(torch.nn.functional.pad(own, (0, max(lengths) - len(own))))
    return [json.loads(bytes(part[:length].tolist())) for part, length in zip(parts, lengths)]


def on_all_ranks(fact: bool) -> bool:
    """Return whether a fact holds on every rank; all of them get the same answer."""
    return all(gather_json(fact))


def own_first(number: int) -> list[int]:
    """Return 0..number-1, this rank's share (every world-th) before the others': ranks that keep what they make in one cache share the work."""
    rank, world = dist.get_rank(), dist.get_world_size()
    return sorted(range(number), key=lambda n: ((n - rank) % world, n))
