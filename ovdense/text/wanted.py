"""What a user asks for, in any form, as a vocabulary, the names that only compete, and the prompt form. Pure string work."""
import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovdense.structures import ClassEntry, Vocabulary
from ovdense.text.phrases import parse_queries
from ovdense.text.reading import Source, read_json
from ovdense.text.vocabulary import BUILTIN, load_vocabulary, with_descriptions

NEGATIVE = "not:"
Asked = str | Path | Sequence[str] | Mapping[str, Any] | Vocabulary


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The classes that are looked for, the `negatives` that only compete with them, and how they are asked."""

    vocabulary: Vocabulary
    negatives: tuple[ClassEntry, ...] = ()
    prompt: str = "names"


def wanted_of(asked: Asked, *, negatives: str | Sequence[str] = (), prompt: str | None = None) -> Wanted:
    """Return what `asked` says.

    - a sequence of names or texts; one that begins with "not:" is a negative ("cat", "not: dog");
    - a string of them, each with a full stop: "cat. a red chair left of the table. not: dog";
    - a Vocabulary, a built-in one by its name, a file or a Pascal VOC folder: see `load_vocabulary`; lines may begin with "not:" too;
    - a mapping from names to descriptions, or a JSON file of one: see `with_descriptions`; they are then asked by their descriptions.

    `negatives`: more of them, as a sequence or a string. `prompt` None: "descriptions" for a mapping, else "names".

    >>> found = wanted_of("cat. a red chair. not: dog")
    >>> found.vocabulary.names, [entry.name for entry in found.negatives]
    (('cat', 'a red chair'), ['dog'])
    """
    if isinstance(asked, str) and not asked.strip():  # as a path it would be the current folder
        raise ValueError(f'there must be something to look for, such as "cat. a red chair", got {asked!r}')
    if not isinstance(asked, str | Path | Iterable):
        raise ValueError(f"what to look for must be names, a vocabulary, a file or a mapping, got {type(asked).__name__}")
    described = _descriptions(asked)
    if described is not None:
        vocabulary = with_descriptions(Vocabulary.of([*described]), described)
    else:
        vocabulary = load_vocabulary(_queries(asked) if isinstance(asked, str) else asked)
    more = [negatives] if isinstance(negatives, ClassEntry) else parse_queries(negatives) if isinstance(negatives, str) else list(negatives)
    positive = tuple(entry for entry in vocabulary if not _is_negative(entry.name))
    rivals = tuple(ClassEntry(name=_bare(entry.name)) for entry in vocabulary if _is_negative(entry.name))
    rivals += tuple(ClassEntry(name=_bare(name)) for name in more)
    if not positive:
        raise ValueError(f"there must be something to look for besides what is not wanted, got only {[entry.name for entry in rivals]}")
    Vocabulary((*positive, *rivals))  # says which names clash
    return Wanted(vocabulary=Vocabulary(positive), negatives=rivals, prompt=prompt or ("names" if described is None else "descriptions"))


def _is_negative(name: str) -> bool:
    return name.strip().casefold().startswith(NEGATIVE)


def _bare(name: str) -> str:
    """Return a negative's name without its mark; ValueError where nothing is left."""
    bare = name.strip()[len(NEGATIVE) :].strip() if _is_negative(name) else name.strip()
    if not bare:
        raise ValueError(f'a negative must name a thing, got {name!r}; write for example "not: dog"')
    return bare


def _descriptions(asked: Asked) -> Mapping[str, Any] | None:
    """Return the mapping from names to descriptions that was given, or that a JSON file holds; None for anything else."""
    if isinstance(asked, Mapping):
        if not asked:
            raise ValueError("there must be something to look for, got an empty mapping")
        return asked
    if not isinstance(asked, str | Path) or str(asked) in BUILTIN:
        return None
    path = Path(asked).expanduser()
    if path.suffix != ".json" or not path.is_file():
        return None
    content = read_json(path, Source(str(path)))
    return content if isinstance(content, dict) and content and not {"classes", "categories"} & content.keys() else None


def _queries(asked: str) -> str | list[str]:
    """Return a string that names a vocabulary or a file as it is, and any other as the texts that it holds."""
    is_path = ("/" in asked or "\\" in asked) and ". " not in asked  # but "traffic light. tv/monitor" are names
    if asked in BUILTIN or _exists(asked) or Path(asked).suffix.casefold() in (".txt", ".json") or is_path:
        return asked
    near = difflib.get_close_matches(asked.casefold(), BUILTIN, n=1, cutoff=0.75)
    if near:
        raise ValueError(f"there is no built-in vocabulary {asked!r}; did you mean {near[0]!r}? A class of this name is asked for as [{asked!r}]")
    return parse_queries(asked)


def _exists(asked: str) -> bool:
    try:
        return Path(asked).expanduser().exists()
    except (OSError, RuntimeError, ValueError):  # too long for a file's name, or "~" of nobody
        return False
