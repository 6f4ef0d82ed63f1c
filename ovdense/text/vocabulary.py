"""Vocabularies from what users have: lists of names, text files, JSON, COCO / LVIS / VOC annotation, or built in.

Names that clash, are empty or unknown are errors that name them and the file. The JSON forms, which both
`load_vocabulary` (for its classes) and `with_descriptions` (for what it says about classes that exist) read:

- classes: a list, or an object with the list under "classes", of names or of objects {"name", "synonyms": [..],
  "descriptions": [..] (or "def": ".."), "kind", "similar": [..], "frequency": "r|c|f", "background": bool}, all but the
  name optional; an unknown key is an error;
- categories: a COCO or LVIS annotation file, or the list of its categories (lvis_v1_categories.json), in the order of
  their ids: "synonyms", "frequency", "kind", "similar", "background" and "descriptions", or else LVIS's "def", are read where present;
- desco: DesCo's list of {"object", "gpt3_output"}, the latter {"type", "description", "similar objects"} as a string;
- only for `with_descriptions`: an object, class name -> a description, a list of them, or an object with any of
  "descriptions", "kind", "similar"; or DesCo's vocabulary, noun -> [gpt3_output, frequency].

One of several descriptions may be a plain string; the parts of a description are separated by "; ".
"""
import difflib
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

from ovdense.compat.xml import read_xml
from ovdense.structures import ClassEntry, Vocabulary
from ovdense.text.description_files import gpt3_fields, is_noun_entry, nouns_of
from ovdense.text.reading import Source, checked_text, checked_texts, read_json

Form = Literal["text", "classes", "categories", "desco", "voc"]
_FOLDER = Path(__file__).parent / "vocabularies"
BUILTIN = tuple(sorted(p.stem for p in _FOLDER.glob("*.json")))
_CLASS_KEYS = ("name", "synonyms", "descriptions", "def", "kind", "similar", "frequency", "background")
_DESCRIPTION_KEYS = ("descriptions", "kind", "similar")


