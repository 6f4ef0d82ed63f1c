"""What a user should know of the texts that classes are asked by, and could not see in the results: warnings, one a kind."""
import warnings
from collections.abc import Sequence

from ovdense.structures import Vocabulary

_LEVEL = 5  # of the caller of `prompts.chunk_vocabulary`


def tell_of_descriptions(vocabulary: Vocabulary) -> None:
    """Warn of classes without a description (background ones need none), and of those with several, of which the first is asked."""
    bare = [entry.name for entry in vocabulary if not entry.descriptions and not entry.is_background]
    if bare:
        _tell(f"{len(bare)} of {len(vocabulary)} classes have no description and are prompted by name and kind alone "
              f"(the first: {', '.join(repr(n[:80]) for n in bare[:3])}); attach some with text.vocabulary.with_descriptions")  # fmt: skip
    several = [entry.name for entry in vocabulary if len(entry.descriptions) > 1]
    if several:
        _tell(f"{len(several)} classes have several descriptions and are asked by the first of them (such as {several[0][:80]!r}); "
              'to ask by all that they say, write them as one, its parts separated by "; "')  # fmt: skip


def tell_of_equal_texts(vocabulary: Vocabulary, texts: Sequence[str]) -> None:
    """Warn of classes that are asked by the same text: nothing tells them apart, each gets the detections of all."""
    classes_of: dict[str, list[str]] = {}
    for entry, text in zip(vocabulary, texts, strict=True):
        classes_of.setdefault(text, []).append(entry.name)
    equal = {text: names for text, names in classes_of.items() if len(names) > 1}
    if equal:
        text, names = next(iter(equal.items()))
        _tell(f"{sum(map(len, equal.values()))} of {len(vocabulary)} classes are asked by the text of another, so that each gets what both find "
              f"({names[0][:80]!r} and {names[1][:80]!r} by {text.strip()[:80]!r}); say what tells them apart outside of brackets, or in descriptions")


def _tell(message: str) -> None:
    warnings.warn(message, stacklevel=_LEVEL)
