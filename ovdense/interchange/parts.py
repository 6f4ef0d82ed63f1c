"""Objects as shapes of an annotation tool, and back: an object of several polygons is several shapes of one group (LabelMe, CVAT)."""
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pycocotools import mask as coco_mask

from ovdense.interchange.records import AnnotatedObject, Box, Mask, Polygon

FLAGS = ("crowd", "difficult", "truncated", "stuff")
BOXES = ("box_xyxy", "extent_xyxy")  # facts that are four numbers
Unknown = Literal["raise", "drop"]
MOVED = 0.02  # pixels by which a shape's side is another than it was: CVAT writes two decimals


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What the tool draws: a box, one polygon, or one mask, and what is said of its object: `facts` (score, id, occluded, FLAGS, and of a box that is
    not the extent of the object's shapes: `box_xyxy`, and `extent_xyxy`, which they had then)."""

    name: str
    kind: Literal["box", "polygon", "mask"]
    box_xyxy: Box | None = None
    polygon: Polygon = ()
    mask: Mask | None = None
    group: int | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def shapes_of(things: Sequence[AnnotatedObject]) -> Iterator[Shape]:
    """Yield the shapes of an image's objects; objects of several polygons get a group of their own."""
    fresh = max((thing.group for thing in things if thing.group is not None), default=0) + 1
    for thing in things:
        facts = {key: getattr(thing, key) for key in ("score", "id", "occluded", *FLAGS)}
        facts = {key: value for key, value in facts.items() if value is not None and value is not False}  # 0 is a fact
        extent = thing.mask and thing.mask.box_xyxy()
        if thing.mask is not None and not _same(extent, thing.box_xyxy, 1e-6):
            facts |= {"box_xyxy": list(thing.box_xyxy)} | ({"extent_xyxy": list(extent)} if extent else {})
        common = dict(name=thing.name, facts=facts, attributes=thing.attributes, extra=thing.extra)
        if thing.mask is None:
            yield Shape(kind="box", box_xyxy=thing.box_xyxy, group=thing.group, **common)
        elif thing.mask.rle is not None:
            yield Shape(kind="mask", mask=thing.mask, group=thing.group, **common)
        else:
            several = len(thing.mask.polygons) > 1
            for polygon in thing.mask.polygons:
                yield Shape(kind="polygon", polygon=polygon, group=fresh if several else thing.group, **common)
            fresh += several


def _same(a: Box | None, b: Sequence[float], tolerance: float) -> bool:
    return a is not None and max(abs(u - v) for u, v in zip(a, b)) < tolerance


def objects_of(shapes: Sequence[Shape], size_hw: tuple[int, int], where: str) -> tuple[AnnotatedObject, ...]:
    """Return the objects: shapes of one group and class that hold polygons or masks, and at most one box, are one object."""
    groups: dict[tuple[int, str], list[Shape]] = {}
    for shape in shapes:
        if shape.group is not None:
            groups.setdefault((shape.group, shape.name), []).append(shape)
    found, done = [], set()
    for shape in shapes:
        members = groups.get((shape.group, shape.name), [shape])
        kinds = [m.kind for m in members]
        if len(members) == 1 or kinds.count("box") > 1 or len(set(kinds)) == 1 and kinds[0] == "box":
            found.append(_object([shape], size_hw, where))
        elif (shape.group, shape.name) not in done:
            done.add((shape.group, shape.name))
            found.append(_object(members, size_hw, where))
    return tuple(found)


def _object(members: Sequence[Shape], size_hw: tuple[int, int], where: str) -> AnnotatedObject:
    first = members[0]
    facts = {k: v for m in reversed(members) for k, v in m.facts.items()}
    try:
        mask = _union([m for m in members if m.kind != "box"], size_hw)
    except ValueError as error:
        raise ValueError(f"{where}: {str(first.name)[:40]!r}: {error}") from None
    box, extent = facts.pop("box_xyxy", None), facts.pop("extent_xyxy", None)
    if box and extent and mask and not _same(mask.box_xyxy(), extent, MOVED):
        box = None  # somebody has changed the shapes since
    box = box or next((m.box_xyxy for m in members if m.kind == "box"), None) or (mask and mask.box_xyxy())
    if box is None or not (box[2] > box[0] and box[3] > box[1]):
        raise ValueError(f"{where}: a {first.name[:40]!r} must have positive width and height, got {box}")
    return AnnotatedObject(name=first.name, box_xyxy=tuple(box), mask=mask, group=first.group if len(members) == 1 else None, attributes=first.attributes,
                           extra=first.extra, **facts)


def _union(members: Sequence[Shape], size_hw: tuple[int, int]) -> Mask | None:
    if not members:
        return None
    if all(m.kind == "polygon" for m in members):
        return Mask(polygons=tuple(m.polygon for m in members), size_hw=size_hw)
    if len(members) == 1:
        return members[0].mask
    masks = [m.mask or Mask(polygons=(m.polygon,), size_hw=size_hw) for m in members]
    rles = [{"counts": m.counts, "size": list(size_hw)} for m in masks]
    return Mask(rle=coco_mask.merge(rles)["counts"], size_hw=size_hw)


def without_unknown(shapes: Iterable[Shape | str], unknown: Unknown, where: str) -> list[Shape]:
    """Return the shapes; a string stands for a shape that has no area: an error that names it, or left out with a warning."""
    import warnings

    if unknown not in ("raise", "drop"):
        raise ValueError(f"unknown must be 'raise' or 'drop', got {unknown!r}")
    good, bad = [], []
    for shape in shapes:
        (bad if isinstance(shape, str) else good).append(shape)
    if bad and unknown == "raise":
        raise ValueError(f"{where}: a shape must be a box, polygon, mask, circle or ellipse, got {bad[0][:40]} ({len(bad)} such); "
                         "remove it or give unknown='drop'")
    if bad:
        warnings.warn(f"{where}: left out {len(bad)} shapes that have no area ({', '.join(sorted(set(bad)))[:80]})", stacklevel=2)
    return good
