"""The method of the page "Adding a method": what a new method must do, tested as the page says."""
import sys

import numpy as np
import pytest
import torch

from ovdense.structures import Vocabulary
from tests.docs.pages import ROOT


@pytest.fixture(scope="module")
def method():
    sys.path.insert(0, str(ROOT / "docs" / "examples"))
    import colour_words

    yield colour_words
    sys.path.remove(str(ROOT / "docs" / "examples"))


def _predictor(method):
    from ovdense import OpenVocabPredictor
    from ovdense.data.transforms import ResizeShortestEdge

    return OpenVocabPredictor(method.ColourWords(stride=2), resize=ResizeShortestEdge(short_sides=(64,), max_size=128))


def _picture():
    picture = np.full((64, 96, 3), 255, np.uint8)
    picture[:, :32], picture[:, 64:] = (220, 30, 30), (20, 40, 220)
    return picture


def test_colour_words__permuting_the_vocabulary_permutes_the_map_and_swaps_give_the_same_bits(method):
    model, names = _predictor(method), ["a red ring", "the blue star", "white paper"]
    model.set_vocabulary(names)
    first = model.predict(_picture()).label_map_HW
    assert (first[:, :32] == 0).all() and (first[:, 32:64] == 2).all() and (first[:, 64:] == 1).all()
    model.set_vocabulary(names[::-1])
    assert torch.equal(2 - model.predict(_picture()).label_map_HW, first)
    model.set_vocabulary(names)
    assert torch.equal(model.predict(_picture()).label_map_HW, first)


def test_colour_words__is_registered_and_says_what_is_wrong(method):
    from ovdense.registry import MODELS

    assert MODELS.get("ColourWords") is method.ColourWords
    with pytest.raises(ValueError, match="'a red ring'"):
        method.ColourWords().encode_text(Vocabulary.of(["ring"]))


def test_colour_words__a_page_long():
    assert len((ROOT / "docs" / "examples" / "colour_words.py").read_text().splitlines()) <= 80
