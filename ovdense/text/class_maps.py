"""Class maps and splits of data sets as data files: which class a pixel value stands for, what merges into what, what counts as unseen.

A map's values are all listed, those that do not count too: another value is an error, not a wrong class. So a map that is one off,
or of another release of the data set, is found with the first image.
"""
import difflib
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ovdense.structures import Vocabulary
from ovdense.text.reading import Source, read_json
from ovdense.text.vocabulary import load_vocabulary

NOT_COUNTED = 255
_UNLISTED = -1
_MAPS, _SPLITS = (Path(__file__).parent / folder for folder in ("class_maps", "class_splits"))


@dataclass(frozen=True, kw_only=True)
class ClassMap:
    """Labels of one kind to classes of `target`.

    `table` (V,) int64: the class index of label v, NOT_COUNTED (255) where the label does not count, -1 where it is unlisted.
    `source` is the vocabulary whose class indices are the labels; None when they are pixel values of label files.
    """

    name: str
    target: Vocabulary
    table: np.ndarray
    source: Vocabulary | None = None

    def __post_init__(self) -> None:
        listed = self.table[(self.table != NOT_COUNTED) & (self.table != _UNLISTED)]
        if len(self.target) > NOT_COUNTED:
            raise ValueError(f"{self.name}: a class map must have at most {NOT_COUNTED} classes, got {len(self.target)}; {NOT_COUNTED} means: not counted")
        if listed.size and not 0 <= listed.min() <= listed.max() < len(self.target):
            raise ValueError(f"{self.name}: classes must lie in 0..{len(self.target) - 1}, got {listed.min()}..{listed.max()}")

    def __call__(self, labels: np.ndarray) -> np.ndarray:
        """Return int64 class indices of integer `labels` of any shape, 255 where they do not count; ValueError for unlisted ones.

        255 stays 255 where the labels are class indices of `source`.
        """
        labels = np.asarray(labels)
        if labels.dtype.kind not in "iu":
            raise ValueError(f"{self.name}: labels must be integers, got {labels.dtype}")
        if not labels.size:
            return labels.astype(np.int64)
        low, high = int(labels.min()), int(labels.max())
        if 0 <= low and high < len(self.table):
            mapped = self.table[labels]
            if (mapped != _UNLISTED).all():
                return mapped
        self._raise_unlisted(labels)

    def _raise_unlisted(self, labels: np.ndarray) -> None:
        values = np.unique(labels).tolist()
        unlisted = [v for v in values if not 0 <= v < len(self.table) or self.table[v] == _UNLISTED]
        kind = "class indices" if self.source is not None else "pixel values"
        listed = np.flatnonzero(self.table != _UNLISTED)
        raise ValueError(
            f"{self.name}: {kind} must be among the {len(listed)} of this map ({_ranges(listed.tolist())}), got {unlisted[:8]}"
            f"{', ...' if len(unlisted) > 8 else ''} beside {len(values) - len(unlisted)} that are; is it the map of this form of the labels "
            f"(ids, train ids and PNG values differ)? Maps with these classes: {', '.join(maps_to(self.target)) or 'none'}"
        )

    def fingerprint(self) -> str:
        """Return a hash of the table and the target's names."""
        return hashlib.sha256(self.table.astype("<i8").tobytes() + "\n".join(self.target.names).encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class ClassSplit:
    """Names of the classes that were `seen` (base) in training and of those that were not (`unseen`, novel); others are in neither."""

    name: str
    seen: tuple[str, ...]
    unseen: tuple[str, ...]

    def __post_init__(self) -> None:
        both = sorted(set(self.seen) & set(self.unseen))
        if both or not self.seen or not self.unseen:
            got = f"{len(self.seen)} and {len(self.unseen)}, in both: {both[:5]}"
            raise ValueError(f"split {self.name}: seen and unseen classes must both be there and differ, got {got}")

    def indices(self, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return the indices in `names` of the seen and of the unseen classes, in order; KeyError for names that are missing."""
        place = {n: k for k, n in enumerate(names)}
        missing = [n for n in (*self.seen, *self.unseen) if n not in place]
        if missing:
            near = [(n, difflib.get_close_matches(n, names, n=1)) for n in missing[:5]]
            shown = ", ".join(f"{n!r}" + (f" (near {m[0]!r})" if m else "") for n, m in near)
            raise KeyError(f"split {self.name}: each of its {len(self.seen) + len(self.unseen)} classes must be evaluated, {len(missing)} are not: {shown}")
        return tuple(np.array(sorted(place[n] for n in group), dtype=np.int64) for group in (self.seen, self.unseen))


def class_map_names() -> tuple[str, ...]:
    """Return the names of the maps that `load_class_map` has."""
    return tuple(sorted(p.stem for p in _MAPS.glob("*.json")))


def class_split_names() -> tuple[str, ...]:
    """Return the names of the splits that `load_class_split` has."""
    return tuple(sorted(p.stem for p in _SPLITS.glob("*.json")))


def maps_to(target: Vocabulary) -> tuple[str, ...]:
    """Return the names of the built-in maps to the classes of `target`."""
    return tuple(n for n in class_map_names() if load_class_map(n).target.names == target.names)


def load_class_map(source: str | Path | Mapping[str, Any] | ClassMap) -> ClassMap:
    """Return a class map: built in by name (`class_map_names`), from a JSON file, or from its content.

    The content is {"target": a vocabulary (see `load_vocabulary`), "ignored": [labels that do not count]} and one of
    - "first": v, so that label v + k is class k;
    - "values": {label: class name};
    - "from": a vocabulary, "classes": {its class name: class name, or null where it does not count}.
    ValueError for names that are not in the vocabularies, and for classes of "from" that are left out.
    """
    if isinstance(source, ClassMap):
        return source
    if isinstance(source, Mapping):
        return _class_map("class map", dict(source), Source("class map"))
    if str(source) in class_map_names():
        return _builtin_map(str(source))
    path = _existing(source, "class map", class_map_names())
    return _class_map(path.stem, read_json(path, Source(str(path))), Source(str(path)))


def load_class_split(source: str | Path | Mapping[str, Any] | ClassSplit) -> ClassSplit:
    """Return a split: built in by name (`class_split_names`), from a JSON file, or from its content.

    The content is {"vocabulary": see `load_vocabulary`, "unseen": names or "unseen_frequency": "r"}, and "seen": names, by default all others.
    """
    if isinstance(source, ClassSplit):
        return source
    if isinstance(source, Mapping):
        return _class_split("class split", dict(source), Source("class split"))
    path = _SPLITS / f"{source}.json" if str(source) in class_split_names() else _existing(source, "class split", class_split_names())
    return _class_split(path.stem, read_json(path, Source(str(path))), Source(str(path)))


@cache
def _builtin_map(name: str) -> ClassMap:
    path = _MAPS / f"{name}.json"
    return _class_map(name, read_json(path, Source(str(path))), Source(str(path)))


def _existing(source: str | Path, what: str, known: Sequence[str]) -> Path:
    path = Path(source).expanduser()
    if not path.is_file():
        near = difflib.get_close_matches(str(source), known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise FileNotFoundError(f"a {what} must be a JSON file or one of {', '.join(known)}, got {str(source)!r}; {hint}give an existing path")
    return path


def _class_map(name: str, content: Any, where: Source) -> ClassMap:
    kinds = [k for k in ("first", "values", "classes") if isinstance(content, dict) and k in content]
    if len(kinds) != 1 or "target" not in content:
        got = sorted(content) if isinstance(content, dict) else type(content).__name__
        raise where.error(f"a class map must have 'target' and one of 'first', 'values', 'classes', got {got}")
    target, source = load_vocabulary(content["target"]), None
    if kinds == ["first"]:
        pairs = {content["first"] + k: k for k in range(len(target))}
    elif kinds == ["values"]:
        pairs = {int(v): _index(target, n, where) for v, n in content["values"].items()}
    else:
        source = load_vocabulary(content["from"])
        left = [n for n in source.names if n not in content["classes"]]
        if left:
            raise where.error(
                f"each of the {len(source)} classes of 'from' must be mapped, {len(left)} are not, such as {left[0]!r}; give null where it does not count"
            )
        pairs = {_index(source, a, where): NOT_COUNTED if b is None else _index(target, b, where) for a, b in content["classes"].items()}
    ignored = [int(v) for v in content.get("ignored", ())] + ([NOT_COUNTED] if source is not None else [])
    clash = sorted(set(ignored) & set(pairs))
    if clash:
        raise where.error(f"a label must either count or be ignored, both: {clash[:5]}")
    if min([*pairs, *ignored]) < 0:
        raise where.error(f"labels must be at least 0, got {min([*pairs, *ignored])}")
    table = np.full(max([*pairs, *ignored]) + 1, _UNLISTED, dtype=np.int64)
    table[list(pairs)] = list(pairs.values())
    table[ignored] = NOT_COUNTED
    table.setflags(write=False)
    return ClassMap(name=name, target=target, table=table, source=source)


def _class_split(name: str, content: Any, where: Source) -> ClassSplit:
    if not isinstance(content, dict) or "vocabulary" not in content or not {"unseen", "unseen_frequency"} & content.keys():
        raise where.error("a class split must have 'vocabulary' and 'unseen' (names) or 'unseen_frequency'")
    vocabulary = load_vocabulary(content["vocabulary"])
    unseen = tuple(content["unseen"]) if "unseen" in content else tuple(e.name for e in vocabulary if e.frequency == content["unseen_frequency"])
    seen = tuple(content["seen"]) if "seen" in content else tuple(n for n in vocabulary.names if n not in set(unseen))
    for n in (*seen, *unseen):
        _index(vocabulary, n, where)
    return ClassSplit(name=name, seen=seen, unseen=unseen)


def _index(vocabulary: Vocabulary, name: str, where: Source) -> int:
    try:
        return vocabulary.index(name)
    except KeyError as error:
        raise where.error(error.args[0]) from None


def _ranges(values: Sequence[int]) -> str:
    """Return sorted integers as "0-20, 255", at most six runs."""
    if not values:
        return "none"
    breaks = [n for n in range(1, len(values)) if values[n] != values[n - 1] + 1]
    runs = [values[a:b] for a, b in zip([0, *breaks], [*breaks, len(values)])]
    shown = ", ".join(str(r[0]) if len(r) == 1 else f"{r[0]}-{r[-1]}" for r in runs[:6])
    return shown + (", ..." if len(runs) > 6 else "")
