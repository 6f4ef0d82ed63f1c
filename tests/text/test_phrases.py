"""Spans to tokens by GLIP's rule, phrases in captions, the demo's query strings."""
import pytest
import torch

from ovdense.structures import TokenizedText
from ovdense.text.phrases import char_to_token, find_phrases, parse_queries, phrase_map

#            0123456789012
CAPTION = "a  big cat.  "
SPANS = (None, (0, 1), (3, 6), (7, 9), (9, 10), (10, 11), None)  # "cat" is two pieces


@pytest.fixture
def tokenized():
    ids_BL = torch.zeros(1, 7, dtype=torch.int64)
    return TokenizedText(captions=(CAPTION,), ids_BL=ids_BL, valid_BL=torch.ones_like(ids_BL).bool(), char_spans=(SPANS,))


ROWS = [  # spans, tokens, why
    ([(3, 6)], [2], "one word"),
    ([(3, 10)], [2, 3, 4], "pieces of a word count"),
    ([(1, 6)], [2], "begin falls on blanks: two characters forward"),
    ([(7, 13)], [3, 4, 5], "end falls on two blanks: end - 3"),
    ([(7, 12)], [3, 4, 5], "end falls on one blank: end - 2"),
    ([(0, 1), (7, 10)], [1, 3, 4], "two spans of one phrase"),
    ([(11, 13)], [], "only blanks: nothing"),
    ([], [], "no span: an empty row"),
    ([(8, 9)], [3], "a character inside a token takes the token"),
]


@pytest.mark.parametrize(("spans", "tokens", "why"), ROWS)
def test_phrase_map(tokenized, spans, tokens, why):
    assert phrase_map(tokenized, 0, [spans]).tokens_PL[0].nonzero().flatten().tolist() == tokens, why


def test_phrase_map__no_phrases(tokenized):
    assert phrase_map(tokenized, 0, []).tokens_PL.shape == (0, 7)


@pytest.mark.parametrize("span", [(3, 3), (-1, 2), (5, 14), (6, 3)])
def test_phrase_map__span_outside_the_caption(tokenized, span):
    with pytest.raises(ValueError, match="span must be non-empty and lie in 0..13"):
        phrase_map(tokenized, 0, [[span]])


def test_char_to_token():
    assert [char_to_token(SPANS, c) for c in (0, 1, 3, 5, 6, 8, 9, 12, 99, -1)] == [1, None, 2, 2, None, 3, 4, None, None, None]


def test_find_phrases():
    caption = "A brown dog and a red  frisbee; the dog runs, dogs bark"
    assert find_phrases(caption, ["a red frisbee", "dog", "dog", "dogs"]) == [[(16, 30)], [(8, 11)], [(36, 39)], [(46, 50)]]
    with pytest.raises(ValueError, match="'cat' is not found"):
        find_phrases(caption, ["cat"])
    with pytest.raises(ValueError, match="'frisbee' is not found once more"):
        find_phrases(caption, ["frisbee", "frisbee"])
    with pytest.raises(ValueError, match="must hold a word"):
        find_phrases(caption, [" "])


@pytest.mark.parametrize(("text", "queries"), [
    ("cat. a red chair left of the table", ["cat", "a red chair left of the table"]),
    (" cat .. dog. . ", ["cat", "dog"]),
    ("a 1.5 litre bottle.", ["a 1.5 litre bottle"]),
    ("room 3. dog", ["room 3", "dog"]),
])
def test_parse_queries(text, queries):
    assert parse_queries(text) == queries


def test_parse_queries__errors():
    for text in ("", " . ", "?!."):
        with pytest.raises(ValueError, match="at least one thing"):
            parse_queries(text)
    with pytest.raises(ValueError, match="'Cat' twice"):
        parse_queries("cat. dog. Cat")