def load_vocabulary(source: str | Path | Sequence[str] | Vocabulary, *, form: Form | None = None) -> Vocabulary:
    """Return the vocabulary of `source`; its form is recognised, or given by `form` ("text", "classes", "categories", "desco", "voc").

    - a Vocabulary (returned as it is) or a sequence of names;
    - built in: "coco" (80), "voc" (20), "lvis" (1,203, with synonyms, definitions, frequencies); and for segmentation, by their number of
      classes, with background where it is one more: "voc20", "voc21", "ade150", "context59", "context60", "coco_object81", "coco_stuff171",
      "coco_stuff27", "coco_panoptic133", "cityscapes19", "cityscapes27", "kitti_step19";
    - a .txt file, one name a line; blank lines and lines that start with # are left out (text);
    - a .json file of classes, categories (COCO or LVIS annotation) or DesCo's descriptions: see the top of this module;
    - a Pascal VOC folder: the names in its Annotations, sorted (voc).

    FileNotFoundError when there is no such file; ValueError names the file and the entry that is wrong.
    """
    if form is not None and form not in get_args(Form):
        raise ValueError(f"form must be one of {', '.join(get_args(Form))} or None, got {form!r}")
    if isinstance(source, Vocabulary):
        return source
    if not isinstance(source, (str, Path)):
        return _vocabulary([_entry({"name": name}, f"class {k}", Source("names")) for k, name in enumerate(source)], Source("names"))
    if form is None and str(source) in BUILTIN:
        return _builtin(str(source))
    path = Path(source).expanduser()
    if not path.exists():
        near = difflib.get_close_matches(str(source), BUILTIN, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise FileNotFoundError(
            f"a vocabulary must be a file, a folder or one of {', '.join(BUILTIN)}, got "
            f"{str(source)!r}; {hint}give an existing path, or a list of names: [{str(source)!r}]"
        )
    where = Source(str(path))
    if form == "voc" or (form is None and path.is_dir()):
        return _vocabulary(_read_voc(path, where), where)
    if form == "text" or (form is None and path.suffix == ".txt"):
        return _vocabulary(_read_text(path, where), where)
    if form is None and path.suffix != ".json":
        raise where.error(f"a vocabulary file must end with .txt or .json, got {path.suffix!r}; rename it or give form=")
    return _read_json_form(read_json(path, where), form, where)


def with_descriptions(vocabulary: Vocabulary, descriptions: str | Path | Mapping[str, Any], *, tell_missing: bool = True) -> Vocabulary:
    """Return the vocabulary with descriptions attached by class name; classes that are not mentioned stay as they are.

    `descriptions` is a mapping, or a JSON file, in one of the forms at the top of this module. Given fields replace those
    of the class. A name is a class's name, or its noun where only one class has it. ValueError names unknown, doubled and
    empty entries, and the file; only a list of categories and DesCo's vocabulary, which are of whole data sets, may say more
    than is asked for. A warning tells how many classes a file leaves with what they had (LVIS's definition) or a bare name,
    unless `tell_missing` is False.
    """
    where, said, whole_set = _read_descriptions(descriptions)
    if not said:
        raise where.error("descriptions must name at least one class, got none")
    entries, taken = list(vocabulary), {}
    finder = class_finder(vocabulary)
    unknown = [name for name, _ in said if finder(name) is None]
    if whole_set and len(unknown) < len(said):
        said = [(name, fields) for name, fields in said if finder(name) is not None]
        unknown = []
    if unknown:
        near = difflib.get_close_matches(unknown[0], vocabulary.names, n=3)
        hint = f"; near {unknown[0]!r} there are {near}" if near else ""
        raise where.error(f"{len(unknown)} names are not in the vocabulary of {len(vocabulary)} classes: {unknown[:5]}{hint}")
    for name, fields in said:
        k = finder(name)
        if k in taken:
            raise where.error(f"class {entries[k].name!r} must be described once, got it under {taken[k]!r} and {name!r}")
        taken[k] = name
        entries[k] = replace(entries[k], **fields)
    if tell_missing and not isinstance(descriptions, Mapping):
        _tell_fallbacks([entry for k, entry in enumerate(entries) if k not in taken and not entry.is_background], len(entries), where)
    return Vocabulary(tuple(entries))


def _tell_fallbacks(left: Sequence[ClassEntry], num_classes: int, where: Source) -> None:
    """Warn about the classes that a file of descriptions does not describe."""
    if left:
        bare = [entry.name for entry in left if not entry.descriptions]
        names = f", {len(bare)} only their name (the first: {', '.join(map(repr, bare[:3]))})" if bare else ""
        warnings.warn(
            f"{where.name} leaves {len(left)} of {num_classes} classes undescribed: {len(left) - len(bare)} keep the description that they had"
            f"{names}; add them to the file if that is not meant",
            stacklevel=3,
        )


def _read_descriptions(descriptions: str | Path | Mapping[str, Any]) -> tuple[Source, list[tuple[str, dict[str, Any]]], bool]:
    """Return where they come from, each name with the ClassEntry fields given for it, and whether they are a data set's categories."""
    if isinstance(descriptions, Mapping):
        where, content = Source("descriptions"), dict(descriptions)
    else:
        path = Path(descriptions).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"a file of descriptions must exist, got {str(path)!r}")
        where = Source(str(path))
        content = read_json(path, where)
    form = None
    if isinstance(content, dict):
        form = next((key for key in ("categories", "classes") if isinstance(content.get(key), list) and _is_objects(content[key])), None)
        if form is None and content and all(map(is_noun_entry, content.values())):
            return where, _said_of_nouns(content, where), True
        if form is None:
            return where, [(name, _description_fields(name, value, where)) for name, value in content.items()], False
        content = content[form]
    if not isinstance(content, list):
        raise where.error(f"descriptions must be a mapping from class names or a list, got {type(content).__name__}")
    if not _is_objects(content):
        raise where.error("a list of descriptions must hold objects with 'name' and 'def' or 'descriptions', or DesCo's with 'object' and 'gpt3_output'")
    form = form or _list_form(content)
    if form == "desco":
        return where, [_desco_item(item, i, where) for i, item in enumerate(content)], False
    said = []
    for i, item in enumerate(content):
        fields = _category_fields(item) if form == "categories" else _class_fields(item, i, where)
        name = checked_text(fields.get("name"), f"the name of entry {i}", where)
        given = {key: fields[key] for key in _DESCRIPTION_KEYS if fields.get(key)}
        if given:
            said.append((name, _description_fields(name, given, where)))
    return where, said, form == "categories"


