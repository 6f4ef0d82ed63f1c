"""The prototypes of a vocabulary: which kinds, the rows that a stored file holds of it, and what a bank tells of how it was made."""
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ovdense.structures import ClassEntry
from ovdense.support.kmeans import MEMORY_BYTES
from ovdense.support.prototype_files import load_bank
from ovdense.support.prototypes import KINDS, NUM_PARTS, STUFF_COSINE, ClassRows, PrototypeBank, class_rows
from ovdense.text.vocabulary import plain


@dataclass(frozen=True, kw_only=True)
class PrototypeSettings:
    """Which prototypes a class has: `kinds` among class, instance, part; `num_parts` k-means centres; stuff filtering by `stuff_cosine` (None: off)."""

    kinds: tuple[str, ...] = KINDS
    num_parts: int = NUM_PARTS
    seed: int = 0
    stuff_cosine: float | None = STUFF_COSINE
    memory_bytes: int = MEMORY_BYTES

    def __post_init__(self) -> None:
        if isinstance(self.kinds, str) or not self.kinds or set(self.kinds) - set(KINDS):
            raise ValueError(f"kinds must be a list of one or more of {', '.join(KINDS)}, got {self.kinds!r}")
        if self.num_parts < 0:
            raise ValueError(f"num_parts must be at least 0, got {self.num_parts}")


@dataclass(frozen=True)
class SupportBanks:
    """What a vocabulary gives: a bank an extractor, over the vocabulary's classes without background, and where those stand in it."""

    banks: tuple[PrototypeBank, ...]
    class_indices: tuple[int, ...]
    background_index: int | None
    provenance: Mapping[str, Any] = field(default_factory=dict)


def stored_rows(path: str | Path, entries: Sequence[ClassEntry], extractors: Sequence[str]) -> tuple[dict[str, list[ClassRows]], dict[str, Any]]:
    """Return ({class: its rows, one an extractor}, provenance) of those of `entries` that a file of prototypes holds, by name, noun or synonym.

    `extractors`: fingerprints of the model's; ValueError where the file's rows are of others.
    """
    banks, held, provenance = load_bank(path)
    places = _places(entries, held)
    if places and (provenance.get("extractors") != list(extractors) or len(banks) != len(extractors)):
        raise ValueError(f"{path} was made with other feature extractors than this model's; build it again with this config")
    return {name: [class_rows(bank, k) for bank in banks] for name, k in places.items()}, provenance


def _places(entries: Sequence[ClassEntry], held: Sequence[str]) -> dict[str, int]:
    """Return where classes are among names: by their own, else by one that is the same but for case and underscores, their noun or a synonym."""
    exact, alike = {name: k for k, name in enumerate(held)}, {plain(name): k for k, name in reversed(list(enumerate(held)))}
    found = {}
    for entry in entries:
        places = [exact.get(entry.name), *(alike.get(plain(n)) for n in (entry.name, entry.noun, *entry.synonyms))]
        if any(place is not None for place in places):
            found[entry.name] = next(place for place in places if place is not None)
    return found


def told(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a protocol says of how prototypes were made; {} where it is not known yet."""
    if not provenance:
        return {}
    made = [p for p in (provenance, provenance.get("bank_file")) if p]
    kind = ", ".join(str(p["made_with"].get("kind") or p["made_with"].get("by")) for p in made if "made_with" in p)
    digest = hashlib.sha256(json.dumps([p.get("sets") for p in made]).encode()).hexdigest()[:12]
    first = {"prototypes": ", ".join(provenance.get("kinds", ())), "num_parts": provenance.get("num_parts"), "seed": provenance.get("seed", "not stated")}
    return {**first, "support": kind, "support_sha256": digest, "support_masks": (provenance.get("masks") or {}).get("masks", "not stated")}
