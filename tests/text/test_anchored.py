"""Anchored sentences: the table's arithmetic, its cache, and what centring does."""
import pytest
import torch
from torch import nn

from ovdense.text.anchored import AnchoredTextEncoder
from ovdense.text.cache import EmbeddingCache
from ovdense.text.prompts import fill_template, unit


class Letters(nn.Module):
    """A stand-in encoder: counts of letters."""

    calls = 0

    def embed(self, sentences, templates=("{}",)):
        type(self).calls += 1
        count = torch.tensor([[[1.0 + fill_template(t, s).count(c) for c in "abcdefgh"] for t in templates] for s in sentences])
        return unit(unit(count).mean(1))

    def fingerprint(self):
        return "letters"


NAMES, GLOSSES = ("cab", "deed", "fag"), ("a bed", "hedge", "beach")


def make(tmp_path, **kwargs):
    return AnchoredTextEncoder(Letters(), names=NAMES, glosses=GLOSSES, cache=EmbeddingCache(tmp_path), **kwargs)


def test_anchors__are_name_plus_half_gloss_less_half_the_mean(tmp_path):
    rows = Letters()
    raw = unit(rows.embed(NAMES, ("a photo of a {}.",)) + 0.5 * rows.embed(GLOSSES))
    torch.testing.assert_close(make(tmp_path).anchors_MD, unit(raw - 0.5 * raw.mean(0)))


def test_embed__is_centred_alike_and_unit(tmp_path):
    encoder = make(tmp_path, centering=1.0)
    rows = encoder.embed(["head", "bag"])
    torch.testing.assert_close(rows, unit(Letters().embed(["head", "bag"]) - encoder.mean_D))
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(2))


def test_table__is_computed_once_and_keyed_by_what_it_depends_on(tmp_path):
    make(tmp_path)
    before = Letters.calls
    make(tmp_path, centering=0.25)  # made of the same two requests
    assert Letters.calls == before
    AnchoredTextEncoder(Letters(), names=NAMES, glosses=GLOSSES, template="plain", cache=EmbeddingCache(tmp_path))
    assert Letters.calls == before + 1  # other sentences; the glosses are the same


def test_fingerprint__follows_centering_and_weights(tmp_path):
    prints = {make(tmp_path).fingerprint(), make(tmp_path, centering=1.0).fingerprint(), make(tmp_path, gloss_weight=0.1).fingerprint()}
    assert len(prints) == 3 and make(tmp_path).fingerprint() in prints


@pytest.mark.parametrize("change, message", [(dict(names=("a",)), "each anchor"), (dict(centering=2.0), "centering must")])
def test_anchored__bad_input(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        AnchoredTextEncoder(Letters(), **{"names": NAMES, "glosses": GLOSSES, "cache": EmbeddingCache(tmp_path), **change})
