"""Detection datasets: LVIS v1, COCO, Pascal VOC and the embedded shapes, each with a Vocabulary.

A sample is dict(image, target), or what `transforms` makes. An index means `index + len(dataset) * draw`: `draw` (the
samplers' count of passes) seeds the augmentation together with `seed` and the index, so the same index gives the same
bits in every worker and after a resume.
"""
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from ovdense.data.annotations import AnnotationTable, InvalidBoxes, near, read_coco, read_voc
from ovdense.data.masks import decode_masks
from ovdense.data.passes import DrawnDataset
from ovdense.data.roots import below_data_root, data_path, how_to_get, require_file, where_looked
from ovdense.registry import DATASETS, TRANSFORMS
from ovdense.structures import Vocabulary
from ovdense.text.vocabulary import load_vocabulary, with_descriptions

Prompt = Literal["names", "descriptions", "texts"]
VocabularyLike = Vocabulary | str | Path | Sequence[str] | None


class DetectionDataset(DrawnDataset):
    """Images with boxes of the classes of a vocabulary.

    `ann_file` and `image_prefix` (the folder that the file names in it are relative to) are relative to the data root:
    `data_root`, else OVDENSE_DATA, else ./data. `vocabulary`: the classes asked for, in order, each a category of the
    file: a Vocabulary, names, what `load_vocabulary` reads, or None for all of the file's categories in the order of their
    ids. `description_file` (what `with_descriptions` reads, below the data root or anywhere) replaces descriptions, for
    training and test time. `prompt`: whether test time asks by names, by descriptions or, where
    names are whole texts, by those. Training (`test_mode=False`)
    leaves out difficult boxes and, with `filter_empty`, images without a box; crowds are never targets. `invalid_boxes`:
    "raise", or "drop" boxes without a size. `with_masks`: samples have the boxes' instance masks too (COCO, LVIS).
    """

    dataset_name = ""

    def __init__(
        self,
        *,
        ann_file: str,
        image_prefix: str | None = None,
        data_root: str | None = None,
        vocabulary: VocabularyLike = None,
        description_file: str | None = None,
        prompt: Prompt = "names",
        transforms: Sequence[dict | Callable[[dict], dict]] = (),
        test_mode: bool = False,
        filter_empty: bool = True,
        seed: int = 0,
        invalid_boxes: InvalidBoxes = "raise",
        with_masks: bool = False,
    ) -> None:
        self.with_masks = with_masks
        if prompt not in get_args(Prompt):
            raise ValueError(f"prompt must be one of {', '.join(get_args(Prompt))}, got {prompt!r}")
        self.prompt, self.test_mode, self.seed = prompt, test_mode, seed
        self.ann_file = require_file(ann_file, data_root, self.dataset_name).absolute()
        asked = as_vocabulary(vocabulary, data_root)
        table = self._read(asked, invalid_boxes)
        self.image_folder = self._image_folder(image_prefix, data_root)
        require_images(self.image_folder, table.file_names, table.path, f"{where_looked(image_prefix or '', data_root)}{how_to_get(self.dataset_name)}")
        self.vocabulary = asked or _all_categories(table)
        self.category_ids = _match_categories(self.vocabulary, table)
        if description_file is not None:
            self.vocabulary = with_descriptions(self.vocabulary, below_data_root(description_file, data_root))
        self._take(table, filter_empty and not test_mode)
        self.metainfo = {
            "classes": self.vocabulary.names,
            "dataset": self.dataset_name,
            "ann_file": str(self.ann_file),
            "category_ids": self.category_ids,
            "frequencies": tuple(e.frequency or table.categories[c].frequency for e, c in zip(self.vocabulary, self.category_ids)),
            "prompt": prompt,
        }
        self.transforms = [TRANSFORMS.build(t) if isinstance(t, dict) else t for t in transforms]
        for step in self.transforms:
            if hasattr(step, "bind"):
                step.bind(self.vocabulary)

    def _read(self, asked: Vocabulary | None, invalid_boxes: InvalidBoxes) -> AnnotationTable:
        return read_coco(self.ann_file, invalid_boxes=invalid_boxes, with_masks=self.with_masks)

    def _image_folder(self, image_prefix: str | None, data_root: str | None) -> Path:
        return data_path(image_prefix or "", data_root)

    def _take(self, table: AnnotationTable, filter_empty: bool) -> None:
        """Keep the boxes of the vocabulary's classes, in flat arrays sorted by image, and the images to serve."""
        file_ids = np.array(sorted(table.categories), dtype=np.int64)
        class_at = np.full(len(file_ids), -1, dtype=np.int64)
        class_at[np.searchsorted(file_ids, self.category_ids)] = np.arange(len(self.category_ids))

        def class_of(ids: np.ndarray) -> np.ndarray:
            return class_at[np.searchsorted(file_ids, ids)]

        labels = class_of(table.category_ids)
        asked = labels >= 0
        self._labels, self._boxes = labels[asked], table.boxes_xyxy[asked]
        self._crowd, self._difficult = table.crowd[asked], table.difficult[asked]
        self._segmentations = table.segmentations[asked] if self.with_masks else None
        self._starts = np.concatenate([[0], np.cumsum(asked)])[table.starts]
        self._target = ~self._crowd if self.test_mode else ~self._crowd & ~self._difficult
        self._image_ids, self._file_names, self._sizes_hw = table.image_ids, table.file_names, table.sizes_hw
        self._negative = tuple(_known(class_of(ids)) for ids in table.negative_ids)
        self._not_exhaustive = tuple(_known(class_of(ids)) for ids in table.not_exhaustive_ids)
        num_targets = np.diff(np.concatenate([[0], np.cumsum(self._target)])[self._starts])
        self._served = np.flatnonzero(num_targets > 0) if filter_empty else np.arange(len(table.image_ids))
        if len(self._served) == 0:
            raise ValueError(
                f"{self.ann_file}: must hold at least one image{' with a box of the vocabulary' if filter_empty else ''}, got {len(table.image_ids)} images "
                f"and {int(self._target.sum())} boxes of the {len(self.vocabulary)} classes; check the vocabulary and the file"
            )

    def __len__(self) -> int:
        return len(self._served)

    def image_info(self, index: int) -> dict:
        """Return image_id, file_name, path, size_hw of an image, and LVIS's negative_labels and not_exhaustive_labels (class indices)."""
        i = self._served[index]
        return {
            "image_id": int(self._image_ids[i]),
            "file_name": self._file_names[i],
            "path": str(self.image_folder / self._file_names[i]),
            "size_hw": tuple(int(v) for v in self._sizes_hw[i]),
            "negative_labels": self._negative[i],
            "not_exhaustive_labels": self._not_exhaustive[i],
        }

    def annotations(self, index: int) -> dict[str, np.ndarray]:
        """Return all boxes of an image in pixels of its file: boxes_xyxy (N, 4), labels (N,), and the flags crowd, difficult (N,) bool."""
        rows = self._rows(index)
        return {"boxes_xyxy": self._boxes[rows], "labels": self._labels[rows], "crowd": self._crowd[rows], "difficult": self._difficult[rows]}

    def masks(self, index: int) -> np.ndarray:
        """Return (N, H, W) bool, the masks of all boxes of an image, in the order of `annotations`."""
        if self._segmentations is None:
            raise ValueError("masks must be asked for: build the dataset with with_masks=True")
        return decode_masks(self._segmentations[self._rows(index)], self.image_info(index)["size_hw"])

    def _rows(self, index: int) -> slice:
        i = self._served[index]
        return slice(int(self._starts[i]), int(self._starts[i + 1]))

    def get_cat_ids(self, index: int) -> list[int]:
        """Return the class indices of an image's target boxes, each once."""
        rows = self._rows(index)
        return np.unique(self._labels[rows][self._target[rows]]).tolist()

    def __getitem__(self, index: int) -> dict:
        draw, i = self.draw_and_index(index)
        info, rows = self.image_info(i), self._rows(i)
        is_target = self._target[rows]
        labels = self._labels[rows]
        sample = {
            **info,
            "original_size_hw": info["size_hw"],
            "boxes_xyxy": self._boxes[rows][is_target].copy(),
            "labels": labels[is_target].copy(),
            "present": frozenset(labels.tolist()) | frozenset(info["not_exhaustive_labels"].tolist()),
            "absent": frozenset(info["negative_labels"].tolist()),
            "rng": np.random.default_rng([self.seed, draw, i]),
        }
        if self.with_masks:
            sample["masks"] = self.masks(i)[is_target]
        for step in self.transforms:
            sample = step(sample)
        return sample


