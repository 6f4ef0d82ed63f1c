"""The share of LVIS's images that MDETR's few-shot training takes: every class in turn, the rarest first (arXiv 2104.12763)."""
import random
from collections.abc import Mapping

from ovdense.data.grounding_builders import published_entries


def lvis_subset(lvis: Mapping, share: float) -> set[int]:
    """Return the ids of `share` (0..1) of the images, chosen as the release's script does with its seed, so that the images are the same.

    Of ten draws nine are for an image of the class that has been drawn least often, one for an image that is known not to have the class of which that
    was drawn least; of equal ones the class with fewer images comes first. Images where a class is not labelled exhaustively count for it only where it
    has no others. ValueError where there are not enough images with labels, and for a file that is not LVIS v1's.
    """
    if not 0 < share <= 1:
        raise ValueError(f"the share of images must lie in 0..1 and be above 0, got {share}")
    if share == 1:
        return {image["id"] for image in published_entries(lvis.get("images"), ("id",), "LVIS's images")}
    for part, fields in (("categories", ("id", "image_count")), ("images", ("id", "neg_category_ids", "not_exhaustive_category_ids")),
                         ("annotations", ("image_id", "category_id"))):  # fmt: skip
        published_entries(lvis.get(part), fields, f"LVIS's {part}")
    classes = [c["id"] for c in sorted(lvis["categories"], key=lambda c: (c["image_count"], c["id"]))]
    images = {image["id"]: image for image in lvis["images"]}
    with_class, present = _labelled(lvis, images, classes)
    without: dict[int, set[int]] = {c: set() for c in classes}
    for number, image in images.items():
        for c in image["neg_category_ids"]:
            without[c].add(number)
    draw, chosen, wanted = random.Random(42), set(), int(len(images) * share)
    seen, absent = dict.fromkeys(classes, 0), dict.fromkeys(classes, 0)
    for n in range(wanted):
        count, of_class = (seen, with_class) if n % 10 else (absent, without)
        left = next((left for c in sorted(count, key=count.__getitem__) if (left := of_class[c] - chosen)), None)
        if left is None:
            raise ValueError(f"{wanted} images are wanted, but only {len(chosen)} can be chosen by their labels; take a smaller share")
        image = draw.choice(sorted(left))
        chosen.add(image)
        for c in present.get(image, ()):
            seen[c] += 1
        for c in images[image]["neg_category_ids"]:
            absent[c] += 1
    return chosen


def _labelled(lvis: Mapping, images: Mapping[int, Mapping], classes: list[int]) -> tuple[dict[int, set[int]], dict[int, set[int]]]:
    """Return the images of each class and the classes of each image, by exhaustive labels; by any for classes that have no other."""
    pairs = {(a["image_id"], a["category_id"]) for a in lvis["annotations"]}
    exhaustive = {(i, c) for i, c in pairs if c not in images[i]["not_exhaustive_category_ids"]}
    scarce = set(classes) - {c for _, c in exhaustive}
    with_class: dict[int, set[int]] = {c: set() for c in classes}
    present: dict[int, set[int]] = {}
    for i, c in exhaustive | {pair for pair in pairs if pair[1] in scarce}:
        with_class[c].add(i)
        present.setdefault(i, set()).add(c)
    return with_class, present
