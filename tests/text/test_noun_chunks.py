"""Phrases of captions as users write them."""
import pytest

from ovdense.text import noun_chunks as module
from ovdense.text.noun_chunks import caption_phrases, noun_chunks


def words(caption, phrases=None):
    return [" ".join(caption[b:e] for b, e in spans) for spans in caption_phrases(caption, phrases)]


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("A man in a red shirt is riding a brown horse next to two dogs on the beach.", ["A man", "a red shirt", "a brown horse", "two dogs", "the beach"]),
        ("the large red ring left of a blue star", ["the large red ring", "a blue star"]),
        ("zebra", ["zebra"]),
        ("a white plate topped with a sandwich and french fries", ["a white plate", "a sandwich", "french fries"]),
        ("It sits on the left of the table", ["the table"]),
        ("a black and white dog and a cat", ["a black and white dog", "a cat"]),
        ("an old, rusty and blue truck near a red or green sign", ["an old, rusty and blue truck", "a red or green sign"]),
        ("dogs, cats and mice", ["dogs", "cats", "mice"]),
    ],
)
def test_noun_chunks__of_captions(caption, expected):
    assert words(caption) == expected


def test_caption_phrases__without_a_noun_the_caption_is_the_phrase():
    assert noun_chunks("running quickly") == [] and words(" running quickly ") == ["running quickly"]


def test_caption_phrases__given_as_a_list_or_as_spans():
    assert words("a cat and a cat", ["a cat", "a cat"]) == ["a cat", "a cat"]
    assert caption_phrases("a cat and a cat", ["a cat", "a cat"]) == [[(0, 5)], [(10, 15)]]
    assert caption_phrases("red and blue hats", [[(0, 3), (13, 17)]]) == [[(0, 3), (13, 17)]]


@pytest.mark.parametrize(
    ("caption", "phrases", "said"),
    [(" . ", None, "hold a word"), ("a cat", "cat", "one string"), ("a cat", ["dog"], "not found"), ("a cat", [[(0, 9)]], "0..5"),
     ("a cat", [[]], "non-empty"), ("a cat", [(0, 5)], "all be strings, or each a list of spans"), ("a cat", ["a cat", [(0, 5)]], "all be strings"),
     ("a cat", [[(0, "x")]], "all be strings")],
)
def test_caption_phrases__bad_input_is_named(caption, phrases, said):
    with pytest.raises(ValueError, match=said):
        caption_phrases(caption, phrases)


def test_caption_phrases__without_a_pipeline_says_what_to_install(monkeypatch):
    monkeypatch.setattr(module, "PIPELINES", ("en_core_none",))
    module._pipeline.cache_clear()
    try:
        with pytest.raises(ModuleNotFoundError, match=r"ovdense\[phrases\]"):
            noun_chunks("a cat")
        assert words("a cat", ["cat"]) == ["cat"]
    finally:
        module._pipeline.cache_clear()
