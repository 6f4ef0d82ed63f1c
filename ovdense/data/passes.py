"""What all data sets of images share: an index means `index + len(dataset) * draw`, and a loop is over the first pass."""
from collections.abc import Iterator
from typing import Any

from torch.utils.data import Dataset


class DrawnDataset(Dataset):
    """A data set whose samples are drawn anew in every pass: indices never end, a loop over it ends after one pass (draw 0)."""

    def __len__(self) -> int:
        raise NotImplementedError

    def __iter__(self) -> Iterator[Any]:
        return (self[index] for index in range(len(self)))

    def draw_and_index(self, index: int) -> tuple[int, int]:
        """Return the draw that an index means, and which sample; IndexError below 0."""
        draw, own = divmod(int(index), len(self))
        if draw < 0:
            raise IndexError(f"an index must be at least 0, got {index}")
        return draw, own