def _said_of_nouns(content: dict, where: Source) -> list[tuple[str, dict[str, Any]]]:
    """Return what DesCo's vocabulary says of its nouns; of several spellings of a noun the most frequent one's."""
    nouns = nouns_of(content, where, on_broken="skip")
    said: dict[str, tuple[str, dict[str, Any]]] = {}
    for noun, entry in sorted(nouns.entries.items(), key=lambda item: -nouns.frequencies[item[0]]):
        said.setdefault(plain(noun), (noun, {key: value for key in _DESCRIPTION_KEYS if (value := getattr(entry, key))}))
    return list(said.values())


def _is_objects(content: list) -> bool:
    return all(isinstance(item, dict) for item in content)


def _list_form(content: list) -> Form:
    """Return the form of a list of names or objects, by its first entry."""
    first = content[0] if content and isinstance(content[0], dict) else {}
    return "desco" if "object" in first else "categories" if "id" in first else "classes"


def class_finder(vocabulary: Vocabulary) -> Callable[[str], int | None]:
    """Return the function from a name to its class index, None when it is unknown or fits several."""
    by_name = {plain(entry.name): k for k, entry in enumerate(vocabulary)}
    by_noun: dict[str, list[int]] = {}
    for k, entry in enumerate(vocabulary):
        by_noun.setdefault(plain(entry.noun), []).append(k)

    def find(name: str) -> int | None:
        nouns = by_noun.get(plain(name), [])
        return by_name.get(plain(name), nouns[0] if len(nouns) == 1 else None)

    return find


def plain(name: str) -> str:
    """Return a name as names are compared: blanks for underscores, no double blanks, no case."""
    return " ".join(name.replace("_", " ").split()).casefold()


@cache
def _builtin(name: str) -> Vocabulary:
    path = _FOLDER / f"{name}.json"
    where = Source(str(path))
    return _read_json_form(read_json(path, where), "categories", where)


def _vocabulary(entries: Sequence[ClassEntry], where: Source) -> Vocabulary:
    try:
        return Vocabulary(tuple(entries))
    except ValueError as error:
        raise where.error(str(error)) from None


def _read_text(path: Path, where: Source) -> list[ClassEntry]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise where.error(f"the file must be text in UTF-8, but {error}") from None
    names = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    return [_entry({"name": name}, f"class {k}", where) for k, name in enumerate(names)]


def _read_voc(path: Path, where: Source) -> list[ClassEntry]:
    folders = [p for p in (path, *sorted(path.glob("VOC20*")), *sorted(path.glob("VOCdevkit/VOC20*"))) if (p / "Annotations").is_dir()]
    if not folders:
        raise where.error("a Pascal VOC folder must hold Annotations (or VOCdevkit/VOC20xx/Annotations), found neither")
    names: set[str] = set()
    for file in (file for folder in folders for file in sorted((folder / "Annotations").glob("*.xml"))):
        objects = read_xml(file).findall("object")
        for i, thing in enumerate(objects):
            name = (thing.findtext("name") or "").strip()
            if not name:
                raise ValueError(f"{file}: object {i} must have a name, got none")
            names.add(name)
    if not names:
        raise where.error("the Annotations must name at least one object, got none")
    return [ClassEntry(name=name) for name in sorted(names)]


def _read_json_form(content: Any, form: Form | None, where: Source) -> Vocabulary:
    if isinstance(content, dict):
        key = next((key for key in ("categories", "classes") if key in content), None)
        if key is None:
            raise where.error(
                "a JSON object must hold 'classes' or 'categories', got the keys "
                f"{sorted(content)[:8]}; a mapping to descriptions goes to with_descriptions"
            )
        content, form = content[key], form or key
    if not isinstance(content, list) or not content:
        got = "an empty list" if content == [] else type(content).__name__
        raise where.error(f"the classes must be a non-empty list, got {got}")
    form = form or _list_form(content)
    if form == "desco":
        items = [_desco_item(item, i, where) for i, item in enumerate(content)]
        return _vocabulary([_entry({"name": name, **fields}, f"class {i}", where) for i, (name, fields) in enumerate(items)], where)
    if form == "categories":
        return _vocabulary([_entry(_category_fields(c), f"class {i}", where) for i, c in enumerate(_by_id(content, where))], where)
    if form != "classes":
        raise where.error(f"form {form!r} does not read JSON lists; give 'classes', 'categories' or 'desco'")
    return _vocabulary([_entry(_class_fields(c, i, where), f"class {i}", where) for i, c in enumerate(content)], where)


