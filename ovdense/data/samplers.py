"""Endless samplers whose order is a pure function of (seed, pass, rank, world size), so that a resumed run goes on where it stopped.

What they yield is `index + len(dataset) * draw`: `draw` counts how often the image has been drawn, the dataset takes it
apart again (`divmod`) and seeds its augmentation with it. So a sample's bits depend on nothing that lives in a worker.
"""
import math
from collections.abc import Iterator, Sized
from typing import Protocol

import numpy as np
from mmengine.dist import get_dist_info, sync_random_seed
from torch.utils.data import Sampler

from ovdense.registry import DATA_SAMPLERS


class _HasCategories(Sized, Protocol):
    def get_cat_ids(self, index: int) -> list[int]: ...


class _EndlessSampler(Sampler[int]):
    """Passes over a dataset laid end to end; rank r of W takes places r, r + W, r + 2W, ... of that stream."""

    def __init__(self, dataset: Sized, shuffle: bool, seed: int | None, start: int, rank: int | None, world_size: int | None) -> None:
        if len(dataset) == 0:
            raise ValueError("a sampler needs a dataset with at least one image, got an empty one")
        own_rank, own_world_size = get_dist_info()
        self.rank = own_rank if rank is None else rank
        self.world_size = own_world_size if world_size is None else world_size
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"rank must lie in 0..{self.world_size - 1}, got {self.rank}")
        self.num_images = len(dataset)
        self.shuffle = shuffle
        self.seed = sync_random_seed() if seed is None else seed
        self._moved = 0
        self.set_position(start)

    def set_position(self, num_samples: int) -> None:
        """Let the next `iter()` begin after the first `num_samples` samples of this rank, counted from the start of training."""
        if num_samples < 0:
            raise ValueError(f"the number of samples drawn must be at least 0, got {num_samples}")
        self._position = num_samples

    def skip(self, num_samples: int) -> None:
        """Begin after `num_samples` and what `move` adds; by this name MMEngine's loop asks on resume, for iterations done x batch size."""
        self.set_position(num_samples + self._moved)

    def move(self, num_samples: int) -> None:
        """Let `skip` begin so many samples later, or earlier where it is negative: those that steps of another size took more, or less."""
        self._moved = num_samples

    def set_epoch(self, epoch: int) -> None:
        """Do nothing: passes are counted by the sampler itself."""

    def __len__(self) -> int:
        """Return the samples of one pass on this rank, rounded up; the stream itself does not end."""
        return math.ceil(self.pass_length(0) / self.world_size)

    def __iter__(self) -> Iterator[int]:
        offset, number = self._position * self.world_size + self.rank, 0
        while offset >= (length := self.pass_length(number)):
            offset, number = offset - length, number + 1
        order = self.pass_order(number)
        while True:
            while offset >= len(order):
                offset, number = offset - len(order), number + 1
                order = self.pass_order(number)
            yield int(order[offset])
            offset += self.world_size

    def _generator(self, number: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, number])

    def pass_length(self, number: int) -> int:
        """Return how many samples pass `number` has, over all ranks."""
        raise NotImplementedError

    def pass_order(self, number: int) -> np.ndarray:
        """Return what pass `number` yields, over all ranks: int64, `index + num_images * draw`."""
        raise NotImplementedError


@DATA_SAMPLERS.register_module()
class ResumableInfiniteSampler(_EndlessSampler):
    """Every image once a pass, in a new order each pass (or the file's order), without end.

    `start`: samples that this rank has drawn before. `rank` and `world_size`: None asks the running process group.
    """

    def __init__(
        self, dataset: Sized, shuffle: bool = True, seed: int | None = None, start: int = 0, rank: int | None = None, world_size: int | None = None
    ) -> None:
        super().__init__(dataset, shuffle, seed, start, rank, world_size)

    def pass_length(self, number: int) -> int:
        return self.num_images

    def pass_order(self, number: int) -> np.ndarray:
        order = self._generator(number).permutation(self.num_images) if self.shuffle else np.arange(self.num_images)
        return order + self.num_images * number


@DATA_SAMPLERS.register_module()
class ClassAwareSampler(_EndlessSampler):
    """Repeat-factor sampling (LVIS, arXiv 1908.03195, section on class imbalance): images with rare classes come more often.

    f(c) = share of images with class c; r(c) = max(1, sqrt(repeat_thr / f(c))); an image's factor is the largest of its
    classes'. Its fraction is rounded at random anew in each pass. The other arguments are ResumableInfiniteSampler's.
    """

    def __init__(
        self,
        dataset: _HasCategories,
        repeat_thr: float = 0.001,
        shuffle: bool = True,
        seed: int | None = None,
        start: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        if not 0 < repeat_thr <= 1:
            raise ValueError(f"repeat_thr must be a share of images in (0, 1], got {repeat_thr}")
        self.factors = repeat_factors([dataset.get_cat_ids(i) for i in range(len(dataset))], repeat_thr)
        super().__init__(dataset, shuffle, seed, start, rank, world_size)

    def _repeats(self, generator: np.random.Generator) -> np.ndarray:
        whole = np.floor(self.factors)
        return (whole + (generator.random(self.num_images) < self.factors - whole)).astype(np.int64)

    def pass_length(self, number: int) -> int:
        return int(self._repeats(self._generator(number)).sum())

    def pass_order(self, number: int) -> np.ndarray:
        generator = self._generator(number)
        repeats = self._repeats(generator)
        index = np.repeat(np.arange(self.num_images), repeats)
        turn = np.arange(len(index)) - np.repeat(np.cumsum(repeats) - repeats, repeats)
        most = math.ceil(self.factors.max())
        order = index + self.num_images * (number * most + turn)
        return generator.permutation(order) if self.shuffle else order


def repeat_factors(classes_of_image: list[list[int]], repeat_thr: float) -> np.ndarray:
    """Return (I,) float64, at least 1: how often each image should come in a pass, from the classes that it holds."""
    num_images = len(classes_of_image)
    count: dict[int, int] = {}
    for classes in classes_of_image:
        for c in set(classes):
            count[c] = count.get(c, 0) + 1
    factor = {c: max(1.0, math.sqrt(repeat_thr * num_images / n)) for c, n in count.items()}
    return np.array([max((factor[c] for c in classes), default=1.0) for classes in classes_of_image], dtype=np.float64)
