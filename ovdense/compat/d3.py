"""D3's annotations (arXiv 2307.12813; keys as in the d-cube toolkit), for the data set and the metric.

Boxes are in a COCO file, whose categories are the descriptions (`name` is the text, ids as in sentences.pkl). Which
descriptions an image is asked for, and which speak of an absence, is in three files of d3_pkl.zip: sentences.pkl
{id: {is_negative, ..}}, images.pkl {id: {group_id, ..}}, groups.pkl {id: {inner_sent_id, ..}}. They are pickles: only
plain values are read out of them, and nothing in them can run code.
"""
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ovdense.compat.described import entries_of, one_name_each, read_object, require_box, require_unique

INFO_FILES = ("sentences.pkl", "images.pkl", "groups.pkl")
SCENARIOS = ("intra", "inter")


@dataclass(frozen=True, kw_only=True)
class D3File:
    """The COCO file: `texts[id]` are the descriptions as written, `names[id]` their classes (see `class_name_of`)."""

    path: Path
    sha256: str
    images: tuple[dict, ...]
    texts: dict[int, str]
    names: dict[int, str]
    annotations: tuple[dict, ...]


@dataclass(frozen=True, kw_only=True)
class D3Info:
    """`known`: all description ids; `absence`: those of an absence ("dog without leash"); `asked[image id]`: those of its own group (scenario)."""

    known: frozenset[int]
    absence: frozenset[int]
    asked: dict[int, tuple[int, ...]]


class _PlainUnpickler(pickle.Unpickler):
    """Reads dicts, lists, strings, numbers and numpy's numbers; anything else in the file is refused before it is made."""

    _NUMPY = frozenset({("multiarray", "scalar"), ("multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype")})

    def find_class(self, module: str, name: str) -> object:
        if module.split(".")[0] == "numpy" and (module.split(".")[-1], name) in self._NUMPY:
            return super().find_class(module.replace("numpy.core", "numpy._core"), name)
        raise pickle.UnpicklingError(f"it holds {module}.{name}, which is no plain value")


def _plain_dict(path: Path, fields: Sequence[str]) -> dict[int, dict]:
    """Return {id: entry} of one of INFO_FILES; ValueError names file and entry."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; D3's info folder must hold {', '.join(INFO_FILES)} (of d3_pkl.zip)")
    try:
        with open(path, "rb") as file:
            content = _PlainUnpickler(file).load()
    except Exception as error:  # a broken pickle raises almost anything
        raise ValueError(f"{path}: must be a pickle of plain values: {error}; fetch d3_pkl.zip again") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: must be a dict of entries by id, got {type(content).__name__}")
    for i, entry in content.items():
        missing = [f for f in fields if not isinstance(entry, dict) or f not in entry]
        if missing:
            raise ValueError(f"{path}: entry {i!r}: must have {', '.join(fields)}; {', '.join(missing)} missing")
    return {int(i): entry for i, entry in content.items()}


def read_d3_info(folder: Path) -> D3Info:
    """Return what the three files of `folder` say; FileNotFoundError and ValueError name file and entry."""
    sentences = _plain_dict(folder / "sentences.pkl", ("is_negative",))
    images = _plain_dict(folder / "images.pkl", ("group_id",))
    groups = _plain_dict(folder / "groups.pkl", ("inner_sent_id",))
    for i, image in images.items():
        if image["group_id"] not in groups:
            raise ValueError(f"{folder / 'images.pkl'}: entry {i}: group_id {image['group_id']} is not among the {len(groups)} groups of groups.pkl")
    inner = {g: tuple(sorted({int(s) for s in group["inner_sent_id"]})) for g, group in groups.items()}
    for g, ids in inner.items():
        unknown = [s for s in ids if s not in sentences]
        if unknown:
            raise ValueError(f"{folder / 'groups.pkl'}: entry {g}: inner_sent_id names {unknown[0]}, which sentences.pkl does not have")
    return D3Info(
        known=frozenset(sentences),
        absence=frozenset(i for i, s in sentences.items() if s["is_negative"]),
        asked={i: inner[int(image["group_id"])] for i, image in images.items()},
    )


def read_d3(path: Path) -> D3File:
    """Return the checked COCO file; ValueError names file and entry."""
    content, sha256 = read_object(path)
    images = entries_of(content, "images", path, {"id": int, "file_name": str, "height": int, "width": int})
    require_unique(images, "images", path)
    categories = entries_of(content, "categories", path, {"id": int, "name": str})
    require_unique(categories, "categories", path)
    texts = {c["id"]: c["name"] for c in categories}
    known = {i["id"] for i in images}
    annotations = entries_of(content, "annotations", path, {"id": int, "image_id": int, "category_id": int, "bbox": list})
    for a in annotations:
        if a["image_id"] not in known:
            raise ValueError(f"{path}: annotation {a['id']}: image_id {a['image_id']} is not among the {len(known)} images of the file")
        if a["category_id"] not in texts:
            raise ValueError(f"{path}: annotation {a['id']}: category_id {a['category_id']} is not among the {len(texts)} descriptions of the file")
        require_box(a, path)
    return D3File(
        path=path,
        sha256=sha256,
        images=tuple(images),
        texts=texts,
        names=one_name_each(texts, path, "category"),
        annotations=tuple({k: v for k, v in a.items() if k != "segmentation"} for a in annotations),
    )


def asked_ids(file: D3File, info: D3Info, scenario: str, info_folder: Path) -> dict[int, tuple[int, ...]]:
    """Return for each image of the file the description ids that it is asked for, in the order of ids.

    "intra": those of its own group that the file has (4 or so); "inter": all of the file.
    """
    if scenario not in SCENARIOS:
        raise ValueError(f"scenario must be one of {', '.join(SCENARIOS)}, got {scenario!r}")
    everything = tuple(sorted(file.texts))
    strange = [i for i in everything if i not in info.known]
    if strange:
        raise ValueError(f"{info_folder / 'sentences.pkl'}: must have every description of {file.path}, {len(strange)} are missing, such as {strange[0]}")
    if scenario == "inter":
        return {i["id"]: everything for i in file.images}
    missing = [i["id"] for i in file.images if i["id"] not in info.asked]
    if missing:
        raise ValueError(f"{info_folder / 'images.pkl'}: must have every image of {file.path}, {len(missing)} are missing, such as {missing[0]}")
    return {i["id"]: tuple(s for s in info.asked[i["id"]] if s in file.texts) for i in file.images}
