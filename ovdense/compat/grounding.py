"""MDETR's annotation form for grounding data (arXiv 2104.12763), for the data sets and the metric.

images {id, file_name, height, width, caption}, where Flickr30k Entities has also tokens_positive_eval (the phrases to be
found, each a list of spans), original_img_id and sentence_id; annotations {image_id, bbox (x, y, w, h), tokens_positive
[[begin, end], ...], the characters of the caption that speak of the box}.
"""
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

Span = tuple[int, int]
Spans = tuple[Span, ...]


@dataclass(frozen=True, kw_only=True)
class CaptionPhrases:
    """A caption and what is looked for in its image: of each phrase its `spans`, and its boxes (N, 4) xyxy float64 in pixels of the file."""

    caption: str
    spans: tuple[Spans, ...]
    boxes_xyxy: tuple[np.ndarray, ...]

    def __post_init__(self) -> None:
        if len(self.spans) != len(self.boxes_xyxy):
            raise ValueError(f"{len(self.spans)} phrases need as many arrays of boxes, got {len(self.boxes_xyxy)}")

    def __len__(self) -> int:
        return len(self.spans)

    @property
    def texts(self) -> tuple[str, ...]:
        """Return the words of each phrase."""
        return tuple(" ".join(self.caption[begin:end] for begin, end in spans) for spans in self.spans)


ABSENT = -1  # the category id by which gRefCOCO says that nothing is meant


def grounding_entries(content: Any, path: Path) -> tuple[list[dict], list[dict], dict[int, int]]:
    """Return images, annotations, and the row of each image id; ValueError names the file and the entry that is broken.

    Crowds are left out, and what is no box but says that a caption speaks of nothing (`ABSENT`).
    """
    images = _entries(content, "images", path, ("id", "file_name", "height", "width", "caption"))
    entries = _entries(content, "annotations", path, ("image_id", "bbox", "tokens_positive"))
    return images, [a for a in entries if not a.get("iscrowd") and a.get("category_id") != ABSENT], _rows(images, path)


def annotation_place(path: Path, annotation: dict, n: int) -> str:
    """Return how errors name annotation `n` of a file."""
    return f"{path}: annotations, entry {str(annotation.get('id', f'number {n}'))[:40]}"


