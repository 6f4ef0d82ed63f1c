"""Flickr30k Entities' own files (arXiv 1505.04870): Sentences/NAME.txt and Annotations/NAME.xml of each photo.

A line of the first is a caption, "[/EN#12/people/clothing A woman] smiles": entity 12, of two types, is called "A woman". The
second has the boxes of the entities; entities of the whole scene, and those that cannot be seen, have none.
"""
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ovdense.compat.xml import read_xml

_MENTION = re.compile(r"\[/EN#(?P<id>\d+)/(?P<types>\S+)\s+(?P<text>[^\]]*)\]")


@dataclass(frozen=True, kw_only=True)
class EntityPhrase:
    """A phrase of a caption, the types of its entity ("people", "clothing", ...), and its boxes (N, 4) xyxy float64, N at least 1."""

    text: str
    types: tuple[str, ...]
    boxes_xyxy: np.ndarray


@dataclass(frozen=True, kw_only=True)
class FlickrEntities:
    """What was read: `phrases[photo][sentence]` are the phrases that have a box, in order; `files` are all that were read."""

    phrases: dict[str, tuple[tuple[EntityPhrase, ...], ...]]
    files: tuple[Path, ...]


def read_flickr_entities(folder: Path, photos: Iterable[str]) -> FlickrEntities:
    """Return the phrases of these photos (names without ".jpg"); FileNotFoundError and ValueError name the file."""
    phrases, files = {}, []
    for photo in dict.fromkeys(photos):
        sentences, annotations = folder / "Sentences" / f"{photo}.txt", folder / "Annotations" / f"{photo}.xml"
        for path in (sentences, annotations):
            if not path.is_file():
                raise FileNotFoundError(f"photo {photo} of Flickr30k Entities: {path} is missing; give the folder that holds Sentences/ and Annotations/")
        boxes = _read_boxes(annotations)
        phrases[photo] = tuple(_phrases(line, boxes, sentences) for line in _lines(sentences))
        files += [sentences, annotations]
    return FlickrEntities(phrases=phrases, files=tuple(files))


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf8").split("\n") if line]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: must be text in UTF-8, byte {error.start} is not") from None


def _phrases(line: str, boxes: dict[str, np.ndarray], path: Path) -> tuple[EntityPhrase, ...]:
    found = list(_MENTION.finditer(line))
    if len(found) != line.count("[/EN#"):
        raise ValueError(f"{path}: a phrase must be written as [/EN#number/type words], one in {line[:80]!r} is not; is the file cut short?")
    return tuple(
        EntityPhrase(text=" ".join(m["text"].split()), types=tuple(m["types"].split("/")), boxes_xyxy=boxes[m["id"]]) for m in found if m["id"] in boxes
    )


def _read_boxes(path: Path) -> dict[str, np.ndarray]:
    """Return the boxes of each entity id that has one; an object of several entities is a box of each."""
    boxes: dict[str, list[list[float]]] = {}
    try:
        for thing in read_xml(path).findall("object"):
            place = thing.find("bndbox")
            if place is None:
                continue
            xyxy = [float(place.findtext(side)) for side in ("xmin", "ymin", "xmax", "ymax")]
            if not np.isfinite(xyxy).all():
                raise ValueError(f"got {xyxy}")
            for name in thing.findall("name"):
                boxes.setdefault(name.text.strip(), []).append(xyxy)
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: every object must have names, and a bndbox of four numbers or none, in valid XML: {error}") from None
    return {entity: np.array(found, dtype=np.float64) for entity, found in boxes.items()}


@dataclass(frozen=True, kw_only=True)
class EntityMention:
    """A phrase of a sentence: its characters in the sentence without marks, and the entity that it names."""

    span: tuple[int, int]
    entity: str


@dataclass(frozen=True, kw_only=True)
class SentenceWithEntities:
    """A caption without marks, all its phrases, and the boxes (N, 4) xyxy of the entities that have some."""

    text: str
    phrases: tuple[EntityMention, ...]
    boxes: dict[str, np.ndarray]


def read_sentences(folder: Path, photo: str) -> tuple[tuple[int, int], list[SentenceWithEntities]]:
    """Return (height, width) and the captions of a photo, as its files have them."""
    path, marks = folder / "Annotations" / f"{photo}.xml", folder / "Sentences" / f"{photo}.txt"
    for needed in (path, marks):
        if not needed.is_file():
            raise FileNotFoundError(f"photo {photo} of Flickr30k Entities: {needed} is missing; give the folder that holds Sentences/ and Annotations/")
    boxes = _read_boxes(path)
    try:
        size = read_xml(path).find("size")
        size_hw = (int(size.findtext("height")), int(size.findtext("width")))
    except (AttributeError, TypeError, ValueError):
        raise ValueError(f"{path}: must say the photo's size (height, width)") from None
    return size_hw, [_sentence(line, boxes) for line in _lines(marks)]


def _sentence(line: str, boxes: dict[str, np.ndarray]) -> SentenceWithEntities:
    """Return a line's caption, one blank between words."""
    text, phrases, last = "", [], 0
    for match in _MENTION.finditer(line):
        text += _one_blank(line[last : match.start()], first=not text)
        words = " ".join(match["text"].split())
        phrases.append(EntityMention(span=(len(text), len(text) + len(words)), entity=match["id"]))
        text += words
        last = match.end()
    named = {p.entity: boxes[p.entity] for p in phrases if p.entity in boxes}
    return SentenceWithEntities(text=text + _one_blank(line[last:], first=not text).rstrip(), phrases=tuple(phrases), boxes=named)


def _one_blank(text: str, *, first: bool) -> str:
    joined = re.sub(r"\s+", " ", text)
    return joined.lstrip() if first else joined
