"""Training goes on past images that cannot be read: another one of the data set stands in, the same one in every run.

Which one is a function of the index alone, so that it is the same in all workers and after a resume. What was left out travels with the batch, under
"broken", to the hook that counts it (`methods.hooks.BrokenImageHook`).
"""
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from ovdense.compat.images import BrokenImage
from ovdense.data.passes import DrawnDataset

MOST_IN_A_ROW = 100
_SALT = 0x0B0C  # a stream of random numbers apart from the augmentations'


class SkipBroken(DrawnDataset):
    """`dataset`, with a stand-in for each sample whose image or label file is broken or gone (BrokenImage, FileNotFoundError).

    An index means `index + len(dataset) * draw`, as for the datasets; the stand-in has the same `draw`. A sample (a dict) says under "broken"
    what it stands in for: [(path and reason)]. BrokenImage when MOST_IN_A_ROW images in a row cannot be read: then it is the folder that is wrong.
    All else that is asked of it, the dataset answers.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __getattr__(self, name: str) -> Any:
        if name == "dataset" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __deepcopy__(self, memo: dict) -> "SkipBroken":
        return self  # MMEngine copies a loader's settings; the data are no setting

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict:
        broken: list[str] = []
        for n in range(MOST_IN_A_ROW):
            try:
                sample = self.dataset[int(index) if n == 0 else stand_in(int(index), n, len(self))]
            except (BrokenImage, FileNotFoundError) as error:
                broken.append(str(error))
                continue
            if broken:
                sample["broken"] = broken
            return sample
        raise BrokenImage(f"{MOST_IN_A_ROW} images in a row cannot be read; is it the right folder? The last one: {broken[-1]}")


def stand_in(index: int, attempt: int, length: int) -> int:
    """Return the index whose image stands in for `index` at the given attempt (from 1): any image, the same `draw`."""
    return index // length * length + int(np.random.default_rng([_SALT, index, attempt]).integers(length))


class CollateBroken:
    """`collate`, with what the samples say under "broken" beside the batch, which must be a dict."""

    def __init__(self, collate: Callable[[Sequence[dict]], dict]) -> None:
        self.collate = collate

    def __call__(self, samples: Sequence[dict]) -> dict:
        broken = [line for sample in samples for line in sample.pop("broken", ())]
        batch = self.collate(samples)
        return {**batch, "broken": broken} if broken else batch
