"""Captions for the embedded scenes of shapes: several phrases each, some told by their noun, some only by an attribute or a relation.

Made from the scenes' own annotations on first use, in MDETR's form (`compat.grounding`): "the red ring, a star and the cube left of a blue
arrow". The scenes themselves are not touched. Of each phrase, `phrase_types` says what tells its thing apart: "noun" (no other
thing has it), "attribute" or "relation" (another one has the same noun; the words before and after it decide).
"""
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from ovdense.compat.atomic import replace_file
from ovdense.compat.paths import cache_root
from ovdense.data.shapes import ensure_shapes
from ovdense.data.shapes_scene import SPLIT_CODES

VERSION = 1
CAPTIONS = {"train": 3, "val": 2}
NUM_MENTIONS = (3, 5)
RELATION_SHARE = 0.45
EXTRA_SHARE = 0.4
_ORDER = ("size", "colour", "texture")


@dataclass(frozen=True, kw_only=True)
class Thing:
    """One object of a scene: its noun, its attributes, what is true of it relative to others, and its annotation."""

    noun: str
    attributes: Mapping[str, str]
    relations: tuple[str, ...]
    annotation: dict

    def said(self, attributes: Sequence[str], article: str = "the") -> str:
        """Return the phrase with these attributes: "the red ring with two handles"."""
        words = [self.attributes[a] for a in _ORDER if a in attributes]
        tail = [self.attributes["part"]] if "part" in attributes else []
        first = [*words, self.noun][0]
        return " ".join([article if article == "the" else "an" if first[0] in "aeiou" else "a", *words, self.noun, *tail])


@dataclass(frozen=True, kw_only=True)
class Mention:
    """A part of a caption: `text`, and the phrases in it as (begin, end, index of the thing, type)."""

    text: str
    phrases: tuple[tuple[int, int, int, str], ...]


def telling_attributes(things: Sequence[Thing], n: int) -> list[tuple[str, ...]]:
    """Return the smallest sets of spoken attributes that no other thing of the same noun shares with thing `n`; [()] if there is none other."""
    mine, others = things[n], [t for m, t in enumerate(things) if m != n and t.noun == things[n].noun]
    spoken = [a for a, value in mine.attributes.items() if value != "none"]
    for size in range(len(spoken) + 1):
        found = [chosen for chosen in combinations(spoken, size) if not any(all(o.attributes[a] == mine.attributes[a] for a in chosen) for o in others)]
        if found:
            return found
    return []


def telling_relations(things: Sequence[Thing], n: int) -> list[str]:
    """Return the relations, to a thing of another noun, that are true of thing `n` and of no other one of its noun."""
    mine = things[n]
    others = {r for m, t in enumerate(things) if m != n and t.noun == mine.noun for r in t.relations}
    return [r for r in mine.relations if r not in others and r.split()[-1] != mine.noun]


def _landmark(things: Sequence[Thing], relation: str) -> int:
    *_, colour, noun = relation.split()
    return next(n for n, t in enumerate(things) if (t.attributes["colour"], t.noun) == (colour, noun))


def mention(things: Sequence[Thing], n: int, rng: np.random.Generator) -> Mention | None:
    """Return a phrase that only thing `n` fits; None if no attribute and no relation tells it apart."""
    thing = things[n]
    alone = sum(t.noun == thing.noun for t in things) == 1
    relations = [] if alone else telling_relations(things, n)
    if relations and rng.random() < RELATION_SHARE:
        relation = relations[int(rng.integers(len(relations)))]
        head, other = thing.said(()), _landmark(things, relation)
        text = f"{head} {relation}"
        landmark = " ".join(relation.split()[-3:])
        kind = "noun" if sum(t.noun == things[other].noun for t in things) == 1 else "attribute"
        return Mention(text=text, phrases=((0, len(head), n, "relation"), (len(text) - len(landmark), len(text), other, kind)))
    options = telling_attributes(things, n)
    if not options:
        return None
    chosen = set(options[int(rng.integers(len(options)))])
    if rng.random() < EXTRA_SHARE:
        spare = [a for a, value in thing.attributes.items() if value != "none" and a not in chosen]
        chosen |= set(spare[:1] if not spare else [spare[int(rng.integers(len(spare)))]])
    text = thing.said(tuple(chosen), "the" if rng.random() < 0.5 else "a")
    return Mention(text=text, phrases=((0, len(text), n, "noun" if alone else "attribute"),))


