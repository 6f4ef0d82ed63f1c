"""The neutral record that every format is read into and written from. Frozen, checked when made.

Coordinates are continuous pixels of the image file: x2 = x1 + width, the centre of the first pixel is (0.5, 0.5).
"""
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from typing import Any

import numpy as np

from ovdense.compat.entry_checks import MOST_PIXELS
from ovdense.compat.segmentations import FARTHEST
from ovdense.interchange.outlines import encode, encode_part, outlines, polygons_rle, runs_of_columns
from ovdense.structures import Results, Vocabulary

Box = tuple[float, float, float, float]
Polygon = tuple[float, ...]  # x, y, x, y, ...
_NOTHING: Mapping[str, Any] = {}


def _require(good: bool, message: str) -> None:
    if not good:
        raise ValueError(message)


@dataclass(frozen=True, kw_only=True)
class Mask:
    """Pixels of one object: polygons (each x, y, x, y, ...; their union), or a compressed run length `rle` of COCO, of an image of `size_hw`."""

    size_hw: tuple[int, int]
    polygons: tuple[Polygon, ...] = ()
    rle: bytes | None = None

    def __post_init__(self) -> None:
        _require(bool(self.polygons) != (self.rle is not None), f"a mask must be polygons or a run length, got {'both' if self.polygons else 'neither'}")
        for polygon in self.polygons:
            good = len(polygon) >= 6 and len(polygon) % 2 == 0 and all(-FARTHEST <= v <= FARTHEST for v in polygon)
            _require(good, f"a polygon must be at least three points x, y, ... within a million pixels of the image, got {str(polygon[:8])[:80]}")

    @classmethod
    def of_array(cls, mask_HW: np.ndarray) -> "Mask":
        """Return the mask of a bool array."""
        return cls(size_hw=(int(mask_HW.shape[0]), int(mask_HW.shape[1])), rle=encode(mask_HW))

    @classmethod
    def of_part(cls, part_HW: np.ndarray, corner_xy: tuple[int, int], size_hw: tuple[int, int]) -> "Mask":
        """Return the mask of a bool array whose first pixel lies at `corner_xy` of the image; the rest of the image is never laid out."""
        return cls(size_hw=size_hw, rle=encode_part(part_HW, corner_xy, size_hw))

    @cached_property
    def counts(self) -> bytes:
        """The mask as a compressed run length, however it was given (polygons are filled as COCO fills them)."""
        return self.rle if self.rle is not None else polygons_rle(self.polygons, self.size_hw)

    def to_array(self) -> np.ndarray:
        """Return (H, W) bool."""
        from ovdense.data.masks import decode_masks

        return decode_masks([self.counts], self.size_hw)[0]

    def runs(self) -> list[int]:
        """Return COCO's uncompressed counts: lengths of 0s and 1s in turns, down the columns."""
        return runs_of_columns(self.to_array())

    def outline(self) -> tuple[Polygon, ...]:
        """Return the polygons; those of a run length are traced around its pixels: filled as COCO fills them, they give the same pixels, holes included."""
        return self.polygons or outlines(self.to_array())

    def box_xyxy(self) -> Box | None:
        """Return the extent of the polygons or the pixels; None for a mask without any."""
        return self._extent_xyxy

    @cached_property
    def _extent_xyxy(self) -> Box | None:  # readers and writers ask several times; a large mask takes a tenth of a second
        if self.polygons:
            xs, ys = [v for p in self.polygons for v in p[::2]], [v for p in self.polygons for v in p[1::2]]
            return min(xs), min(ys), max(xs), max(ys)
        mask_HW = self.to_array()
        rows, columns = np.flatnonzero(mask_HW.any(1)), np.flatnonzero(mask_HW.any(0))
        return (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)) if len(rows) else None


@dataclass(frozen=True, kw_only=True)
class AnnotatedObject:
    """One object: its class's name, its box, and its mask where there is one.

    `stuff`: a region of a label map, not one instance. `group` joins objects that the source groups. `attributes` are the user's own (text, numbers,
    booleans), which COCO, LabelMe and CVAT hold. `extra[format]` are fields that only that format knows; it writes them back.
    """

    name: str
    box_xyxy: Box
    mask: Mask | None = None
    id: int | None = None
    score: float | None = None
    crowd: bool = False
    difficult: bool = False
    truncated: bool = False
    occluded: bool = False
    stuff: bool = False
    group: int | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _require(isinstance(self.name, str) and bool(self.name.strip()), f"an object's name must be non-empty text, got {self.name!r}")
        x1, y1, x2, y2 = self.box_xyxy
        _require(all(map(math.isfinite, self.box_xyxy)) and x2 > x1 and y2 > y1,
                 f"the box of {self.name!r} must be finite with positive width and height, got {self.box_xyxy}")


