"""A caption as words with their places, and the word lists by which `hard_negatives` alters it. Pure string work.

No parser: noun phrases are runs of words between function words and punctuation, which the lists name. Where that is
not enough to be sure, a question is answered with no, so that a text is left alone rather than altered wrongly.
"""
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

_FILE = Path(__file__).parent / "data" / "hard_negative_words.json"
_WORD = re.compile(r"[^\W_]+(?:[-'’.][^\W_]+)*")
_HARD_STOPS = frozenset(".;:!?()[]\"/|")
_NEGATION_REACH = 4
Phrase = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Family:
    """Groups of words of one kind; words of one group can mean the same. `groups[g][0]` is what a word becomes."""

    kind: str
    groups: tuple[tuple[str, ...], ...]

    def groups_of(self, word: str) -> frozenset[int]:
        """Return the groups that hold the word."""
        return frozenset(g for g, words in enumerate(self.groups) if word in words)

    def others(self, word: str) -> list[tuple[str, ...]]:
        """Return the groups whose first word shares no group with `word`."""
        mine = self.groups_of(word)
        return [words for words in self.groups if not mine & self.groups_of(words[0])]


@dataclass(frozen=True, kw_only=True)
class Lexicon:
    """The word lists. `families_of`: attribute word -> the families that hold it; `parts`: part names, singular and plural."""

    families_of: Mapping[str, tuple[Family, ...]]
    parts: tuple[tuple[tuple[str, str], ...], ...]
    relations: Mapping[str, str]
    numbers: tuple[str, ...]
    noun_forms: Mapping[str, str]
    lists: Mapping[str, frozenset[str]]

    def has(self, name: str, word: str) -> bool:
        """Return whether the list `name` of the file holds the word."""
        return word in self.lists[name]

    @cached_property
    def attribute_phrases(self) -> dict[str, list[Phrase]]:
        return by_first_word(self.families_of)

    @cached_property
    def relation_phrases(self) -> dict[str, list[Phrase]]:
        return by_first_word(self.relations)

    @cached_property
    def exchange_phrases(self) -> dict[str, list[Phrase]]:
        return by_first_word(self.lists["exchanges"])

    @cached_property
    def fixed_phrases(self) -> dict[str, list[Phrase]]:
        return by_first_word(self.lists["fixed"])

    @cached_property
    def hedge_phrases(self) -> dict[str, list[Phrase]]:
        return by_first_word(self.lists["hedges"])


def by_first_word(phrases: Collection[str]) -> dict[str, list[Phrase]]:
    """Return the phrases as tuples of words, by their first word, longest first."""
    found: dict[str, list[Phrase]] = {}
    for phrase in sorted(phrases, key=lambda p: (-len(p.split()), p)):
        words = tuple(phrase.split())
        found.setdefault(words[0], []).append(words)
    return found


@cache
def lexicon() -> Lexicon:
    """Return the word lists of the package."""
    content = json.loads(_FILE.read_text(encoding="utf-8"))
    families = [Family(kind=kind, groups=tuple(map(tuple, groups))) for kind, made in content["attributes"].items() for groups in made]
    families_of: dict[str, tuple[Family, ...]] = {}
    for family in families:
        for word in dict.fromkeys(w for group in family.groups for w in group):
            families_of[word] = (*families_of.get(word, ()), family)
    return Lexicon(
        families_of=families_of,
        parts=tuple(tuple(_both_numbers(name) for name in names) for names in content["parts"]),
        relations=content["relations"],
        numbers=tuple(content["numbers"]),
        noun_forms=content["noun_forms"],
        lists={name: frozenset(value) for name, value in content.items() if isinstance(value, list) and name not in ("parts", "numbers")},
    )


def _both_numbers(name: str) -> tuple[str, str]:
    """Return singular and plural of "handle" or "leaf/leaves"."""
    singular, _, plural = name.partition("/")
    return singular, plural or singular + "s"


@dataclass(frozen=True)
class Word:
    """One word: `lower` case, its characters `begin`..`end`, and the strongest mark before it: "", "," or "." (any stop)."""

    text: str
    lower: str
    begin: int
    end: int
    mark: str


