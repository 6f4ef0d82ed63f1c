"""Weights by a hub's name where no hub is: at once, with words, and without asking it again."""
import time

import pytest
from huggingface_hub import constants

from ovdense.compat import hub
from ovdense.text.encoders import RobertaTextEncoder
from ovdense.text.tokenizers import Tokenizer


@pytest.fixture
def offline(monkeypatch, tmp_path):
    hub._reachable.cache_clear()
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    yield
    hub._reachable.cache_clear()


def test_hub__that_cannot_be_reached_is_said_at_once(offline, monkeypatch):
    slept = []
    monkeypatch.setattr(time, "sleep", slept.append)
    with pytest.raises(FileNotFoundError, match="'nobody/no-such-model'.*cannot be reached.*model.text_encoder.weights=/FOLDER"):
        RobertaTextEncoder(weights="nobody/no-such-model")
    with pytest.raises(FileNotFoundError, match="'nobody/no-such-model'.*KEY=/FOLDER"):
        Tokenizer.from_pretrained("nobody/no-such-model")
    assert not slept and constants.HF_HUB_OFFLINE is False, "it retried for half a minute, each"


def test_hub__of_clip_towers_too(offline):
    from ovdense.vision.dense_clip import ClipDenseEncoder

    with pytest.raises(FileNotFoundError, match="'laion2b_e16'.*pretrained=/FILE"):
        ClipDenseEncoder("ViT-B-32", pretrained="laion2b_e16")


def test_hub__has_nothing_to_do_with_files(tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "_reachable", lambda: pytest.fail("asked"))
    for source in (None, tmp_path, str(tmp_path)):
        with pytest.raises(OSError, match="of its own"), hub.hub_access(source, "a=b"):
            raise OSError("of its own")


def test_hub__what_it_says_is_told(monkeypatch):
    monkeypatch.setattr(hub, "_reachable", lambda: True)
    with pytest.raises(FileNotFoundError, match="the hub said: no such repository"), hub.hub_access("a/b", "c=/PATH"):
        raise OSError("no such repository\nand more")
    with pytest.raises(RuntimeError, match="shapes"), hub.hub_access("a/b", "c=/PATH"):
        raise RuntimeError("shapes differ")
