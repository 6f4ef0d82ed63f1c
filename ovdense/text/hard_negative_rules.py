"""The places of a text that a rule can alter so that it says something else, each with all that it can become.

One generator a kind of change. A rule that cannot tell leaves the text alone; what is drawn is the caller's matter.
"""
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache

from ovdense.text.caption_words import CaptionWords, Family, Phrase, lexicon

Edit = tuple[int, int, str]
_ATTRIBUTES = ("colour", "material", "texture", "size", "shape", "state")
_POSSESSIVES = ("its", "his", "her", "their", "this", "that", "these", "those")
_SIDES_OF = ("side", "hand", "corner", "wall", "half", "arm", "leg", "foot", "eye", "ear", "shoulder")
_LOOK_BACK = 6
_SHORT_CLAUSE = 4


@dataclass(frozen=True, kw_only=True)
class Place:
    """One thing that a text says, by `kind` of change; each option is a set of edits (begin, end, replacement) that alters it."""

    kind: str
    options: tuple[tuple[Edit, ...], ...]


@dataclass(frozen=True)
class _Attribute:
    """An attribute word at words first..last-1."""

    first: int
    last: int
    word: str
    families: tuple[Family, ...]


def in_case_of(replacement: str, original: str) -> str:
    """Return the replacement with the capitals of the original: none, the first letter, or all."""
    if len(original) > 1 and original.isupper():
        return replacement.upper()
    return replacement[:1].upper() + replacement[1:] if original[:1].isupper() else replacement


def _edit(caption: CaptionWords, first: int, last: int, replacement: str) -> Edit:
    begin, end = caption.words[first].begin, caption.words[last - 1].end
    return begin, end, in_case_of(replacement, caption.text[begin:end])


def _attributes(caption: CaptionWords) -> Iterator[_Attribute]:
    words = caption.lexicon
    for i, phrase in caption.matches(words.attribute_phrases):
        attribute = _Attribute(i, i + len(phrase), " ".join(phrase), words.families_of[" ".join(phrase)])
        if caption.may_change(i, len(phrase)) and _is_adjective(caption, attribute):
            yield attribute


def _is_adjective(caption: CaptionWords, attribute: _Attribute) -> bool:
    """Return whether the word is said as an attribute: "orange" is one in "an orange ball", none in "an orange on a plate"."""
    words, last = caption.lexicon, attribute.last - 1
    follower, before = caption.next_lower(last), caption.previous_lower(attribute.first)
    if any(family.kind == "colour" for family in attribute.families) and any(words.has("people", caption.lower(n)) for n in caption.run(last)):
        return False  # of people, these words tell skin or hair
    if words.has("needs_colour", attribute.word):
        return any(family.kind == "colour" for family in words.families_of.get(follower, ()))
    if not words.has("needs_noun", attribute.word) or words.has("predicates", before):
        return True
    if follower == "and" and set(words.families_of.get(caption.next_lower(last + 1), ())) & set(attribute.families):
        return True
    if words.has("made_of", before) and any(family.kind == "material" for family in attribute.families):
        return True
    alone = len(caption.clause(attribute.first, ".,")) == attribute.last - attribute.first < len(caption)
    return alone or bool(follower) and caption.is_content(last + 1)


def attribute_places(caption: CaptionWords, known: Collection[str], kind: str) -> Iterator[Place]:
    """Yield colours, materials, textures, sizes, shapes and states, and the other words of their families.

    Left out is what the same phrase says as well ("red and blue"), and what `known`, words in lower case, says.
    """
    words = caption.lexicon
    for attribute in _attributes(caption):
        inside = range(attribute.first, attribute.last)
        said = {caption.lower(n) for n in caption.run(attribute.first, also=("and",), marks=".") if n not in inside} | set(known)
        said -= {w for family in attribute.families for g in family.groups_of(attribute.word) for w in family.groups[g]}
        options: dict[str, None] = {}
        for family in attribute.families:
            if family.kind == kind:
                options.update((group[0], None) for group in family.others(attribute.word) if not said.intersection(group))
        as_noun = words.has("made_of", caption.previous_lower(attribute.first))
        made = [words.noun_forms.get(option, option) if as_noun else option for option in options]
        if made:
            yield Place(kind=kind, options=tuple((_edit(caption, attribute.first, attribute.last, option),) for option in made))


@cache
def _part_table() -> Mapping[str, tuple[int, int]]:
    """Return part name -> (family, 0 singular or 1 plural)."""
    return {name: (f, n) for f, family in enumerate(lexicon().parts) for names in family for n, name in enumerate(names)}