class CaptionWords:
    """The words of a text and questions about them; i, j are indices of words, ranges are half open."""

    def __init__(self, text: str, words: Lexicon) -> None:
        self.text, self.lexicon = text, words
        self.words: list[Word] = []
        last = 0
        for match in _WORD.finditer(text):
            gap = text[last : match.start()]
            mark = "." if _HARD_STOPS & set(gap) or not self.words else "" if gap.isspace() else ","
            self.words.append(Word(match.group(), match.group().lower(), *match.span(), mark))
            last = match.end()
        self._doubtful = self._find_doubtful()
        self._fixed = self._find_fixed()

    def __len__(self) -> int:
        return len(self.words)

    def lower(self, i: int) -> str:
        """Return word i in lower case, "" outside of the text."""
        return self.words[i].lower if 0 <= i < len(self.words) else ""

    def next_lower(self, i: int) -> str:
        """Return the word after i in lower case, "" where a mark or the end comes first."""
        return self.lower(i + 1) if i + 1 < len(self.words) and not self.words[i + 1].mark else ""

    def previous_lower(self, i: int) -> str:
        """Return the word before i in lower case, "" where a mark or the beginning comes first."""
        return self.lower(i - 1) if i > 0 and not self.words[i].mark else ""

    def match(self, i: int, phrases: Mapping[str, Sequence[Phrase]]) -> Phrase | None:
        """Return the longest of the phrases that begins at word i with no mark inside."""
        for phrase in phrases.get(self.lower(i), ()):
            j = i + len(phrase)
            if j <= len(self.words) and all(self.lower(i + n) == w and (n == 0 or not self.words[i + n].mark) for n, w in enumerate(phrase)):
                return phrase
        return None

    def matches(self, phrases: Mapping[str, Sequence[Phrase]]) -> Iterator[tuple[int, Phrase]]:
        """Yield (i, phrase) from left to right, longest first, none inside another."""
        i = 0
        while i < len(self.words):
            phrase = self.match(i, phrases)
            if phrase:
                yield i, phrase
            i += len(phrase) if phrase else 1

    def is_content(self, i: int) -> bool:
        """Return whether word i can be part of a noun phrase's adjectives and noun."""
        lower = self.lower(i)
        is_verb = lower.endswith("ing") and not self.lexicon.has("ing_nouns", lower)
        return lower[:1].isalpha() and not is_verb and not self.lexicon.has("function_words", lower) and not self.lexicon.has("links", lower)

    def clause(self, i: int, marks: str = ".") -> range:
        """Return the words around i that no mark of `marks` separates from it."""
        first, last = i, i + 1
        while first > 0 and self.words[first].mark not in tuple(marks):
            first -= 1
        while last < len(self.words) and self.words[last].mark not in tuple(marks):
            last += 1
        return range(first, last)

    def run(self, i: int, also: Collection[str] = (), marks: str = ".,") -> range:
        """Return the words around i that belong to its noun phrase, without the article; `also`: function words that do not end it."""
        whole = self.clause(i, marks)

        def belongs(n: int) -> bool:
            return self.is_content(n) or self.lower(n) in also

        first, last = i, i + 1
        while first - 1 in whole and belongs(first - 1):
            first -= 1
        while last in whole and belongs(last):
            last += 1
        return range(first, last)

    def may_change(self, i: int, length: int = 1) -> bool:
        """Return whether the words are a plain statement: not hedged ("could be red"), negated, a name or part of a fixed phrase."""
        return not any(n in self._doubtful or n in self._fixed for n in range(i, i + length))

    def _find_doubtful(self) -> set[int]:
        found: set[int] = set()
        for i, _ in self.matches(self.lexicon.hedge_phrases):
            found.update(self.clause(i))
        for i, word in enumerate(self.words):
            if self.lexicon.has("negations", word.lower):
                found.update(n for n in self.clause(i, ".,") if i <= n <= i + _NEGATION_REACH)
        return found

    def _find_fixed(self) -> set[int]:
        found = {n for i, phrase in self.matches(self.lexicon.fixed_phrases) for n in range(i, i + len(phrase))}
        if not self.text.isupper():
            found.update(i for i, word in enumerate(self.words) if word.text[0].isupper() and self._is_name(i))
        return found

    def _is_name(self, i: int) -> bool:
        if self.words[i].mark != ".":
            return True
        follower = self.words[i + 1] if i + 1 < len(self.words) else None
        return follower is not None and not follower.mark and follower.text[0].isupper()
