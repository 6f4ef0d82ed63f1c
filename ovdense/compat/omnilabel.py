"""OmniLabel's annotation file (arXiv 2304.11463; keys as in the omnilabeltools README), for the data set and the metric.

images {id, file_name}; descriptions {id, text, image_ids, anno_info: {type}}; annotations {id, image_id, bbox (x, y, w, h),
description_ids}, which test splits do not have. An image is asked for the descriptions whose image_ids list it.
"""
from dataclasses import dataclass
from pathlib import Path

from ovdense.compat.described import entries_of, one_name_each, read_object, require_box, require_unique

_KINDS = {"object_category": False, "object_description": True}


@dataclass(frozen=True, kw_only=True)
class OmniLabelDescription:
    """One description: `name` is its class (see `class_name_of`; several may share one); free-form, or the name of a category."""

    id: int
    text: str
    name: str
    is_free: bool


@dataclass(frozen=True, kw_only=True)
class OmniLabelFile:
    """The file: `asked[image id]` are the ids of its label space, in the order of the file; `annotations` None in a test split."""

    path: Path
    sha256: str
    images: tuple[dict, ...]
    descriptions: dict[int, OmniLabelDescription]
    asked: dict[int, tuple[int, ...]]
    annotations: tuple[dict, ...] | None


def read_omnilabel(path: Path) -> OmniLabelFile:
    """Return the checked file; ValueError names file and entry.

    As in the official tool, images that `image_ids` name but the file does not have are left out, and so are, for an
    annotation, descriptions that its image is not asked for.
    """
    content, sha256 = read_object(path)
    images = entries_of(content, "images", path, {"id": int, "file_name": str})
    require_unique(images, "images", path)
    raw = entries_of(content, "descriptions", path, {"id": int, "text": str, "image_ids": list, "anno_info": dict})
    require_unique(raw, "descriptions", path)
    for d in raw:
        kind = d["anno_info"].get("type")
        if not isinstance(kind, str) or kind not in _KINDS:
            raise ValueError(f"{path}: description {d['id']}: anno_info.type must be one of {', '.join(_KINDS)}, got {str(kind)[:80]!r}")
        if not all(isinstance(i, int) for i in d["image_ids"]):
            raise ValueError(f"{path}: description {d['id']}: image_ids must be integers, got {str(d['image_ids'])[:80]}")
    names = one_name_each({d["id"]: d["text"] for d in raw}, path, "description")
    asked: dict[int, list[int]] = {i["id"]: [] for i in images}
    for d in raw:
        for image_id in dict.fromkeys(d["image_ids"]):
            if image_id in asked:
                asked[image_id].append(d["id"])
    return OmniLabelFile(
        path=path,
        sha256=sha256,
        images=tuple(images),
        descriptions={
            d["id"]: OmniLabelDescription(id=d["id"], text=d["text"], name=names[d["id"]], is_free=_KINDS[d["anno_info"]["type"]]) for d in raw
        },
        asked={i: tuple(ids) for i, ids in asked.items()},
        annotations=_annotations(content, path, asked, frozenset(names)) if "annotations" in content else None,
    )


def _annotations(content: dict, path: Path, asked: dict[int, list[int]], known: frozenset[int]) -> tuple[dict, ...]:
    out = []
    spaces = {i: frozenset(ids) for i, ids in asked.items()}
    for a in entries_of(content, "annotations", path, {"id": int, "image_id": int, "bbox": list, "description_ids": list}):
        if a["image_id"] not in spaces:
            raise ValueError(f"{path}: annotation {a['id']}: image_id {a['image_id']!r} is not among the {len(spaces)} images of the file")
        unknown = [d for d in a["description_ids"] if not isinstance(d, int) or d not in known]
        if unknown:
            raise ValueError(f"{path}: annotation {a['id']}: description_ids names {repr(unknown[0])[:40]}, which is not among the {len(known)} descriptions")
        require_box(a, path)
        out.append({**a, "description_ids": [d for d in a["description_ids"] if d in spaces[a["image_id"]]]})
    return tuple(out)
