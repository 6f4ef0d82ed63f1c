"""Grounding data in MDETR's form (`compat.grounding`) made from what others published, as MDETR's own scripts make it.

Each builder is a function of contents already read; `tools/build_grounding.py` reads and writes the files. Boxes are (x, y, width, height).
"""
import io
import pickle
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ovdense.compat.flickr_entities import SentenceWithEntities
from ovdense.compat.grounding import whole_words

Span = tuple[int, int]
OBJECT = [{"id": 1, "name": "object", "supercategory": "object"}]


class _Builder:
    """Collects images and annotations with numbers of their own."""

    def __init__(self) -> None:
        self.images: list[dict] = []
        self.annotations: list[dict] = []

    def image(self, image: Mapping[str, Any], caption: str, **more: Any) -> int:
        number = len(self.images) + 1
        self.images.append({"id": number, "file_name": image["file_name"], "height": image["height"], "width": image["width"], "caption": caption, **more})
        return number

    def box(self, image_id: int, bbox: Sequence[float], spans: Sequence[Span], **more: Any) -> None:
        x, y, w, h = bbox
        self.annotations.append({"id": len(self.annotations) + 1, "image_id": image_id, "bbox": [x, y, w, h], "area": w * h, "iscrowd": 0, "category_id": 1,
                                 "tokens_positive": [list(s) for s in spans], **more})  # fmt: skip

    def content(self, name: str) -> dict:
        return {"info": {"description": name}, "images": self.images, "annotations": self.annotations, "categories": OBJECT}


def published_entries(given: Any, fields: Sequence[str], what: str) -> Sequence[Mapping]:
    """Return a published file's list of entries; ValueError for one that lacks a field: it is another file, or cut short."""
    if not isinstance(given, list):
        raise ValueError(f"{what} must be a list, got {type(given).__name__}; is it the right file?")
    for n, entry in enumerate(given):
        missing = [f for f in fields if not isinstance(entry, Mapping) or f not in entry]
        if missing:
            raise ValueError(f"{what}, entry {n}: must have {', '.join(fields)}, got none of {', '.join(missing)}; is it the right file?")
    return given


def same_boxes(boxes_xyxy: np.ndarray, min_iou: float = 0.95) -> list[list[int]]:
    """Return groups of boxes (N, 4) that overlap by `min_iou` or more, directly or through others: MDETR takes such as one thing."""
    n = len(boxes_xyxy)
    low, high = np.maximum(boxes_xyxy[:, None, :2], boxes_xyxy[None, :, :2]), np.minimum(boxes_xyxy[:, None, 2:], boxes_xyxy[None, :, 2:])
    overlap = (high - low).clip(min=0).prod(-1)
    area = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).prod(-1)
    near = overlap >= min_iou * (area[:, None] + area[None] - overlap)
    group, groups = np.full(n, -1), []
    for start in range(n):
        if group[start] >= 0:
            continue
        todo, members = [start], []
        group[start] = len(groups)
        while todo:
            k = todo.pop()
            members.append(k)
            for m in np.flatnonzero(near[k] & (group < 0)):
                group[m] = len(groups)
                todo.append(int(m))
        groups.append(sorted(members))
    return groups


def flickr_entities(photos: Iterable[tuple[str, tuple[int, int], Sequence[SentenceWithEntities]]], *, merged: bool = False) -> dict:
    """Return Flickr30k Entities: a caption of five a row. `photos`: (name, (height, width), its sentences).

    `merged`: one box around all boxes of an entity (the MergedBox training files); else boxes that overlap by 0.95 are one thing of all its phrases.
    """
    made = _Builder()
    for photo, (height, width), sentences in photos:
        image = {"file_name": f"{photo}.jpg", "height": height, "width": width}
        for number, sentence in enumerate(sentences):
            entities = [e for e in dict.fromkeys(p.entity for p in sentence.phrases) if e in sentence.boxes]
            spans = {e: [p.span for p in sentence.phrases if p.entity == e] for e in entities}
            image_id = made.image(image, sentence.text, dataset_name="flickr", sentence_id=number, original_img_id=photo,
                                  tokens_positive_eval=[[list(p.span)] for p in sentence.phrases if p.entity in sentence.boxes])  # fmt: skip
            owner, boxes = [], []
            for e in entities:
                xyxy = sentence.boxes[e]
                xyxy = np.concatenate([xyxy[:, :2].min(0), xyxy[:, 2:].max(0)])[None] if merged else xyxy
                owner += [e] * len(xyxy)
                boxes += list(xyxy)
            for members in same_boxes(np.array(boxes).reshape(-1, 4)):
                x1, y1, x2, y2 = (float(v) for v in boxes[members[-1]])
                names = list(dict.fromkeys(owner[m] for m in members))
                made.box(image_id, (x1, y1, x2 - x1, y2 - y1), [s for e in names for s in spans[e]])
    return made.content("Flickr30k Entities" + (", merged boxes" if merged else ""))