def part_places(caption: CaptionWords, known: Collection[str], kind: str) -> Iterator[Place]:
    """Yield the parts that things are said to have ("with a handle"), and rarer parts of the family that the text and `known` do not name."""
    table, said = _part_table(), {word.lower for word in caption.words} | set(known)
    for i, word in enumerate(caption.words):
        if word.lower not in table or not caption.may_change(i) or not _is_had(caption, i):
            continue
        family, number = table[word.lower]
        parts = caption.lexicon.parts[family]
        options = [names[number] for names in parts if not said.intersection(names) and not caption.lexicon.has("expected_parts", names[0])]
        if options:
            yield Place(kind=kind, options=tuple((_edit(caption, i, i + 1, option),) for option in options))


def _is_had(caption: CaptionWords, i: int) -> bool:
    """Return whether word i is the noun of something had: after "with", "has", .., or the end of a short part of a list."""
    if caption.next_lower(i) and caption.is_content(i + 1):
        return False
    words, clause = caption.lexicon, caption.clause(i)
    for n in range(i - 1, max(clause.start, i - _LOOK_BACK) - 1, -1):
        lower = caption.lower(n)
        if words.has("part_markers", lower):
            return True
        if not caption.is_content(n) and lower != "and" and lower not in _POSSESSIVES and not words.has("determiners", lower):
            return False
    return i == clause.stop - 1 and len(clause) <= _SHORT_CLAUSE and len(clause) < len(caption)


