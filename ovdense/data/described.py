"""Data sets of described objects, for testing: OmniLabel and D3. The classes are the descriptions; an image is asked for some.

The vocabulary holds every description once, so that the text is encoded once; `asked_labels` says which of them are an
image's own. Metrics leave out what was not asked (their docstrings say when that equals not asking).
"""
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from ovdense.compat.d3 import asked_ids, read_d3, read_d3_info
from ovdense.compat.images import upright_size
from ovdense.compat.omnilabel import read_omnilabel
from ovdense.data.annotations import AnnotationTable, InvalidBoxes, check_boxes
from ovdense.data.detection import DetectionDataset, Prompt
from ovdense.data.roots import data_path
from ovdense.registry import DATASETS
from ovdense.structures import ClassEntry, Vocabulary


def described_table(
    path: Path, images: Sequence[dict], sizes_hw: Sequence[tuple[int, int]], names: dict[int, str], boxes: Sequence[tuple[int, int, dict]],
    asked: Sequence[Sequence[int]], invalid_boxes: InvalidBoxes,
) -> AnnotationTable:  # fmt: skip
    """Return the table with the categories `names`; `boxes` (image row, category id, annotation), `asked[i]` the category ids of image i.

    `negative_ids` are what an image is asked for and does not have: every description that is asked is fully annotated.
    """
    rows = np.array([i for i, _, _ in boxes], dtype=np.int64)
    xywh = np.array([a["bbox"] for _, _, a in boxes], dtype=np.float64).reshape(-1, 4)
    xyxy = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
    good = check_boxes(xyxy, [f"annotation {a['id']}" for _, _, a in boxes], path, invalid_boxes)
    order = np.argsort(rows, kind="stable")
    order = order[good[order]]
    ids = np.array([k for _, k, _ in boxes], dtype=np.int64)[order]
    starts = np.searchsorted(rows[order], np.arange(len(images) + 1))
    negative = tuple(np.setdiff1d(np.array(ks, dtype=np.int64), ids[starts[i] : starts[i + 1]]) for i, ks in enumerate(asked))
    return AnnotationTable(
        path=path,
        categories={k: ClassEntry(name=n) for k, n in names.items()},
        image_ids=np.array([i["id"] for i in images], dtype=np.int64),
        file_names=tuple(i["file_name"] for i in images),
        sizes_hw=np.array(sizes_hw, dtype=np.int64).reshape(-1, 2),
        starts=starts,
        boxes_xyxy=xyxy[order].astype(np.float32),
        category_ids=ids,
        crowd=np.array([bool(a.get("iscrowd", 0)) for _, _, a in boxes], dtype=bool)[order],
        difficult=np.zeros(len(order), dtype=bool),
        negative_ids=negative,
        not_exhaustive_ids=tuple(np.zeros(0, dtype=np.int64) for _ in images),
    )


class DescribedDetection(DetectionDataset):
    """A DetectionDataset for testing whose classes are all descriptions of the file; `asked_labels` has those of an image."""

    _asked: tuple[np.ndarray, ...]

    def asked_labels(self, index: int) -> np.ndarray:
        """Return the sorted class indices of the descriptions that an image is asked for."""
        return self._asked[self._served[index]]

    def asked_of_image(self, image_id: int) -> np.ndarray:
        """Return `asked_labels` of the image with this id; KeyError for an unknown one."""
        if not hasattr(self, "_row_of"):
            self._row_of = {int(i): n for n, i in enumerate(self._image_ids)}
        if image_id not in self._row_of:
            raise KeyError(f"image {image_id} is not among the {len(self._row_of)} images of {self.ann_file}")
        return self._asked[self._row_of[image_id]]

    def _read(self, asked: Vocabulary | None, invalid_boxes: InvalidBoxes) -> AnnotationTable:
        names, images, sizes, boxes, ids = self._described()
        first: dict[str, int] = {}
        for i, name in names.items():
            first.setdefault(name, i)
        label_of, row_of = {n: k for k, n in enumerate(first)}, {image["id"]: n for n, image in enumerate(images)}
        self._asked = tuple(np.array(sorted({label_of[names[d]] for d in ids[image["id"]]}), dtype=np.int64) for image in images)
        # two descriptions of the same words are one class: a box of both is one target
        once = {(row_of[i], first[names[d]], a["id"]): a for i, d, a in boxes}
        rows = [(i, d, a) for (i, d, _), a in once.items()]
        asked_ids_of = [[first[names[d]] for d in ids[image["id"]]] for image in images]
        return described_table(self.ann_file, images, sizes, {i: n for n, i in first.items()}, rows, asked_ids_of, invalid_boxes)

    def _described(self) -> tuple[dict[int, str], Sequence[dict], list[tuple[int, int]], list[tuple[int, int, dict]], dict[int, tuple[int, ...]]]:
        """Return class names by description id, images, their sizes (h, w), (image id, description id, annotation) of boxes, asked ids by image id."""
        raise NotImplementedError


