"""Single objects with a caption, cut out of a detection dataset: what a small text-to-image model is trained on."""
from collections.abc import Sequence

import numpy as np
import torch

from ovdense.compat.images import BrokenImage
from ovdense.data.passes import DrawnDataset
from ovdense.data.transforms import read_image, resize_image
from ovdense.registry import DATASETS
from ovdense.structures import ClassEntry
from ovdense.text.attributes import attribute_phrase

TEMPLATES = ("a {}", "A good picture of a {}")


def describe_object(entry: ClassEntry, rng: np.random.Generator, keep: float = 1.0, silent: Sequence[str] = ()) -> str:
    """Return the class's noun with words of its first description (see `attribute_phrase`), each kept with probability `keep` unless it is in `silent`."""
    words = [w.strip() for d in entry.descriptions[:1] for w in d.split(";")]
    return attribute_phrase(entry, {*silent, *(w for w in words if rng.random() >= keep)})


@DATASETS.register_module()
class ObjectCrops(DrawnDataset):
    """Each target box of `dataset` as a square picture of `image_px` pixels with a caption.

    The window is centred on the box, its side `margin` times the box's longer one (at least `min_side` pixels of the photo),
    shifted inside the photo; one of which boxes of other objects
    cover more than `max_other` is left out. Pictures are cut once, `slack` pixels larger, and shifted and mirrored anew in every pass. `keep` and
    `silent`: see `describe_object`; `templates`: one is drawn for each caption; with probability `prob_empty` the caption is empty
    (classifier-free guidance). A sample is dict(image (3, image_px, image_px) uint8 RGB, caption). `skip_broken` leaves out images that cannot be
    read; `broken` says which and why.
    """

    def __init__(
        self, *, dataset: dict, image_px: int = 48, margin: float = 1.5, min_side: int = 48, max_other: float = 1.0,
        slack: int = 4, keep: float = 0.7, silent: Sequence[str] = (), templates: Sequence[str] = TEMPLATES, prob_empty: float = 0.1, seed: int = 0,
        skip_broken: bool = False,
    ) -> None:
        if margin < 1 or image_px < 1 or slack < 0:
            raise ValueError(f"margin must be at least 1, image_px at least 1 and slack at least 0, got {margin}, {image_px}, {slack}")
        source = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
        self.image_px, self.keep, self.silent, self.templates, self.prob_empty, self.seed = image_px, keep, tuple(silent), tuple(templates), prob_empty, seed
        self.vocabulary = source.vocabulary
        self.metainfo = {"classes": self.vocabulary.names, "dataset": f"objects of {source.dataset_name}"}
        pictures, labels, self.broken = [], [], []
        for i in range(len(source)):
            try:
                image, found = read_image(source.image_info(i)["path"]), source.annotations(i)
            except (BrokenImage, FileNotFoundError) as error:
                if not skip_broken:
                    raise
                self.broken.append(str(error))
                continue
            boxes, skip = found["boxes_xyxy"], found["crowd"] | found["difficult"]
            for n in np.flatnonzero(~skip):
                window = square_around(boxes[n], margin, min_side, image.shape[:2])
                if share_covered(window, np.delete(boxes, n, axis=0)) <= max_other:
                    pictures.append(cut_square(image, window, image_px + slack))
                    labels.append(int(found["labels"][n]))
        if not pictures:
            unread = f" ({len(self.broken)} images cannot be read, the last: {self.broken[-1]})" if self.broken else ""
            raise ValueError(f"{source.ann_file} must hold at least one box whose window is at most {max_other} covered by others, got none; "
                             f"raise max_other{unread}")
        self._pictures, self._labels = np.stack(pictures), labels

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> dict:
        draw, i = self.draw_and_index(index)
        rng = np.random.default_rng([self.seed, draw, i])
        y, x = rng.integers(self._pictures.shape[1] - self.image_px + 1, size=2)
        image = self._pictures[i, y : y + self.image_px, x : x + self.image_px]
        if rng.random() < 0.5:
            image = image[:, ::-1]
        what = describe_object(self.vocabulary[self._labels[i]], rng, self.keep, self.silent)
        template = self.templates[rng.integers(len(self.templates))]
        caption = "" if rng.random() < self.prob_empty else template.format(what)
        return {"image": torch.from_numpy(image.transpose(2, 0, 1).copy()), "caption": caption}


def square_around(box_xyxy: np.ndarray, margin: float, min_side: int, size_hw: tuple[int, int]) -> tuple[int, int, int]:
    """Return (left, top, side) of the square window around a box, shifted inside an image of `size_hw` and at most its shorter side."""
    height, width = size_hw
    x1, y1, x2, y2 = (float(v) for v in box_xyxy)
    side = int(min(max(round(margin * max(x2 - x1, y2 - y1)), min_side), height, width))
    left, top = (int(np.clip(round((a + b - side) / 2), 0, extent - side)) for a, b, extent in ((x1, x2, width), (y1, y2, height)))
    return left, top, side


def share_covered(window: tuple[int, int, int], boxes_xyxy: np.ndarray) -> float:
    """Return the share of a window's pixels that lie in at least one of the boxes."""
    left, top, side = window
    covered = np.zeros((side, side), dtype=bool)
    for x1, y1, x2, y2 in np.round(boxes_xyxy - np.array([left, top, left, top])).astype(int).clip(0, side):
        covered[y1:y2, x1:x2] = True
    return float(covered.mean())


def cut_square(image: np.ndarray, window: tuple[int, int, int], out_px: int) -> np.ndarray:
    """Return the window of an image as (out_px, out_px, 3) uint8."""
    left, top, side = window
    return resize_image(np.ascontiguousarray(image[top : top + side, left : left + side]), (out_px, out_px))


def collate_captioned(samples: Sequence[dict]) -> dict:
    """Return images (B, 3, H, W) uint8 and captions (list of B strings)."""
    return {"images": torch.stack([s["image"] for s in samples]), "captions": [s["caption"] for s in samples]}
