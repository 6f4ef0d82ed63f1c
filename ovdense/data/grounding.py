"""Grounding data: captions with boxes for their phrases (GoldG, Flickr30k Entities), in the form of MDETR's annotation files.

See `compat.grounding` for the form. For training, images may have DesCo's `gpt3_outputs` (sentence -> text), and annotations
the `nouns` of their phrases. For testing, an image is asked for the phrases of its caption.
"""
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from ovdense.compat.grounding import CaptionPhrases, annotation_place, four_numbers, grounding_entries, image_row, phrases_of_images, spans_of
from ovdense.compat.grounding_forms import read_grounding
from ovdense.compat.segmentations import encode_segmentation
from ovdense.data.annotations import InvalidBoxes, check_boxes
from ovdense.data.detection import require_images
from ovdense.data.grounding_captions import nouns_of_phrases
from ovdense.data.masks import decode_masks
from ovdense.data.passes import DrawnDataset
from ovdense.data.roots import data_path, how_to_get, require_file, where_looked
from ovdense.registry import DATASETS, TRANSFORMS
from ovdense.structures import Vocabulary


@DATASETS.register_module()
class GroundingDetection(DrawnDataset):
    """Images with a caption and boxes, each of a phrase of it; for training.

    Files are in MDETR's form (`compat.grounding`), ODVG JSON lines, or captions with phrase spans (`compat.grounding_forms`).
    `ann_file` and `image_prefix` are relative to the data root as in `DetectionDataset`. Where a file has images of several
    sources, `image_prefix` maps each image's `data_source` to its folder ("coco" and "vg" in GoldG's mixed part).
    A sample has `caption` and `positive_spans` (the spans of each box), `labels` all 0, and what there is of `gpt3_outputs`
    and `nouns` (phrase -> its nouns); the transforms go on from there. `filter_empty` leaves out images without a box; crowds are left out.
    `with_masks`: samples have the boxes' instance masks too, from the annotations' `segmentation`. `isfinal` of annotations and `answers` of images
    are handed on where they are. ValueError names the file and the entry that is broken. `invalid_boxes` "drop" leaves out boxes without area, and cuts spans
    to the caption (`compat.grounding.spans_of`); a warning says how many.
    """

    def __init__(
        self,
        *,
        ann_file: str,
        image_prefix: str | Mapping[str, str] = "",
        data_root: str | None = None,
        dataset_name: str = "grounding data",
        transforms: Sequence[dict | Callable[[dict], dict]] = (),
        filter_empty: bool = True,
        seed: int = 0,
        invalid_boxes: InvalidBoxes = "raise",
        with_masks: bool = False,
    ) -> None:
        self.seed, self.dataset_name, self.with_masks = seed, dataset_name, with_masks
        self.ann_file = require_file(ann_file, data_root, dataset_name).absolute()
        images, annotations, row_of = grounding_entries(read_grounding(self.ann_file)[0], self.ann_file)
        self._images = images
        self._paths = [_path(image, image_prefix, self.ann_file) for image in images]
        folder = data_path("", data_root)
        require_images(folder, self._paths, self.ann_file, f"{where_looked('', data_root)}{how_to_get(dataset_name)}")
        self._folder = folder
        self._take(annotations, row_of, invalid_boxes)
        self._served = self._choose(annotations, row_of, filter_empty)
        if len(self._served) == 0:
            raise ValueError(f"{self.ann_file}: must hold at least one image with a box, got {len(images)} images and {len(annotations)} boxes")
        self.metainfo = {"dataset": dataset_name, "ann_file": str(self.ann_file)}
        self.transforms = [TRANSFORMS.build(t) if isinstance(t, dict) else t for t in transforms]

    def _take(self, annotations: Sequence[dict], row_of: Mapping[int, int], invalid_boxes: InvalidBoxes) -> None:
        """Keep boxes and spans in flat arrays, sorted by image."""
        rows, xywh, spans, nouns = [], [], [], []
        for n, a in enumerate(annotations):
            where = annotation_place(self.ann_file, a, n)
            row = image_row(a, row_of, where)
            rows.append(row)
            xywh.append(four_numbers(a["bbox"], where))
            spans.append(spans_of(a["tokens_positive"], self._images[row]["caption"], where, cut=invalid_boxes == "drop"))
            nouns.append(_nouns(a.get("nouns"), where))
        changed = sum(not found or [list(s) for s in found] != a["tokens_positive"] for found, a in zip(spans, annotations))
        if changed:
            warnings.warn(f"{self.ann_file}: the spans of {changed} of {len(spans)} boxes did not lie in their caption, or there were none; they are cut to "
                          f"it, and {spans.count(())} boxes without words teach their place alone", stacklevel=3)  # fmt: skip
        xyxy = np.array(xywh, dtype=np.float64).reshape(-1, 4)
        xyxy[:, 2:] += xyxy[:, :2]
        good = check_boxes(xyxy, [f"annotation {a.get('id', n)}" for n, a in enumerate(annotations)], self.ann_file, invalid_boxes)
        order = np.argsort(np.array(rows, dtype=np.int64), kind="stable")
        order = order[good[order]]
        self._starts = np.searchsorted(np.array(rows, dtype=np.int64)[order], np.arange(len(self._images) + 1))
        self._boxes = xyxy[order].astype(np.float32)
        self._spans, self._nouns = ([given[n] for n in order] for given in (spans, nouns))
        final = [a["isfinal"] for a in annotations if "isfinal" in a]
        wrong = [f for f in final if f not in (0, 1)]
        if wrong:
            raise ValueError(f"{self.ann_file}: isfinal must be 0 or 1, got {str(wrong[0])[:80]}")
        self._final = np.array([float(final[n]) for n in order]) if annotations and len(final) == len(annotations) else None
        self._segmentations = self._encode([annotations[n] for n in order], row_of) if self.with_masks else None

    def _encode(self, annotations: Sequence[dict], row_of: Mapping[int, int]) -> np.ndarray:
        counts = np.empty(len(annotations), dtype=object)
        for n, a in enumerate(annotations):
            image, where = self._images[row_of[a["image_id"]]], f"{self.ann_file}: annotation {a.get('id', n)}"
            if "segmentation" not in a:
                raise ValueError(f"{where}: must have a segmentation to be served with masks; leave with_masks out")
            counts[n] = encode_segmentation(a["segmentation"], (image["height"], image["width"]), where)
        return counts

    def _choose(self, annotations: Sequence[dict], row_of: Mapping[int, int], filter_empty: bool) -> np.ndarray:
        """Return the rows of the images that are served."""
        return np.flatnonzero(np.diff(self._starts) > 0) if filter_empty else np.arange(len(self._images))

    def __len__(self) -> int:
        return len(self._served)

    def get_cat_ids(self, index: int) -> list[int]:
        """Return [0]: all phrases are of one class, as samplers see it."""
        return [0]

    def image_info(self, index: int) -> dict[str, Any]:
        """Return image_id, file_name, path and size_hw of an image."""
        i = int(self._served[index])
        image = self._images[i]
        size_hw = (int(image["height"]), int(image["width"]))
        return {"image_id": image["id"], "file_name": image["file_name"], "path": str(self._folder / self._paths[i]), "size_hw": size_hw}

    def __getitem__(self, index: int) -> dict:
        draw, n = self.draw_and_index(index)
        i = int(self._served[n])
        info, image, rows = self.image_info(n), self._images[i], slice(int(self._starts[i]), int(self._starts[i + 1]))
        boxes = self._boxes[rows].copy()
        optional = {
            "gpt3_outputs": image.get("gpt3_outputs"),
            "nouns": nouns_of_phrases(image["caption"], self._spans[rows], self._nouns[rows]) or None,
            "masks": None if self._segmentations is None else decode_masks(self._segmentations[rows], info["size_hw"]),
            "final": None if self._final is None else self._final[rows].copy(),
            "answers": image.get("answers"),
        }
        sample = {
            **info,
            **{key: value for key, value in optional.items() if value is not None},
            "original_size_hw": info["size_hw"],
            "boxes_xyxy": boxes,
            "labels": np.zeros(len(boxes), dtype=np.int64),
            "caption": image["caption"],
            "positive_spans": tuple(self._spans[rows]),
            "rng": np.random.default_rng([self.seed, draw, n]),
        }
        for step in self.transforms:
            sample = step(sample)
        return sample


