"""Support sets out of a labelled dataset: objects with their true masks, an upper bound for drawn or retrieved ones, or few-shot examples."""
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ovdense.compat.images import write_picture
from ovdense.data.object_crops import square_around
from ovdense.data.transforms import read_image
from ovdense.registry import DATASETS
from ovdense.structures import ClassEntry
from ovdense.support.store import SupportSet, SupportStore, file_digest


class DatasetExemplars:
    """The first `num_images` objects of a class in a detection dataset with masks (`with_masks=True`), each in a square window with its mask.

    `margin`: side of the window by the box's longer side, `min_side` pixels at least.
    """

    def __init__(self, dataset: Mapping[str, Any], *, num_images: int = 16, margin: float = 1.5, min_side: int = 48,
                 store: SupportStore | str | Path | None = None) -> None:  # fmt: skip
        if num_images < 1:
            raise ValueError(f"num_images must be at least 1, got {num_images}")
        self.dataset = DATASETS.build(dict(dataset)) if isinstance(dataset, Mapping) else dataset
        self.num_images, self.margin, self.min_side = num_images, margin, min_side
        self._digest = ""
        self.store = store if isinstance(store, SupportStore) else SupportStore(store)

    def support_set(self, entry: ClassEntry) -> SupportSet:
        """Return the class's examples; ValueError where the dataset has none."""
        self._digest = self._digest or file_digest(Path(self.dataset.ann_file))
        made_with = {"kind": "dataset", "dataset": self.dataset.dataset_name, "annotations": self._digest,
                     "images": str(self.dataset.image_folder), "num_images": self.num_images, "margin": self.margin, "min_side": self.min_side}  # fmt: skip
        with self.store.alone(entry.name, made_with):
            return self.store.find(entry.name, made_with) or self._made(entry, made_with)

    def _made(self, entry: ClassEntry, made_with: Mapping[str, Any]) -> SupportSet:
        label = self.dataset.vocabulary.index(entry.name)
        writer = self.store.begin(entry.name, made_with)
        writer.clear()
        for i in range(len(self.dataset)):
            if len(writer) >= self.num_images:
                break
            if label in self.dataset.get_cat_ids(i):
                self._take(writer, i, label)
        if not len(writer):
            raise ValueError(f"{self.dataset.dataset_name} must hold at least one object of class {entry.name!r}, it holds none")
        return writer.finish()

    def _take(self, writer: Any, i: int, label: int) -> None:
        found, masks = self.dataset.annotations(i), self.dataset.masks(i)
        image = read_image(self.dataset.image_info(i)["path"])
        for n in np.flatnonzero((found["labels"] == label) & ~found["crowd"]):
            if len(writer) < self.num_images:
                left, top, side = square_around(found["boxes_xyxy"][n], self.margin, self.min_side, image.shape[:2])
                window = np.s_[top : top + side, left : left + side]
                file = f"{len(writer):05d}.mask.png"
                write_picture(writer.folder / file, np.asarray(masks[n][window]).astype(np.uint8) * 255)
                writer.add(np.ascontiguousarray(image[window]), foreground=file)