def number_places(caption: CaptionWords, known: Collection[str], kind: str) -> Iterator[Place]:
    """Yield counts from two on ("two handles", "2 wheels", "three-legged"), and other counts."""
    numbers = caption.lexicon.numbers
    for i, word in enumerate(caption.words):
        said, _, had = word.lower.partition("-")
        value = int(said) if said.isdecimal() and len(said) <= 2 and not had else numbers.index(said) if said in numbers else 0
        if value < 2 or not caption.may_change(i) or not (had.endswith("ed") if had else _counts(caption, i)):
            continue
        near = (value - 2, value - 1, value + 1, value + 2) if value <= 6 else (value // 2, value - 3, value + 3, 2 * value)
        values = [n for n in near if n >= 2 and (said.isdecimal() or n < len(numbers))]
        written = [str(n) if said.isdecimal() else in_case_of(numbers[n], word.text.partition("-")[0]) for n in values]
        yield Place(kind=kind, options=tuple(((word.begin, word.begin + len(said), text),) for text in written))


def _counts(caption: CaptionWords, i: int) -> bool:
    """Return whether the number at word i counts a plural noun, and exactly: not "at least two legs"."""
    if caption.lexicon.has("number_blockers", caption.previous_lower(i)):
        return False
    for n in range(i + 1, min(i + 4, len(caption))):
        if caption.words[n].mark or not caption.is_content(n):
            return False
        if _is_plural(caption, n):
            return True
    return False


def _is_plural(caption: CaptionWords, n: int) -> bool:
    lower = caption.lower(n)
    return caption.lexicon.has("irregular_plurals", lower) or (len(lower) > 3 and lower.endswith("s") and not lower.endswith(("ss", "us", "is")))


def relation_places(caption: CaptionWords, known: Collection[str], kind: str) -> Iterator[Place]:
    """Yield relations and their opposites: "left of", "right of"."""
    words = caption.lexicon
    for i, phrase in caption.matches(words.relation_phrases):
        if caption.may_change(i, len(phrase)) and _is_place(caption, i, phrase):
            yield Place(kind=kind, options=((_edit(caption, i, i + len(phrase), words.relations[" ".join(phrase)]),),))


def _is_place(caption: CaptionWords, i: int, phrase: Phrase) -> bool:
    """Return whether the phrase says where something is: "on the table", not "on the other hand" or "left behind"."""
    words, last = caption.lexicon, i + len(phrase) - 1
    follower = caption.next_lower(last)
    if phrase[-1] in ("left", "right"):
        return follower in _SIDES_OF or not follower or not caption.is_content(last + 1)
    if not words.has("relations_before_noun", " ".join(phrase)):
        return True
    is_noun_phrase = words.has("determiners", follower) or follower in _POSSESSIVES
    return is_noun_phrase and not words.has("not_a_place", caption.next_lower(last + 1)) and caption.previous_lower(i) not in ("from", "left")


def exchange_places(caption: CaptionWords, known: Collection[str], kind: str) -> Iterator[Place]:
    """Yield the two things of a relation that has a direction, exchanged: "a dog left of a cat" -> "a cat left of a dog"."""
    words, text = caption.lexicon, caption.text
    for i, phrase in caption.matches(words.exchange_phrases):
        one, other = _noun_phrase_before(caption, i), _noun_phrase_at(caption, i + len(phrase))
        if one is None or other is None or not caption.may_change(i, len(phrase)):
            continue
        if _without_determiner(caption, one) == _without_determiner(caption, other) or not _verb_agrees(caption, one, other, i):
            continue
        (begin, one_end), (other_begin, end) = _chars(caption, one), _chars(caption, other)
        first, second = text[begin:one_end], text[other_begin:end]
        if first[0].isupper() and second[0].islower():
            first, second = first[0].lower() + first[1:], second[0].upper() + second[1:]
        yield Place(kind=kind, options=(((begin, end, second + text[one_end:other_begin] + first),),))


def _chars(caption: CaptionWords, words: range) -> tuple[int, int]:
    return caption.words[words.start].begin, caption.words[words.stop - 1].end


def _without_determiner(caption: CaptionWords, words: range) -> list[str]:
    return [caption.lower(n) for n in words if not caption.lexicon.has("determiners", caption.lower(n))]


def _noun_phrase_at(caption: CaptionWords, j: int) -> range | None:
    """Return the noun phrase with a determiner that begins at word j."""
    words = caption.lexicon
    if j >= len(caption) or caption.words[j].mark or not words.has("determiners", caption.lower(j)):
        return None
    last = j + 1
    while last < len(caption) and not caption.words[last].mark and caption.is_content(last):
        last += 1
    is_place = words.has("not_a_place", caption.next_lower(j))
    return None if last == j + 1 or is_place or caption.next_lower(last - 1) == "of" else range(j, last)


def _noun_phrase_before(caption: CaptionWords, i: int) -> range | None:
    """Return the noun phrase that the relation at word i speaks of; verbs such as "is sitting" may stand between."""
    words, k = caption.lexicon, i
    while caption.previous_lower(k) and (words.has("links", caption.lower(k - 1)) or _is_verb(caption, k - 1)):
        k -= 1
    first = k
    while caption.previous_lower(first) and caption.is_content(first - 1):
        first -= 1
    if first == k:
        return None
    before = caption.previous_lower(first)
    if words.has("determiners", before):
        first -= 1
        before = caption.previous_lower(first)
    elif before or caption.words[first].mark != ".":
        return None
    opens = not before or words.has("swap_openers", before) or words.has("swap_openers", f"{caption.previous_lower(first - 1)} {before}")
    return range(first, k) if opens else None


def _is_verb(caption: CaptionWords, n: int) -> bool:
    """Return whether word n, in front of a relation, looks like "sitting" or "mounted" and belongs to no noun phrase."""
    lower, words = caption.lower(n), caption.lexicon
    if lower.endswith("ing"):
        return not words.has("ing_nouns", lower)
    return len(lower) > 5 and lower.endswith("ed") and not lower.endswith("eed") and lower not in words.families_of


def _verb_agrees(caption: CaptionWords, one: range, other: range, i: int) -> bool:
    """Return whether the verb before word i, if any, fits both things: not "two dogs are left of a cat"."""
    if not any(caption.lexicon.has("finite_verbs", caption.lower(n)) for n in range(one.stop, i)):
        return True
    return _is_many(caption, one) == _is_many(caption, other)


def _is_many(caption: CaptionWords, words: range) -> bool:
    determiner = caption.lower(words.start)
    if caption.lexicon.has("singular_determiners", determiner):
        return False
    return caption.lexicon.has("plural_determiners", determiner) or _is_plural(caption, words.stop - 1)


def binding_places(caption: CaptionWords, known: Collection[str], kind: str) -> Iterator[Place]:
    """Yield attributes of one family that two things exchange: "a red ball and a blue cube" -> "a blue ball and a red cube"."""
    found = list(_attributes(caption))
    for n, one in enumerate(found):
        for other in found[n + 1 :]:
            family = next((f for f in one.families if f in other.families), None)
            if family is None or family.groups_of(one.word) & family.groups_of(other.word):
                continue
            rests = _rest_of_phrase(caption, one), _rest_of_phrase(caption, other)
            if rests[0] != rests[1] and all(any(w not in caption.lexicon.families_of for w in rest) for rest in rests):
                edits = _edit(caption, one.first, one.last, other.word), _edit(caption, other.first, other.last, one.word)
                yield Place(kind=kind, options=(edits,))


def _rest_of_phrase(caption: CaptionWords, attribute: _Attribute) -> list[str]:
    return [caption.lower(n) for n in caption.run(attribute.first) if not attribute.first <= n < attribute.last]


RULES: dict[str, Callable[[CaptionWords, Collection[str], str], Iterator[Place]]] = {
    **dict.fromkeys(_ATTRIBUTES, attribute_places),
    "part": part_places,
    "number": number_places,
    "relation": relation_places,
    "exchange": exchange_places,
    "binding": binding_places,
}