def image_row(annotation: dict, row_of: dict[int, int], where: str) -> int:
    """Return the row of the annotation's image; ValueError for an unknown one."""
    if not _is_id(annotation["image_id"]) or annotation["image_id"] not in row_of:
        raise ValueError(f"{where}: image_id {repr(annotation['image_id'])[:40]} is not among the {len(row_of)} images of the file")
    return row_of[annotation["image_id"]]


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def is_number(value: Any) -> bool:
    """Return whether a value of a JSON file is a finite number of pixels."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e9 < value < 1e9


def four_numbers(bbox: Any, where: str) -> list[float]:
    """Return x, y, width, height; ValueError unless they are numbers."""
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(is_number(v) for v in bbox):
        raise ValueError(f"{where}: bbox must be four numbers (x, y, width, height), got {str(bbox)[:80]}")
    return bbox


@lru_cache(maxsize=4096)
def whole_words(phrase: str) -> re.Pattern[str]:
    """Return what finds a phrase in a caption where it is words of their own ("man" not in "woman"), in any case and with any blanks between them."""
    return re.compile(r"(?<!\w)" + r"\s+".join(map(re.escape, phrase.split())) + r"(?!\w)", re.IGNORECASE)


def spans_of(given: Any, caption: str, where: str, *, cut: bool = False) -> Spans:
    """Return character spans in their order; ValueError unless there is one and all lie in the caption.

    `cut`: what lies outside is cut off, and there may be none left, as the release reads its own files: combining captions, its scripts can leave
    spans that end behind a caption whose last blank was dropped, and none where a word has no letter.
    """
    good = isinstance(given, list) and all(isinstance(s, list) and len(s) == 2 and all(isinstance(v, int) for v in s) for s in given)
    if good and cut:
        return tuple((b, e) for b, e in ((max(begin, 0), min(end, len(caption))) for begin, end in given) if b < e)
    if not good or not given or any(not 0 <= begin < end <= len(caption) for begin, end in given):
        raise ValueError(f"{where}: tokens_positive must be spans [begin, end] within 0..{len(caption)} of {caption[:60]!r}, got {str(given)[:80]}; "
                         "repair the file (for training, invalid_boxes='drop' cuts spans to the caption)")  # fmt: skip
    return tuple((begin, end) for begin, end in given)


def phrases_of_images(images: Sequence[dict], annotations: Sequence[dict], row_of: dict[int, int], path: Path) -> tuple[CaptionPhrases, ...]:
    """Return the phrases of each image with their boxes.

    The phrases are the image's tokens_positive_eval; without that, the different tokens_positive of its boxes, in the order of
    the file. A box is a phrase's when its tokens_positive hold all spans of the phrase: MDETR lists, for a box, every mention
    of everything that it shows. ValueError for a phrase without a box.
    """
    xyxy_of: list[list[tuple[float, float, float, float]]] = [[] for _ in images]
    spans: list[list[Spans]] = [[] for _ in images]
    for n, a in enumerate(annotations):
        where = annotation_place(path, a, n)
        row = image_row(a, row_of, where)
        x, y, w, h = four_numbers(a["bbox"], where)
        xyxy_of[row].append((x, y, x + w, y + h))
        spans[row].append(spans_of(a["tokens_positive"], images[row]["caption"], where))
    return tuple(_phrases(image, boxes, of_box, path) for image, boxes, of_box in zip(images, xyxy_of, spans))


def _phrases(image: dict, boxes: Sequence[Sequence[float]], spans: Sequence[Spans], path: Path) -> CaptionPhrases:
    where = f"{path}: images, entry {str(image['id'])[:40]}"
    asked = image.get("tokens_positive_eval")
    if asked is None:
        phrases = tuple(dict.fromkeys(tuple(sorted(of_box)) for of_box in spans))
    elif not isinstance(asked, list):
        raise ValueError(f"{where}: tokens_positive_eval must be a list of phrases, each a list of spans, got {str(asked)[:80]}")
    else:
        phrases = tuple(spans_of(given, image["caption"], f"{where}: tokens_positive_eval, phrase {n}") for n, given in enumerate(asked))
    xyxy = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    shown = [frozenset(of_box) for of_box in spans]
    found = tuple(xyxy[[n for n, held in enumerate(shown) if held.issuperset(phrase)]] for phrase in phrases)
    for phrase, of_phrase in zip(phrases, found):
        if not len(of_phrase):
            text = " ".join(image["caption"][b:e] for b, e in phrase)
            raise ValueError(f"{where}: each phrase must have a box, {text!r} (tokens_positive_eval {list(map(list, phrase))}) has none")
    return CaptionPhrases(caption=image["caption"], spans=phrases, boxes_xyxy=found)


def _entries(content: Any, key: str, path: Path, required: Sequence[str]) -> list[dict]:
    if not isinstance(content, dict) or not isinstance(content.get(key), list):
        raise ValueError(f"{path}: must be a JSON object with the lists images and annotations; {key!r} is missing; is it in MDETR's form?")
    for n, entry in enumerate(content[key]):
        missing = [f for f in required if f not in entry] if isinstance(entry, dict) else list(required)
        if missing:
            name = str(entry.get("id", f"number {n}"))[:40] if isinstance(entry, dict) else f"number {n}"
            raise ValueError(f"{path}: {key}, entry {name}: must have {', '.join(missing)}; is it in MDETR's form?")
    return content[key]


def _rows(images: Sequence[dict], path: Path) -> dict[int, int]:
    row_of: dict[int, int] = {}
    for n, image in enumerate(images):
        where = f"{path}: images, entry {str(image['id'])[:40]}"
        number = _is_id(image["id"])
        if not number or image["id"] in row_of:
            what = "is there twice" if number else "must be an integer"
            raise ValueError(f"{where}: the id {repr(image['id'])[:40]} {what}; the ids of images must be unique integers")
        if not isinstance(image["caption"], str) or not image["caption"].strip():
            raise ValueError(f"{where}: the caption must hold a word, got {str(image['caption'])[:80]!r}")
        if not isinstance(image["file_name"], str) or not image["file_name"] or "\0" in image["file_name"]:
            raise ValueError(f"{where}: file_name must be text, got {str(image['file_name'])[:80]!r}")
        size = image["height"], image["width"]  # MDETR wrote some as text
        if not all(v.isdecimal() and v.isascii() and len(v) < 10 and int(v) >= 1 if isinstance(v, str) else is_number(v) and v >= 1 for v in size):
            raise ValueError(f"{where}: height and width must be positive numbers of pixels, got {str(size)[:80]}")
        row_of[image["id"]] = n
    return row_of