def _by_id(categories: list, where: Source) -> list[dict]:
    """Return the categories in the order of their ids, which must be there and differ."""
    seen: dict[int, Any] = {}
    for i, category in enumerate(categories):
        if not isinstance(category, dict) or not isinstance(category.get("id"), int):
            raise where.error(f"category {i} must be an object with an integer 'id', got {str(category)[:80]}")
        if category["id"] in seen:
            raise where.error(
                f"category ids must differ, got id {category['id']} for "
                f"{seen[category['id']]!r} and {category.get('name')!r}"
            )
        seen[category["id"]] = category.get("name")
    return sorted(categories, key=lambda category: category["id"])


def category_entry(category: dict, path: Path) -> ClassEntry:
    """Return the class of one category of the COCO or LVIS file at `path`; ValueError names both."""
    return _entry(_category_fields(category), f"category {category.get('id')!r}", Source(str(path)))


def _category_fields(category: dict) -> dict[str, Any]:
    fields = {"name": category.get("name"), "descriptions": _said(category)}
    fields.update({key: category[key] for key in ("synonyms", "kind", "similar", "frequency") if category.get(key) is not None})
    return fields | ({"is_background": category["background"]} if "background" in category else {})


def _said(item: dict) -> Any:
    return item.get("descriptions") or ([item["def"]] if item.get("def") else [])


def _class_fields(item: Any, i: int, where: Source) -> dict[str, Any]:
    if isinstance(item, str):
        return {"name": item}
    if not isinstance(item, dict):
        raise where.error(f"class {i} must be a name or an object, got {item!r}")
    unknown = sorted(set(item) - set(_CLASS_KEYS))
    if unknown:
        near = difflib.get_close_matches(unknown[0], _CLASS_KEYS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise where.error(f"class {i} ({item.get('name')!r}) has unknown keys {unknown}, known are {list(_CLASS_KEYS)}{hint}")
    fields = {**item, "is_background": item.get("background", False)}
    if "def" in item and not item.get("descriptions"):
        fields["descriptions"] = item["def"]
    return fields


def _desco_item(item: Any, i: int, where: Source) -> tuple[str, dict[str, Any]]:
    """Return name and fields of one item of DesCo's list; its gpt3_output is a JSON object written as a string."""
    if not isinstance(item, dict) or not isinstance(item.get("object"), str) or not isinstance(item.get("gpt3_output"), str):
        raise where.error(f"entry {i} must have the strings 'object' and 'gpt3_output', got {str(item)[:80]}")
    return item["object"], gpt3_fields(item["gpt3_output"], f"entry {i} ({item['object']!r})", where)


def _description_fields(name: str, value: Any, where: Source) -> dict[str, Any]:
    """Return the ClassEntry fields of what is said about class `name`."""
    if isinstance(value, dict):
        unknown = sorted(set(value) - set(_DESCRIPTION_KEYS))
        if unknown:
            raise where.error(f"class {name!r} has unknown keys {unknown}; known are {list(_DESCRIPTION_KEYS)}")
        fields = value
    else:
        fields = {"descriptions": value}
    if not fields:
        raise where.error(f"class {name!r} must be given a description, a kind or similar things, got nothing")
    made = {}
    for key, given in fields.items():
        what = f"{key} of class {name!r}"
        made[key] = checked_text(given, what, where) if key == "kind" else checked_texts(given, what, where, minimum=1)
    return made


def _entry(fields: Mapping[str, Any], what: str, where: Source) -> ClassEntry:
    """Return the checked class of raw fields; synonyms are written as people say them, and never repeat the noun."""
    name = fields.get("name")
    if not isinstance(name, str) or not name.strip():
        raise where.error(f"{what} must have a non-empty name, got {name!r}")
    made: dict[str, Any] = {"name": name.strip()}
    for key in ("synonyms", "descriptions", "similar"):
        made[key] = checked_texts(fields.get(key, ()), f"{key} of class {name!r}", where)
    if fields.get("kind") is not None:
        made["kind"] = checked_text(fields["kind"], f"kind of class {name!r}", where)
    background = fields.get("is_background", False)
    if not isinstance(background, bool):
        raise where.error(f"background of class {name!r} must be true or false, got {background!r}")
    noun = ClassEntry(name=name).noun
    said = dict.fromkeys(ClassEntry(name=synonym).noun for synonym in made["synonyms"])
    made["synonyms"] = tuple(synonym for synonym in said if plain(synonym) != plain(noun))
    try:
        return ClassEntry(**made, frequency=fields.get("frequency"), is_background=background)
    except ValueError as error:
        raise where.error(str(error)) from None
