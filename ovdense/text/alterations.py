"""One class, asked for in four ways: as described, altered in one attribute, with another class's description, reordered.

What a detector that reads descriptions must tell apart (arXiv 2306.14060 calls it context sensitivity). The noun and the
kind always stay; only the parts of the description change. Pure string work; draws come from a Generator.
"""
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ovdense.structures import ClassEntry, Vocabulary
from ovdense.text.prompts import split_description

PART = "part of the text"


@dataclass(frozen=True, kw_only=True)
class DescribedClass:
    """A class and the `parts` of its description; `attributes` in order ({} where the data gives none), some of them unspoken."""

    entry: ClassEntry
    parts: tuple[str, ...]
    attributes: Mapping[str, str]

    @property
    def spoken(self) -> dict[str, str]:
        """Return the attributes whose value is a part of the description."""
        return {a: v for a, v in self.attributes.items() if v in self.parts}


@dataclass(frozen=True, kw_only=True)
class ContextQueries:
    """The four ways; None where there is none. `attribute`: what was altered."""

    kept: ClassEntry
    altered: ClassEntry | None
    swapped: ClassEntry | None
    control: ClassEntry | None
    attribute: str | None


def described_classes(vocabulary: Vocabulary, categories: Sequence[Mapping]) -> tuple[DescribedClass, ...]:
    """Return the classes with what their categories (matched by name) say in "attributes", such as {"colour": "red"}.

    Attributes count where the description is made of their values; else, and where there are none, parts are just text.
    """
    said = {c["name"]: c.get("attributes") or {} for c in categories}
    out = []
    for entry in vocabulary:
        parts = tuple(split_description(entry.descriptions[0])) if entry.descriptions else ()
        attributes = dict(said.get(entry.name, {}))
        fits = len(set(parts)) == len(parts) and set(parts) <= set(attributes.values())
        out.append(DescribedClass(entry=entry, parts=parts, attributes=attributes if fits else {}))
    return tuple(out)


def is_true_of(spoken: Mapping[str, str], noun: str, other: DescribedClass) -> bool:
    """Return whether something of class `other` is a `noun` with these attributes; what is not spoken may be anything."""
    return noun == other.entry.noun and all(other.attributes.get(a) == v for a, v in spoken.items())


def _pick(rng: np.random.Generator, options: Sequence):
    return options[int(rng.integers(len(options)))]


def _said_as(entry: ClassEntry, parts: Sequence[str]) -> ClassEntry:
    """Return the class with another description, under a name that tells it from others of its noun."""
    label = f"{entry.noun.replace(' ', '_')}_({'_'.join(parts)})".replace(" ", "_")
    return replace(entry, name=label, descriptions=("; ".join(parts),))


def reordered(rng: np.random.Generator, own: DescribedClass) -> ClassEntry | None:
    """Return the class with the parts of its description in another order; None with fewer than two different parts."""
    if len(set(own.parts)) < 2:
        return None
    while True:
        parts = tuple(own.parts[k] for k in rng.permutation(len(own.parts)))
        if parts != own.parts:
            return _said_as(own.entry, parts)


def altered(
    rng: np.random.Generator, own: DescribedClass, classes: Sequence[DescribedClass], present: Collection[int], donors: Sequence[int]
) -> tuple[ClassEntry, str] | None:
    """Return the class with exactly one attribute changed, so that the description is true of nothing present, and which it is.

    `present` and `donors` are indices of `classes`: what is in the image, and those that other parts may be taken of.
    With attributes, first the attribute is drawn, then its new value among all that some class speaks; saying less is no
    change. Without, one part of two or more is replaced by a part of a donor that describes nothing present. None where there
    is no way.
    """
    if own.attributes:
        values: dict[str, list[tuple[str, ...]]] = {}
        for attribute, value in {(a, v): None for c in classes for a, v in c.spoken.items()}:
            if attribute not in own.attributes or value == own.attributes[attribute]:
                continue
            spoken = own.spoken | {attribute: value}
            if not any(is_true_of(spoken, own.entry.noun, classes[k]) for k in present):
                old = own.spoken.get(attribute)
                parts = (*own.parts, value) if old is None else tuple(value if p == old else p for p in own.parts)
                values.setdefault(attribute, []).append(parts)
        if not values:
            return None
        attribute = _pick(rng, sorted(values))
        return _said_as(own.entry, _pick(rng, values[attribute])), attribute
    taken = {p.casefold() for k in present for p in classes[k].parts} | {p.casefold() for p in own.parts}
    parts = list(dict.fromkeys(p for k in donors for p in classes[k].parts if p.casefold() not in taken))
    if len(own.parts) < 2 or not parts:
        return None
    place = int(rng.integers(len(own.parts)))
    new = _pick(rng, parts)
    return _said_as(own.entry, [new if n == place else p for n, p in enumerate(own.parts)]), PART


def swapped(
    rng: np.random.Generator, own: DescribedClass, classes: Sequence[DescribedClass], present: Collection[int], donors: Sequence[int]
) -> ClassEntry | None:
    """Return the class with the description of a donor, so that it is true of nothing present; None where there is none.

    With attributes, donors that differ in two or more of them come first. Without, nothing of the donor's description may
    describe what is present.
    """
    if not own.attributes:
        taken = {p.casefold() for k in present for p in classes[k].parts} | {p.casefold() for p in own.parts}
        found = [classes[k].parts for k in donors if classes[k].parts and taken.isdisjoint(p.casefold() for p in classes[k].parts)]
        return _said_as(own.entry, _pick(rng, found)) if found else None
    fitting = [
        classes[k] for k in donors
        if classes[k].spoken and not any(is_true_of(classes[k].spoken, own.entry.noun, c) for c in (own, *(classes[p] for p in present)))
    ]  # fmt: skip
    far = [c for c in fitting if sum(own.attributes.get(a) != v for a, v in c.attributes.items()) >= 2]
    return _said_as(own.entry, _pick(rng, far or fitting).parts) if fitting else None


def context_queries(
    rng: np.random.Generator, label: int, classes: Sequence[DescribedClass], present: Collection[int], absent: Collection[int] = ()
) -> ContextQueries:
    """Return the four ways to ask for class `label` in an image with the classes `present`; `absent` are known not to be in it.

    Other classes' words come from absent ones (where none is known, from those that are not present), of the same kind
    if there are such.
    """
    own = classes[label]
    pool = sorted(set(absent) - set(present)) or [k for k in range(len(classes)) if k not in present]
    alike = [k for k in pool if own.entry.kind and classes[k].entry.kind == own.entry.kind]
    donors = alike or pool
    change = altered(rng, own, classes, present, donors)
    return ContextQueries(
        kept=own.entry,
        altered=change[0] if change else None,
        swapped=swapped(rng, own, classes, present, donors),
        control=reordered(rng, own),
        attribute=change[1] if change else None,
    )