def caption_of(things: Sequence[Thing], rng: np.random.Generator) -> tuple[str, list[tuple[int, int, int, str]]]:
    """Return a caption and its phrases as (begin, end, index of the thing, type), in their order."""
    count = int(rng.integers(NUM_MENTIONS[0], NUM_MENTIONS[1] + 1))
    parts: list[Mention] = []
    for n in rng.permutation(len(things)).tolist():
        if len(parts) == count:
            break
        if any(n == m for part in parts for _, _, m, _ in part.phrases):
            continue
        said = mention(things, n, rng)
        if said is not None and not any({m for *_, m, _ in said.phrases} & {m for *_, m, _ in part.phrases} for part in parts):
            parts.append(said)
    caption, phrases = "", []
    for k, part in enumerate(parts):
        caption += "" if k == 0 else " and " if k == len(parts) - 1 else ", "
        phrases += [(begin + len(caption), end + len(caption), n, kind) for begin, end, n, kind in part.phrases]
        caption += part.text
    return caption, phrases


def _things(annotations: Sequence[dict], categories: Mapping[int, dict]) -> list[Thing]:
    return [Thing(noun=a["noun"], attributes=categories[a["category_id"]]["attributes"], relations=tuple(a["relations"]), annotation=a) for a in annotations]


def grounding_file(content: Mapping, split: str, seed: int) -> dict:
    """Return the content of the captions' file from the content of the scenes' file."""
    categories = {c["id"]: c for c in content["categories"]}
    of_image: dict[int, list[dict]] = {}
    for annotation in content["annotations"]:
        of_image.setdefault(annotation["image_id"], []).append(annotation)
    images, annotations = [], []
    for image in content["images"]:
        things = _things(of_image.get(image["id"], []), categories)
        for k in range(CAPTIONS[split]):
            caption, phrases = caption_of(things, np.random.default_rng([seed, SPLIT_CODES[split], image["id"], k, 1]))
            if not phrases:
                continue
            number = len(images) + 1
            images.append({
                "id": number, "file_name": image["file_name"], "height": image["height"], "width": image["width"], "caption": caption,
                "original_img_id": image["id"], "tokens_positive_eval": [[[b, e]] for b, e, *_ in phrases], "phrase_types": [[kind] for *_, kind in phrases],
            })
            for n in sorted({n for *_, n, _ in phrases}):
                thing = things[n].annotation
                annotations.append({
                    "id": len(annotations) + 1, "image_id": number, "bbox": thing["bbox"], "area": thing["area"], "iscrowd": 0,
                    "segmentation": thing["segmentation"], "category_id": 1, "tokens_positive": [[b, e] for b, e, m, _ in phrases if m == n],
                })
    info = {"description": f"ovdense captions of shapes v{VERSION}, seed {seed}, {split}"}
    return {"info": info, "images": images, "annotations": annotations, "categories": [{"id": 1, "name": "object"}]}


def ensure_shape_captions(split: str, seed: int = 0, root: str | Path | None = None) -> tuple[Path, Path]:
    """Return (captions' file, folder of the images); both are made first where they are not there. `root`: see `ensure_shapes`."""
    if split not in CAPTIONS:
        raise ValueError(f"split must be one of {', '.join(CAPTIONS)}, got {split!r}")
    scenes = ensure_shapes(seed, root)
    path = Path(root or cache_root() / "shapes") / f"captions-v{VERSION}-seed{seed}" / f"shapes_captions_{split}.json"
    if not path.is_file():
        made = grounding_file(json.loads((scenes / "annotations" / f"shapes_{split}.json").read_text()), split, seed)
        replace_file(path, json.dumps(made))
    return path, scenes / "images"
