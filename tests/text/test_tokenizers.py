"""Tokens, character spans, padding and overflow."""
import copy
import pickle

import pytest
import torch
from torch.utils.data import DataLoader

from ovdense.text.tokenizers import Tokenizer, embedded_folder, embedded_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return embedded_tokenizer()


def test_encode__ids_spans_and_padding(tokenizer):
    text = tokenizer.encode(["A cat.", "kittens"])
    assert text.ids_BL.tolist() == [[101, 1037, 4937, 1012, 102], [101, 18401, 2015, 102, 0]]
    assert text.valid_BL.tolist() == [[True] * 5, [True] * 4 + [False]]
    assert text.char_spans == ((None, (0, 1), (2, 5), (5, 6), None), (None, (0, 6), (6, 7), None, None))


def test_encode__spans_cut_the_words_out(tokenizer):
    caption = "Café  au lait, UPPER-case 東京"
    (spans,) = tokenizer.encode([caption]).char_spans
    assert "".join(caption[slice(*s)] for s in spans if s) == "".join(caption.split())


def test_encode__pad_max(tokenizer):
    text = tokenizer.encode(["cat"], max_tokens=6, pad="max")
    assert text.ids_BL.tolist() == [[101, 4937, 102, 0, 0, 0]] and text.valid_BL.sum() == 3


def test_encode__nothing_between_the_special_tokens(tokenizer):
    assert tokenizer.encode([""]).ids_BL.tolist() == [[101, 102]]


def test_encode__overflow_is_an_error_that_names_the_caption(tokenizer):
    with pytest.raises(ValueError, match=r"at most 256 tokens, got 302 in 'cat cat"):
        tokenizer.encode(["dog", "cat " * 300])
    assert tokenizer.encode(["cat " * 254]).ids_BL.shape == (1, 256)  # exactly full


def test_encode__truncate_keeps_the_closing_token(tokenizer):
    text = tokenizer.encode(["cat dog bird"], max_tokens=4, on_overflow="truncate")
    assert text.ids_BL.tolist() == [[101, 4937, 3899, 102]] and text.char_spans[0] == (None, (0, 3), (4, 7), None)


@pytest.mark.parametrize(("captions", "options", "message"), [
    ("cat", {}, "one string"), ([], {}, "at least one"), ([3], {}, "must be strings"), (["cat"], {"pad": "long"}, "pad must be"),
    (["a \ud83d cat"], {}, "whole characters"), (["cat"], {"on_overflow": "cut"}, "on_overflow"), (["cat"], {"max_tokens": 2}, "special tokens"),
])
def test_encode__wrong_arguments(tokenizer, captions, options, message):
    with pytest.raises(ValueError, match=message):
        tokenizer.encode(captions, **options)


def test_count__without_special_tokens(tokenizer):
    assert [tokenizer.count(t) for t in ("", "cat", "a cat. ", "cat " * 1000)] == [0, 1, 3, 1000]


def test_copies_are_equal(tokenizer):
    for other in (copy.deepcopy(tokenizer), pickle.loads(pickle.dumps(tokenizer))):
        assert other.fingerprint() == tokenizer.fingerprint()
        assert torch.equal(other.encode(["a cat"]).ids_BL, tokenizer.encode(["a cat"]).ids_BL)


class Captions(torch.utils.data.Dataset):
    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def __len__(self):
        return 4

    def __getitem__(self, i):
        return self.tokenizer.encode(["cat " * (i + 1)]).ids_BL


def test_encode__in_loader_workers(tokenizer):
    tokenizer.encode(["used before the fork"])
    loader = DataLoader(Captions(tokenizer), batch_size=None, num_workers=2)
    assert [ids.shape[1] for ids in loader] == [3, 4, 5, 6]


def test_from_pretrained__local_folder_gives_the_same_tokens(tokenizer):
    other = Tokenizer.from_pretrained(embedded_folder())
    captions = ["Café au lait, a kind of Drink. ", "x-ray machine"]
    assert torch.equal(other.encode(captions).ids_BL, tokenizer.encode(captions).ids_BL)
    assert other.encode(captions).char_spans == tokenizer.encode(captions).char_spans


def test_from_file__missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="tokenizer.json"):
        Tokenizer.from_file(tmp_path / "tokenizer.json")