@DATASETS.register_module()
class OmniLabelDetection(DescribedDetection):
    """OmniLabel (arXiv 2304.11463) from its annotation file, see `compat.omnilabel`; a test split without boxes can be read too.

    `image_prefix` is the folder that the file names are relative to. The file gives no sizes: where an image has no height
    and width in it they are read from the image file.
    """

    dataset_name = "OmniLabel"

    def __init__(
        self,
        *,
        ann_file: str,
        image_prefix: str | None = None,
        data_root: str | None = None,
        prompt: Prompt = "names",
        transforms: Sequence[dict | Callable[[dict], dict]] = (),
        seed: int = 0,
        invalid_boxes: InvalidBoxes = "raise",
    ) -> None:
        self._folder = data_path(image_prefix or "", data_root)
        super().__init__(
            ann_file=ann_file, image_prefix=image_prefix, data_root=data_root, prompt=prompt, transforms=transforms, test_mode=True, seed=seed,
            invalid_boxes=invalid_boxes,
        )  # fmt: skip

    def _described(self):
        file = read_omnilabel(self.ann_file)
        if not file.descriptions:
            raise ValueError(f"{file.path}: must have at least one description, got none")
        names = {i: d.name for i, d in file.descriptions.items()}
        boxes = [(a["image_id"], d, a) for a in file.annotations or () for d in a["description_ids"]]
        sizes = [(i["height"], i["width"]) if "height" in i and "width" in i else _size_of(self._folder / i["file_name"], file.path) for i in file.images]
        return names, file.images, sizes, boxes, file.asked


@DATASETS.register_module()
class D3Detection(DescribedDetection):
    """D3 (arXiv 2307.12813): `ann_file` is d3_full_annotations.json, `info` the folder of the d3_pkl files, see `compat.d3`.

    `scenario`: "intra" asks an image for the descriptions of its own group only, "inter" for all. It must be the metric's.
    """

    dataset_name = "D3"

    def __init__(
        self,
        *,
        ann_file: str,
        image_prefix: str | None = None,
        data_root: str | None = None,
        info: str = "d3_pkl",
        scenario: Literal["intra", "inter"] = "intra",
        prompt: Prompt = "names",
        transforms: Sequence[dict | Callable[[dict], dict]] = (),
        seed: int = 0,
    ) -> None:
        self._info, self._scenario = data_path(info, data_root), scenario
        super().__init__(
            ann_file=ann_file, image_prefix=image_prefix, data_root=data_root, prompt=prompt, transforms=transforms, test_mode=True, seed=seed
        )
        self.metainfo |= {"scenario": scenario}

    def _described(self):
        file = read_d3(self.ann_file)
        if not file.texts:
            raise ValueError(f"{file.path}: must have at least one category, got none")
        asked = asked_ids(file, read_d3_info(self._info), self._scenario, self._info)
        own = {i: frozenset(ids) for i, ids in asked.items()}
        boxes = [(a["image_id"], a["category_id"], a) for a in file.annotations if a["category_id"] in own[a["image_id"]]]
        return file.names, file.images, [(i["height"], i["width"]) for i in file.images], boxes, asked


def _size_of(path: Path, ann_file: Path) -> tuple[int, int]:
    """Return (height, width) of an image file, upright."""
    try:
        return upright_size(path)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{ann_file} lists the image {path}, which is missing; image_prefix must be the folder that file names are relative to"
        ) from None
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{path}: must be an image file, could not be read: {error}") from None