@dataclass(frozen=True, kw_only=True)
class AnnotatedImage:
    """One image and what is in it. `file_name` is relative to the folder of images, with "/" between folders.

    `negative` and `not_exhaustive` are LVIS's lists, as class names. `void`: pixels that count for nothing (VOC's 255).
    """

    file_name: str
    size_hw: tuple[int, int]
    objects: tuple[AnnotatedObject, ...] = ()
    id: int | None = None
    negative: tuple[str, ...] = ()
    not_exhaustive: tuple[str, ...] = ()
    void: Mask | None = None
    extra: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        good = len(self.size_hw) == 2 and min(self.size_hw) > 0 and self.size_hw[0] * self.size_hw[1] <= MOST_PIXELS
        _require(good, f"{str(self.file_name)[:80]}: size_hw must be two positive integers, {MOST_PIXELS} pixels at most, got {str(self.size_hw)[:80]}")
        for thing in self.objects:
            _require(thing.mask is None or tuple(thing.mask.size_hw) == tuple(self.size_hw),
                     f"{self.file_name}: masks must have the image's size {self.size_hw}, got {thing.mask and thing.mask.size_hw}")


@dataclass(frozen=True, kw_only=True)
class AnnotationSet:
    """The images of a data set and its classes, in order. `class_ids`: the file's own ids; empty where the format has none.

    `extra[format]`: fields of the file; those of class k are under `class_extra[k][format]`.
    """

    classes: Vocabulary
    images: tuple[AnnotatedImage, ...]
    class_ids: tuple[int, ...] = ()
    class_extra: tuple[Mapping[str, Mapping[str, Any]], ...] = ()
    extra: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for what, given in (("class_ids", self.class_ids), ("class_extra", self.class_extra)):
            _require(len(given) in (0, len(self.classes)), f"{what} must be empty or one a class ({len(self.classes)}), got {len(given)}")
        known = set(self.classes.names)
        for image in self.images:
            unknown = {o.name for o in image.objects} | set(image.negative) | set(image.not_exhaustive)
            _require(unknown <= known, f"{image.file_name}: the names {sorted(unknown - known)[:3]} are not among the classes")

    def __len__(self) -> int:
        return len(self.images)

    def objects(self) -> Iterator[AnnotatedObject]:
        """Yield all objects, image after image."""
        for image in self.images:
            yield from image.objects

    def ids(self) -> dict[str, int]:
        """Return class name -> id: the file's own, else 1, 2, ..."""
        return dict(zip(self.classes.names, self.class_ids or range(1, len(self.classes) + 1)))

    def extra_of_class(self, k: int, form: str) -> Mapping[str, Any]:
        return self.class_extra[k].get(form, _NOTHING) if self.class_extra else _NOTHING


def classes_in_order(names: Sequence[str], seen: Sequence[str], where: str) -> Vocabulary:
    """Return the classes that a file lists; if it lists none, those `seen` in it, sorted. ValueError where there is neither."""
    found = list(dict.fromkeys(names)) or sorted(set(seen))
    _require(bool(found), f"{where}: must name at least one class, got none")
    return Vocabulary.of(found)


def unique_ids(given: Sequence[int | None], first: int = 1) -> list[int]:
    """Return the given ids; those that are missing, or there already (a copy in an annotation tool), are numbered on from the largest, or from `first`."""
    taken, kept = set(), []
    for number in given:
        kept.append(None if number in taken else number)
        taken.add(number)
    free = count(max(taken - {None}, default=first - 1) + 1)
    return [next(free) if number is None else number for number in kept]


def record_of_results(results: Results, file_name: str = "", *, masks: bool = True) -> AnnotatedImage:
    """Return what was found in one image as a record: a detection an object, with its score; of a label map, a region of stuff a class.

    Classes of a label map that are background (`ovdense.Results.background`, else the class "background") are left out, and so are boxes
    without area (a detector may give some). `masks=False`: boxes only.
    """
    things = []
    for n, box in enumerate(results.boxes_xyxy.tolist()):
        if box[2] > box[0] and box[3] > box[1]:
            mask = Mask.of_array(results.masks_NHW[n].cpu().numpy()) if masks and results.masks_NHW is not None else None
            things.append(AnnotatedObject(name=results.names[int(results.labels[n])], box_xyxy=tuple(box), score=float(results.scores[n]), mask=mask))
    if results.label_map_HW is not None:
        label_HW = results.label_map_HW.cpu().numpy()
        for k in np.unique(label_HW).tolist():
            if results.names[k] not in getattr(results, "background", ("background",)):
                region = Mask.of_array(label_HW == k)
                things.append(AnnotatedObject(name=results.names[k], box_xyxy=region.box_xyxy(), mask=region, stuff=True))
    return AnnotatedImage(file_name=file_name, size_hw=tuple(results.size_hw), id=results.image_id, objects=tuple(things))
