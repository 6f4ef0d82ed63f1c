"""Other forms of grounding data as MDETR's (`compat.grounding`): ODVG JSON lines (mmdet's), and captions with phrase spans.

ODVG (Grounding DINO's training form): a line an image, {"filename", "height", "width"} and either "grounding": {"caption", "regions":
[{"phrase", "bbox": [x1, y1, x2, y2] or several, "tokens_positive"?}]} or "detection": {"instances": [{"bbox", "category"}]}, whose
categories become a caption "cat. dog." Phrase spans: images [{"id", "file_name", "height", "width", "caption", "phrases": [{"spans":
[[begin, end], ...], "boxes": [[x, y, width, height], ...]}]}].
"""
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ovdense.compat.described import read_object
from ovdense.compat.grounding import Span, is_number, whole_words
from ovdense.compat.json_text import loads

_ODVG_LINE = re.compile(rb'\s*\{\s*"(filename|height|width|grounding|detection)"\s*:')


def read_grounding(path: Path) -> tuple[dict, str]:
    """Return a file's content in MDETR's form, whichever of the three it has, and the first 12 hex digits of its SHA-256; ValueError names the file."""
    if is_odvg(path):
        digest = hashlib.sha256()
        return read_odvg(path, digest), digest.hexdigest()[:12]
    content, sha256 = read_object(path)
    return (from_phrases(content, path) if has_phrases(content) else content), sha256


def is_odvg(path: Path) -> bool:
    """Return whether a file is of JSON lines: by its name, or, since mmdet's own converters write them to .json, by how its first line begins."""
    if path.suffix in (".jsonl", ".odvg") or path.name.endswith(".odvg.json"):
        return True
    with open(path, "rb") as file:
        return _ODVG_LINE.match(file.read(1024)) is not None


def has_phrases(content: Any) -> bool:
    """Return whether the content has the phrase-span form."""
    images = content.get("images") if isinstance(content, dict) else None
    return bool(images) and isinstance(images, list) and "annotations" not in content and all(isinstance(i, dict) and "phrases" in i for i in images)


def read_odvg(path: Path, digest: Any = None) -> dict:
    """Return the content of an ODVG file in MDETR's form, and let `digest` (of hashlib) take in its bytes; ValueError names the line that is broken."""
    images, annotations = [], []
    with open(path, "rb") as file:
        for n, line in enumerate(file, start=1):
            if digest is not None:
                digest.update(line)
            if not line.strip():
                continue
            where = f"{path}: line {n}"
            try:
                entry = loads(line.decode("utf8"))
            except json.JSONDecodeError as error:
                raise ValueError(f"{where}: must be JSON, broken at column {error.colno}: {error.msg}; is the file cut short?") from None
            except UnicodeDecodeError as error:
                raise ValueError(f"{where}: must be JSON in UTF-8, byte {error.start} is not: {error.reason}") from None
            if not isinstance(entry, dict):
                raise ValueError(f"{where}: must be a JSON object, got {type(entry).__name__}")
            missing = [k for k in ("filename", "height", "width") if k not in entry]
            if missing or not ({"grounding", "detection"} & set(entry)):
                raise ValueError(f"{where}: must have filename, height, width, and grounding or detection, got {str(sorted(entry))[:200]}")
            caption, boxes = _grounding(entry["grounding"], where) if "grounding" in entry else _detection(entry["detection"], where)
            images.append({"id": n, "file_name": entry["filename"], "height": entry["height"], "width": entry["width"], "caption": caption})
            annotations += [{"id": len(annotations) + k, "image_id": n, "bbox": box, "tokens_positive": spans} for k, (box, spans) in enumerate(boxes, 1)]
    return {"images": images, "annotations": annotations}


def _xywh(box: Any, where: str) -> list[float]:
    if not isinstance(box, list) or len(box) != 4 or not all(is_number(v) for v in box):
        raise ValueError(f"{where}: a bbox must be four numbers (x1, y1, x2, y2), got {str(box)[:80]}")
    x1, y1, x2, y2 = box
    return [x1, y1, x2 - x1, y2 - y1]