def _known(classes: np.ndarray) -> np.ndarray:
    return np.sort(classes[classes >= 0])


def as_vocabulary(given: VocabularyLike, data_root: str | None) -> Vocabulary | None:
    if given is None or isinstance(given, Vocabulary):
        return given
    if isinstance(given, (str, Path)):
        return load_vocabulary(below_data_root(given, data_root))
    return Vocabulary.of(list(given))


def _all_categories(table: AnnotationTable) -> Vocabulary:
    try:
        return Vocabulary(tuple(table.categories.values()))
    except ValueError as error:
        raise ValueError(f"{table.path}: {error}") from None


def _match_categories(vocabulary: Vocabulary, table: AnnotationTable) -> tuple[int, ...]:
    """Return the file's category id of each class; ValueError lists the classes that the file does not have, with near names."""
    id_of = {entry.name: i for i, entry in table.categories.items()}
    unknown = [name for name in vocabulary.names if name not in id_of]
    if unknown:
        listed = "; ".join(f"{name!r}{near(name, list(id_of))}" for name in unknown[:5])
        raise ValueError(
            f"{table.path}: every class of the vocabulary must be one of the file's {len(id_of)} categories, but {len(unknown)} of {len(vocabulary)} "
            f"are not: {listed}{'; ...' if len(unknown) > 5 else ''}; write the names as the file does"
        )
    return tuple(id_of[name] for name in vocabulary.names)