def _path(image: dict, prefix: str | Mapping[str, str], path: Path) -> str:
    """Return the image's path below the data root."""
    if isinstance(prefix, str):
        return str(Path(prefix) / image["file_name"])
    source = image.get("data_source")
    if not isinstance(source, str) or source not in prefix:
        known = ", ".join(prefix)
        raise ValueError(f"{path}: images, entry {image['id']}: data_source must be one of {known} (those of image_prefix), got {str(source)[:40]!r}")
    return str(Path(prefix[source]) / image["file_name"])


def _nouns(given: Any, where: str) -> tuple[str, ...] | None:
    if given is None:
        return None
    if not isinstance(given, list) or not all(isinstance(noun, str) and noun.strip() for noun in given):
        raise ValueError(f"{where}: nouns must be a list of words, got {str(given)[:80]}")
    return tuple(given)


@DATASETS.register_module()
class PhraseGroundingDetection(GroundingDetection):
    """Captions whose phrases are to be found, for testing: class k of an image is phrase k of its caption (`phrases_of_image`).

    `methods.asking.CaptionTestLoop` asks each image its caption. `vocabulary` only numbers the phrases, up to the most that a
    caption has. Images without a phrase are left out, as published. `invalid_boxes` speaks of the samples' boxes alone: the
    phrases keep theirs, since the published evaluation counts a phrase whose box is empty as one that is never found.
    Other arguments: see `GroundingDetection`.
    """

    prompt = "captions"

    def __init__(
        self,
        *,
        ann_file: str,
        image_prefix: str = "",
        data_root: str | None = None,
        dataset_name: str = "Flickr30k Entities",
        transforms: Sequence[dict | Callable[[dict], dict]] = (),
        invalid_boxes: InvalidBoxes = "raise",
    ) -> None:
        super().__init__(
            ann_file=ann_file, image_prefix=image_prefix, data_root=data_root, dataset_name=dataset_name, transforms=transforms, invalid_boxes=invalid_boxes
        )
        self.image_folder = self._folder / image_prefix
        self.vocabulary = Vocabulary.of([f"phrase {n + 1}" for n in range(max(1, *map(len, self._phrases.values())))])
        self.metainfo |= {"classes": self.vocabulary.names, "prompt": self.prompt}

    def _choose(self, annotations: Sequence[dict], row_of: Mapping[int, int], filter_empty: bool) -> np.ndarray:
        found = phrases_of_images(self._images, annotations, row_of, self.ann_file)
        self._phrases = {image["id"]: phrases for image, phrases in zip(self._images, found) if len(phrases)}
        return np.array([row for row, phrases in enumerate(found) if len(phrases)], dtype=np.int64)

    def phrases_of_image(self, image_id: int) -> CaptionPhrases:
        """Return the caption and the phrases of the image with this id; KeyError for an unknown one."""
        if image_id not in self._phrases:
            raise KeyError(f"image {image_id} is not among the {len(self._phrases)} images with a phrase of {self.ann_file}")
        return self._phrases[image_id]