def _grounding(entry: Any, where: str) -> tuple[str, list[tuple[list[float], list[list[int]]]]]:
    caption, boxes = entry.get("caption") if isinstance(entry, dict) else None, []
    if not isinstance(caption, str) or not isinstance(entry.get("regions"), list) or not all(isinstance(r, dict) for r in entry["regions"]):
        raise ValueError(f"{where}: grounding must have a caption and regions, got {str(entry)[:80]}")
    for region in entry["regions"]:
        spans = region.get("tokens_positive") or [list(s) for s in _find(caption, region.get("phrase"), where)]
        given = region.get("bbox")
        several = given if isinstance(given, list) and given and isinstance(given[0], list) else [given]
        if not isinstance(spans, list) or not all(isinstance(s, list) for s in spans):
            raise ValueError(f"{where}: tokens_positive must be a list of spans, got {str(spans)[:80]}")
        boxes += [(_xywh(box, where), [list(s) for s in spans]) for box in several]
    return caption, boxes


def _find(caption: str, phrase: Any, where: str) -> Iterator[Span]:
    """Yield every place of the phrases (one, or a list) in the caption: as words of their own, inside other words only where there is none."""
    found, texts = False, [phrase] if isinstance(phrase, str) else phrase or []
    if not isinstance(texts, list) or not all(isinstance(t, str) and t.strip() for t in texts):
        raise ValueError(f"{where}: a region's phrase must be text, or a list of texts, none of them empty, got {str(phrase)[:80]!r}")
    for text in texts:
        places = [m.span() for m in whole_words(text).finditer(caption)] or [m.span() for m in re.finditer(re.escape(text), caption, re.IGNORECASE)]
        found = found or bool(places)
        yield from places
    if not found:
        raise ValueError(f"{where}: a region's phrase must occur in the caption, {str(phrase)[:80]!r} does not in {caption[:80]!r}; give tokens_positive")


def _detection(entry: dict, where: str) -> tuple[str, list[tuple[list[float], list[list[int]]]]]:
    instances = entry.get("instances") if isinstance(entry, dict) else None
    if not isinstance(instances, list) or not all(isinstance(i, dict) and isinstance(i.get("category"), str) and "bbox" in i for i in instances):
        raise ValueError(f"{where}: detection must have instances, each with a bbox and its category by name")
    caption, span_of = "", {}
    for name in dict.fromkeys(i["category"] for i in instances):
        span_of[name] = [len(caption), len(caption) + len(name)]
        caption += f"{name}. "
    return caption.strip() or "nothing.", [(_xywh(i["bbox"], where), [span_of[i["category"]]]) for i in instances]


def from_phrases(content: dict, path: Path) -> dict:
    """Return the phrase-span form as MDETR's; every phrase is to be found, each of its boxes is a box of its own."""
    images, annotations = [], []
    for image in content["images"]:
        where = f"{path}: images, entry {str(image.get('id'))[:40]}"
        asked = []
        if not isinstance(image["phrases"], list):
            raise ValueError(f"{where}: phrases must be a list, got {type(image['phrases']).__name__}")
        for n, phrase in enumerate(image["phrases"]):
            if not isinstance(phrase, dict) or not {"spans", "boxes"} <= set(phrase) or not isinstance(phrase["boxes"], list):
                raise ValueError(f"{where}: phrase {n} must have spans and boxes, got {str(phrase)[:80]}")
            if phrase["boxes"]:
                asked.append(phrase["spans"])
            annotations += [{"image_id": image.get("id"), "bbox": box, "tokens_positive": phrase["spans"]} for box in phrase["boxes"]]
        images.append({k: v for k, v in image.items() if k != "phrases"} | {"tokens_positive_eval": asked})
    for n, annotation in enumerate(annotations, start=1):
        annotation["id"] = n
    return {"images": images, "annotations": annotations}