def require_images(folder: Path, file_names: Sequence[str], ann_file: Path, advice: str) -> None:
    """Raise FileNotFoundError, with `advice`, where an image is not in `folder`."""
    missing = [n for n in file_names if not os.path.isfile(os.path.join(folder, n))]
    if missing:
        listed = ", ".join(str(folder / n) for n in missing[:3])
        raise FileNotFoundError(
            f"{ann_file} lists {len(file_names)} images, {len(missing)} of them are missing: {listed}{', ...' if len(missing) > 3 else ''}. "
            f"image_prefix must be the folder that the file's names are relative to. {advice}"
        )


@DATASETS.register_module()
class LvisDetection(DetectionDataset):
    """LVIS v1. An image's path is its file_name, or else the last two parts of its coco_url (train2017/000000000009.jpg), under `image_prefix`."""

    dataset_name = "LVIS v1"


@DATASETS.register_module()
class CocoDetection(DetectionDataset):
    """COCO 2017, and any file in COCO's form."""

    dataset_name = "COCO 2017"


@DATASETS.register_module()
class VocDetection(DetectionDataset):
    """Pascal VOC: `ann_file` is .../ImageSets/Main/NAME.txt; photos in .../JPEGImages unless `image_prefix` says else.

    Without a vocabulary the classes are VOC's 20. Difficult boxes are targets at test time only, and flagged in `annotations`.
    """

    dataset_name = "Pascal VOC"

    def _read(self, asked: Vocabulary | None, invalid_boxes: InvalidBoxes) -> AnnotationTable:
        if self.with_masks:
            raise ValueError("Pascal VOC's XML has no instance masks; leave with_masks out")
        if len(self.ann_file.parts) < 3:
            raise ValueError(f"ann_file must be .../ImageSets/Main/NAME.txt, got {self.ann_file}")
        voc = load_vocabulary("voc").names
        if asked is not None and set(asked.names).isdisjoint(voc):
            return read_voc(self.ann_file, asked.names, invalid_boxes=invalid_boxes)
        table = read_voc(self.ann_file, tuple(dict.fromkeys((*voc, *(asked.names if asked else ())))), invalid_boxes=invalid_boxes)
        if (table.category_ids > len(voc)).any():  # another data set, with persons and helmets
            return table
        return replace(table, categories={k: e for k, e in table.categories.items() if k <= len(voc)})  # VOC, where a strange name is a slip

    def _image_folder(self, image_prefix: str | None, data_root: str | None) -> Path:
        return data_path(image_prefix, data_root) if image_prefix else self.ann_file.parents[2] / "JPEGImages"


@DATASETS.register_module()
class ShapesDetection(DetectionDataset):
    """The embedded data set, drawn on first use.

    `split`: "train" or "val"; `shapes_seed` is the seed of the drawings, `root` the folder to keep them in (None: below
    the cache root). `data_root` is only where `vocabulary` and `description_file` are looked for.
    """

    dataset_name = "embedded shapes"

    def __init__(
        self,
        *,
        split: Literal["train", "val"] = "train",
        shapes_seed: int = 0,
        root: str | None = None,
        data_root: str | None = None,
        vocabulary: VocabularyLike = None,
        description_file: str | None = None,
        prompt: Prompt = "descriptions",
        transforms: Sequence[dict | Callable[[dict], dict]] = (),
        test_mode: bool = False,
        filter_empty: bool = True,
        seed: int = 0,
        with_masks: bool = False,
    ) -> None:
        from ovdense.data.shapes import ensure_shapes

        if split not in ("train", "val"):
            raise ValueError(f"split must be 'train' or 'val', got {split!r}")
        folder = Path(ensure_shapes(shapes_seed, None if root is None else Path(root))).absolute()
        super().__init__(
            ann_file=str(folder / "annotations" / f"shapes_{split}.json"),
            image_prefix=str(folder / "images"),
            data_root=data_root,
            vocabulary=vocabulary,
            description_file=description_file,
            prompt=prompt,
            transforms=transforms,
            test_mode=test_mode,
            filter_empty=filter_empty,
            seed=seed,
            with_masks=with_masks,
        )