class _Plain(pickle.Unpickler):
    """Reads pickles of plain containers, numbers and strings; anything that names a class or a function is refused."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"{module}.{name}")


def read_refer(path: Path) -> list[dict]:
    """Return the referring expressions of a file refs(unc).p or refs(umd).p (a pickle; nothing in it can run code)."""
    try:
        refs = _Plain(io.BytesIO(Path(path).read_bytes()), encoding="latin1").load()
    except (pickle.UnpicklingError, EOFError, ValueError, IndexError, KeyError, AttributeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} must be a pickle of plain lists, dicts, strings and numbers: {error}; it is not loaded") from None
    if not isinstance(refs, list) or any(not isinstance(r, dict) or not {"image_id", "ann_id", "split", "sentences"} <= set(r) for r in refs):
        raise ValueError(f"{path} must hold a list of referring expressions with image_id, ann_id, split and sentences")
    return refs


def whole(caption: str) -> list[Span]:
    """Return the whole caption, without blanks around it, as its span."""
    return [(len(caption) - len(caption.lstrip()), len(caption.rstrip()))]


def referring_expressions(refs: Sequence[Mapping], coco: Mapping, split: str, *, dataset: str = "refcoco", root: Callable[[str], list[Span]] = whole) -> dict:
    """Return RefCOCO, RefCOCO+ or RefCOCOg: an expression a row with the box that it means.

    `coco`: instances_train2014. `root`: which spans of an expression stand for the box: all of it, or its main phrase as MDETR's scripts take it
    (`text.noun_chunks.root_phrase`). KeyError for an annotation that the file lacks.
    """
    images, boxes, made = {i["id"]: i for i in coco["images"]}, {a["id"]: a for a in coco["annotations"]}, _Builder()
    for ref in refs:
        if ref["split"] != split:
            continue
        if ref["image_id"] not in images or ref["ann_id"] not in boxes:
            raise KeyError(f"annotation {ref['ann_id']} of image {ref['image_id']} must be in the COCO file, it is not; give instances_train2014.json")
        annotation = boxes[ref["ann_id"]]
        for sentence in ref["sentences"]:
            text = sentence["sent"]
            spans = root(text)
            image_id = made.image(images[ref["image_id"]], text, dataset_name=dataset, original_id=ref["image_id"],
                                  tokens_positive_eval=[[list(s) for s in spans]])  # fmt: skip
            made.box(image_id, annotation["bbox"], spans, original_id=ref["ann_id"], segmentation=annotation.get("segmentation", []))
    return made.content(f"{dataset} {split}")


def phrase_cut(refer: Sequence[Mapping], image_data: Sequence[Mapping]) -> dict:
    """Return PhraseCut (refer_SPLIT.json, image_data_split.json): a phrase a row, with the box and all polygons of each thing it means.

    Differs from MDETR's script, which keeps only the last polygon of a thing.
    """
    sizes, made = {int(i["image_id"]): i for i in published_entries(image_data, ("image_id", "height", "width"), "PhraseCut's images")}, _Builder()
    for entry in published_entries(refer, ("task_id", "image_id", "phrase", "instance_boxes", "Polygons"), "PhraseCut's phrases"):
        if int(entry["image_id"]) not in sizes:
            raise KeyError(f"task {entry['task_id']}: its image {entry['image_id']} must be in the images' file, it is not; give image_data_split.json")
        if len(entry["Polygons"]) != len(entry["instance_boxes"]):
            got = f"{len(entry['Polygons'])} and {len(entry['instance_boxes'])}"
            raise ValueError(f"task {entry.get('task_id')}: as many lists of polygons as boxes are needed, got {got}")
        size, spans = sizes[int(entry["image_id"])], whole(entry["phrase"])
        image = {"file_name": f"{entry['image_id']}.jpg", "height": size["height"], "width": size["width"]}
        image_id = made.image(image, entry["phrase"], dataset_name="phrasecut", original_id=entry["image_id"], task_id=entry["task_id"],
                              tokens_positive_eval=[[list(s) for s in spans]] if entry["instance_boxes"] else [])  # fmt: skip
        for box, polygons in zip(entry["instance_boxes"], entry["Polygons"]):
            made.box(image_id, box, spans, segmentation=[[float(v) for point in polygon for v in point] for polygon in polygons])
    return made.content("PhraseCut")


def lvis_modulation(lvis: Mapping, *, keep: Iterable[int] | None = None, clean: Callable[[str], str]) -> dict:
    """Return LVIS as captions: for each image a row of each class in it (all its boxes), and a row without boxes of each class known to be absent.

    `keep`: ids of the images to take (`lvis_subset`), None: all. `clean`: class name -> caption.
    """
    for part, fields in (("images", ("id", "coco_url", "height", "width", "neg_category_ids")), ("annotations", ("image_id", "category_id", "bbox")),
                         ("categories", ("id", "name"))):  # fmt: skip
        published_entries(lvis.get(part), fields, f"LVIS's {part}")
    names, made = {c["id"]: clean(c["name"]) for c in lvis["categories"]}, _Builder()
    kept = None if keep is None else set(keep)
    of_image: dict[int, dict[int, list[dict]]] = {}
    for annotation in lvis["annotations"]:
        of_image.setdefault(annotation["image_id"], {}).setdefault(annotation["category_id"], []).append(annotation)
    for image in lvis["images"]:
        if kept is not None and image["id"] not in kept:
            continue
        row = {"file_name": "/".join(image["coco_url"].split("/")[-2:]), "height": image["height"], "width": image["width"]}
        for category, annotations in of_image.get(image["id"], {}).items():
            image_id = made.image(row, names[category], dataset_name="lvis", original_id=image["id"], category_id=category)
            for a in annotations:
                made.box(image_id, a["bbox"], whole(names[category]))
        for category in image["neg_category_ids"]:
            made.image(row, names[category], dataset_name="lvis", original_id=image["id"], category_id=category)
    return made.content("LVIS modulation")


QUESTION_TYPES = ("obj", "attr", "rel", "global", "cat")


def gqa(questions: Mapping[str, Mapping], scene_graphs: Mapping[str, Mapping] | None, answer_ids: Mapping[str, Mapping[str, int]] | None = None, *,
        size_of: Callable[[str], tuple[int, int]] | None = None) -> dict:  # fmt: skip
    """Return GQA: a question a row, with the boxes of the things that it names, selects or is answered with (`_things`).

    `questions`, `scene_graphs`: SPLIT_balanced_questions.json, SPLIT_sceneGraphs.json. Test splits have no scene graphs: None, then rows have no boxes and
    `size_of` gives (height, width) of an image's id. `answer_ids`: gqa_answer2id_by_type.json of the release, for the answers' indices (an answer that it
    lacks is its "unknown"); None leaves answers out (the pretraining set). KeyError for an image or a thing that the scene graphs lack.
    """
    if scene_graphs is None and size_of is None:
        raise ValueError("without scene graphs the sizes of images must be told: give size_of")
    made = _Builder()
    published_entries(list(questions.values()), ("imageId", "question", *(("annotations",) if scene_graphs is not None else ())), "GQA's questions")
    for number, question in questions.items():
        image_id, text = question["imageId"], question["question"]
        if scene_graphs is not None and image_id not in scene_graphs:
            raise KeyError(f"question {number}: its image {image_id} must be in the scene graphs, it is not; are both files of one split?")
        graph = None if scene_graphs is None else scene_graphs[image_id]
        height, width = size_of(image_id) if graph is None else (graph["height"], graph["width"])
        more = {} if answer_ids is None else {"answers": _answers(question, answer_ids, number)}
        row = made.image({"file_name": f"{image_id}.jpg", "height": height, "width": width}, text, dataset_name="gqa", original_id=image_id,
                         questionId=number, **more)  # fmt: skip
        for span, thing in _things(question, number) if graph is not None else ():
            if thing not in graph["objects"]:
                raise KeyError(f"question {number}: its thing {thing} must be in the scene graph of image {image_id}, it is not; are both files of one split?")
            box = graph["objects"][thing]
            made.box(row, (box["x"], box["y"], box["w"], box["h"]), [span])
    return made.content("GQA")


def _things(question: Mapping, number: str) -> list[tuple[Span, str]]:
    """Return the spans of a question with the things that they mean, as MDETR's script takes them.

    The question's own annotations; a thing that its program selects, "car (123)", where its name stands; a thing that is the answer, for "what", "who" or
    "where". Two slips of the script are not followed: of a name of several words it looks for the first alone, and a name that is not there
    gets the wrong characters.
    """
    text, notes = question["question"], question["annotations"]
    found = [(_word_span(text, words, number), thing) for words, thing in notes["question"].items()]
    named = {thing for _, thing in found}
    for step in question.get("semantic", ()):
        selected = re.match(r"\s*(.*?)\s*\((\d+)", step["argument"]) if step["operation"] == "select" else None
        place = whole_words(selected[1]).search(text) if selected and selected[1] and selected[2] not in named else None
        if place:
            found.append((place.span(), selected[2]))
    named = {thing for _, thing in found}
    asked = next(filter(None, (whole_words(word).search(text) for word in ("what", "who", "where"))), None)
    return found + [(asked.span(), thing) for thing in notes.get("answer", {}).values() if asked and thing not in named]


def _answers(question: Mapping, ids: Mapping[str, Mapping[str, int]], number: str) -> dict[str, int]:
    if "answer" not in question or "types" not in question:
        raise ValueError(f"question {number}: must have an answer and types, got {sorted(question)}; leave the answers out for splits that hide them")
    kind, answer = question["types"]["semantic"], question["answer"]
    if kind not in QUESTION_TYPES:
        raise ValueError(f"a question's semantic type must be one of {', '.join(QUESTION_TYPES)}, got {kind!r}")
    of_kind = ids.get(f"answer_{kind}", {})
    if answer not in of_kind and "unknown" not in of_kind:
        known = f"it has {len(of_kind)} answers; is it gqa_answer2id_by_type.json?"
        raise ValueError(f'question {number}: answer_{kind} must know {answer!r} or "unknown", {known}')
    return {"type": QUESTION_TYPES.index(kind), kind: of_kind.get(answer, of_kind.get("unknown"))}


def _word_span(text: str, words: str, number: str) -> Span:
    """Return the characters of the words "3" or "3:5" (half-open) of a question, without punctuation at their ends."""
    found = [m.span() for m in re.finditer(r"\S+", text)]
    first, _, last = words.partition(":")
    begin, end = int(first), int(last) if last else int(first) + 1
    if not 0 <= begin < end <= len(found):
        raise ValueError(f"question {number}: the words {words!r} must lie in 0..{len(found)} of {text!r}")
    b, e = found[begin][0], found[end - 1][1]
    while b < e and not text[b].isalnum():
        b += 1
    while e > b and not text[e - 1].isalnum():
        e -= 1
    return (b, e)


def coco_captions(captions: Mapping, instances: Mapping, find: Callable[[str, str], list[Span]]) -> dict:
    """Return COCO's captions with the boxes of the classes that their words name; captions that name none are left out.

    `find(caption, class name)` gives the spans of the class's mentions (`text.mentions.mentions_of`). Boxes of a class are all boxes of
    it: which of two dogs "a dog" means is not known.
    """
    images, names, made = {i["id"]: i for i in instances["images"]}, {c["id"]: c["name"] for c in instances["categories"]}, _Builder()
    of_image: dict[int, dict[int, list[dict]]] = {}
    for a in instances["annotations"]:
        if not a.get("iscrowd"):
            of_image.setdefault(a["image_id"], {}).setdefault(a["category_id"], []).append(a)
    for entry in captions["annotations"]:
        text = " ".join(entry["caption"].split())
        said = {c: spans for c in of_image.get(entry["image_id"], {}) if (spans := find(text, names[c]))}
        if not said or entry["image_id"] not in images:
            continue
        image_id = made.image(images[entry["image_id"]], text, dataset_name="coco captions", original_id=entry["image_id"],
                              tokens_positive_eval=[[list(s)] for spans in said.values() for s in spans])  # fmt: skip
        for c, spans in said.items():
            for a in of_image[entry["image_id"]][c]:
                made.box(image_id, a["bbox"], spans, segmentation=a["segmentation"])
    return made.content("COCO captions")