@DATASETS.register_module()
class QuestionDetection(PhraseGroundingDetection):
    """Questions on images, for testing: as `PhraseGroundingDetection`, with all questions whose `answers` the file has, phrases or none."""

    def _choose(self, annotations: Sequence[dict], row_of: Mapping[int, int], filter_empty: bool) -> np.ndarray:
        found = phrases_of_images(self._images, annotations, row_of, self.ann_file)
        rows = [row for row, image in enumerate(self._images) if image.get("answers")]
        if not rows:
            raise ValueError(f"{self.ann_file}: there must be a question with 'answers', got none; build the file with --answers (tools/build_grounding.py)")
        self._phrases = {self._images[row]["id"]: found[row] for row in rows}
        return np.array(rows, dtype=np.int64)


@DATASETS.register_module()
class ShapesGrounding(GroundingDetection):
    """Captions of the embedded scenes of shapes, for training; made on first use. `root`: where they lie, see `ensure_shape_captions`.

    `shuffled`: every caption gets the picture of another one, while its boxes stay: a control that shows what is learned from captions alone.
    """

    def __init__(self, *, split: str = "train", shapes_seed: int = 0, root: str | None = None, transforms: Sequence[dict | Callable[[dict], dict]] = (),
                 seed: int = 0, with_masks: bool = False, shuffled: bool = False) -> None:
        from ovdense.data.shapes_captions import ensure_shape_captions

        path, images = ensure_shape_captions(split, shapes_seed, root)
        super().__init__(ann_file=str(path), image_prefix=str(images), dataset_name="shapes", transforms=transforms, seed=seed, with_masks=with_masks)
        if shuffled:
            order = np.random.default_rng([seed, 1]).permutation(len(self._paths))
            self._paths = [self._paths[n] for n in order]


