"""A class with attributes as a person would say it: "large red ring with a tail"."""
from collections.abc import Collection

from ovdense.structures import ClassEntry


def attribute_phrase(entry: ClassEntry, silent: Collection[str] = ()) -> str:
    """Return the class's noun with the words of its first description, without those in `silent`.

    Words of a description stand between semicolons, as in "large; red; with a tail"; those that begin with "with" follow the noun. A class
    whose description has no semicolon, or that has none, is its noun.
    """
    words = [w.strip() for w in entry.descriptions[0].split(";")] if entry.descriptions and ";" in entry.descriptions[0] else []
    words = [w for w in words if w and w not in silent]
    before, after = ([w for w in words if w.startswith("with ") == follows] for follows in (False, True))
    return " ".join([*before, entry.noun, *after])