@DATASETS.register_module()
class ShapesPhraseGrounding(PhraseGroundingDetection):
    """The same for testing: every caption is asked for its phrases."""

    def __init__(self, *, split: str = "val", shapes_seed: int = 0, root: str | None = None, transforms: Sequence[dict | Callable[[dict], dict]] = ()) -> None:
        from ovdense.data.shapes_captions import ensure_shape_captions

        path, images = ensure_shape_captions(split, shapes_seed, root)
        super().__init__(ann_file=str(path), image_prefix=str(images), dataset_name="shapes", transforms=transforms)


@DATASETS.register_module()
class MixedDataset(DrawnDataset):
    """Several data sets as one, `repeats[n]` times each in every pass; a repeat draws its augmentation anew.

    Each part has its own transforms; all samples must end alike (PackDetection).
    """

    def __init__(self, *, datasets: Sequence[dict | Dataset], repeats: Sequence[int] | None = None) -> None:
        self.datasets = [DATASETS.build(d) if isinstance(d, dict) else d for d in datasets]
        self.repeats = [1] * len(self.datasets) if repeats is None else list(repeats)
        if not self.datasets or len(self.repeats) != len(self.datasets) or min(self.repeats) < 1:
            raise ValueError(f"repeats must be one number of at least 1 for each of the data sets, got {self.repeats} for {len(self.datasets)}")
        self._ends = np.cumsum([len(d) * r for d, r in zip(self.datasets, self.repeats)])
        self.metainfo = {"dataset": " + ".join(str(getattr(d, "dataset_name", type(d).__name__)) for d in self.datasets)}

    def __len__(self) -> int:
        return int(self._ends[-1])

    def _where(self, index: int) -> tuple[int, int, int]:
        """Return the data set, which of its repeats, and the index in it."""
        part = int(np.searchsorted(self._ends, index, side="right"))
        within = index - (int(self._ends[part - 1]) if part else 0)
        return (part, *divmod(within, len(self.datasets[part])))

    def get_cat_ids(self, index: int) -> list[int]:
        """Return the classes of an image as its own data set has them, under numbers that no other part uses: each part counts its own."""
        part, _, inner = self._where(index)
        return [k * len(self.datasets) + part for k in self.datasets[part].get_cat_ids(inner)]

    def __getitem__(self, index: int) -> dict:
        draw, n = self.draw_and_index(index)
        part, repeat, inner = self._where(n)
        dataset = self.datasets[part]
        return dataset[inner + len(dataset) * (draw * self.repeats[part] + repeat)]
