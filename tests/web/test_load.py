"""The web page under many clients at once: everyone gets an answer or a polite refusal, and afterwards it serves as before. Loopback only.

The engine is held until the whole crowd has come, so that nothing here depends on how fast the machine is.
"""
import io
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from PIL import Image

from ovdense.api import load
from ovdense.data.transforms import ResizeShortestEdge
from ovdense.web.engine import Engine, ModelChoice
from ovdense.web.limits import Limits
from tests.ranks import PATIENCE
from tests.web.server import get, post, serving

CLIENTS, JUNK, WAITING, FEW = 50, 5, 4, 3
LIMITS = dict(upload_mib=1.0, megapixels=2.0, classes=5, characters=120, waiting=WAITING, answers=4, side=200)
NAMES = ("sky", "a ring", "a star", "grass")


def picture(seed: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (48, 64, 3), dtype=np.uint8)).save(out, format="PNG")
    return out.getvalue()


@pytest.fixture(scope="module")
def predictor():
    found = load("mini", device="cpu")
    found.resize = ResizeShortestEdge((64,), 256)  # quick: it is the page that is tried here
    found.model.encoder.image.short_sides = (64,)
    return found


def engine_of(predictor, images: int) -> Engine:
    """Return an engine that keeps so many pictures, its model loaded."""
    engine = Engine([ModelChoice(name="mini", config="mini", about="label maps")], limits=Limits(**LIMITS, images=images), device="cpu")
    engine._models["mini"] = predictor
    predictor.remember_images(max_images=images)
    return engine


class Crowd:
    """Clients that do `work(seed)` all at once, each in a thread of its own; `found[seed]` is what came back so far."""

    def __init__(self, work: Callable[[int], tuple[int, dict]], seeds: Sequence[int]) -> None:
        self.found: dict[int, tuple[int, dict]] = {}
        together = threading.Barrier(len(seeds))

        def client(seed: int) -> None:
            together.wait()
            self.found[seed] = work(seed)

        self.threads = [threading.Thread(target=client, args=(seed,), daemon=True) for seed in seeds]
        for thread in self.threads:
            thread.start()

    def through(self, count: int) -> None:
        """Wait until so many have something back."""
        end = time.monotonic() + PATIENCE
        while len(self.found) < count:
            assert time.monotonic() < end, f"{len(self.found)} of {len(self.threads)} have something back, {count} should"
            time.sleep(0.01)

    def all(self) -> dict[int, tuple[int, dict]]:
        """Return what everyone got, at the end."""
        self.through(len(self.threads))
        return self.found


def drop(url: str, seed: int) -> tuple[int, dict]:
    return post(url + "image", b"junk" if seed < JUNK else picture(seed))


def ask(url: str, image: str, text: str = "sky") -> tuple[int, dict]:
    return post(url + "ask", {"image": image, "texts": [text], "model": "mini"})


def test_fifty_clients__are_answered_or_refused_politely_and_it_comes_back(predictor):
    engine = engine_of(predictor, CLIENTS)
    with serving(engine) as url:
        began = time.monotonic()
        dropped = Crowd(lambda seed: drop(url, seed), range(CLIENTS)).all()
        assert [dropped[seed][0] for seed in range(CLIENTS)] == [415] * JUNK + [200] * (CLIENTS - JUNK)
        image, seeds, places = {s: kept.get("image") for s, (_, kept) in dropped.items()}, range(JUNK, CLIENTS), WAITING + 1
        with engine._lock:  # the answer that all wait for takes until the whole crowd has come
            crowd = Crowd(lambda seed: ask(url, image[seed], NAMES[seed % 4]), seeds)
            crowd.through(len(seeds) - places)
            assert {status for status, _ in crowd.found.values()} == {503}, "who does not fit into the queue is told so at once"
            assert get(url + "about")[0] == drop(url, CLIENTS - 1)[0] == 200, "the page and new pictures do not wait for the model"
        asked = crowd.all()
        assert Counter(status for status, _ in asked.values()) == {200: places, 503: len(seeds) - places}
        refusals = [content["error"] for status, content in (*dropped.values(), *asked.values()) if status != 200]
        assert all(len(words) > 20 for words in refusals) and any("in a moment" in words for words in refusals)
        refused = [seed for seed, (status, _) in asked.items() if status == 503]
        later = Crowd(lambda seed: ask(url, image[seed], NAMES[seed % 4]), refused[:places]).all()  # as many as there is room for
        for seed, (status, answer) in {**asked, **later}.items():
            if seed not in refused[places:]:
                assert status == 200 and answer["overlay"] and answer["classes"][-1]["name"] == NAMES[seed % 4], "each gets its own answer"
        assert len(engine._images) == CLIENTS - JUNK and len(engine._answers) == LIMITS["answers"]
        print(f"{CLIENTS} clients: {places} answered and {len(refused)} refused of {len(seeds)} at once, then {places} of the refused answered, "
              f"{time.monotonic() - began:.1f} s")  # fmt: skip


def test_fifty_clients__whose_pictures_are_no_longer_kept_are_told_to_drop_them_again(predictor):
    forgetful = engine_of(predictor, FEW)
    with serving(forgetful) as url:
        first = drop(url, JUNK)[1]["image"]
        with forgetful._lock:
            crowd = Crowd(lambda seed: ask(url, first, NAMES[seed % 4]), range(WAITING + 1))  # they all fit into the queue
            dropped = Crowd(lambda seed: drop(url, seed), range(JUNK + 1, CLIENTS)).all()
            assert {status for status, _ in dropped.values()} == {200} and len(forgetful._images) == FEW
        assert all(status == 404 and "drop it again" in answer["error"] for status, answer in crowd.all().values())
        kept = [seed for seed, (_, content) in dropped.items() if content["image"] in forgetful._images]
        assert len(kept) == FEW and all(ask(url, dropped[seed][1]["image"])[0] == 200 for seed in kept), "the last ones are there"
        again = drop(url, JUNK)[1]["image"]
        assert again == first and ask(url, again)[0] == 200 and len(forgetful._images) == FEW


def test_memory__is_given_back_now_and_then(predictor, monkeypatch):
    engine, called = engine_of(predictor, FEW), []
    monkeypatch.setattr("ovdense.web.engine.return_memory", lambda: called.append(engine._count))
    monkeypatch.setattr("ovdense.web.engine.RETURN_EVERY", 2)
    kept = engine.add_image(picture(JUNK))["image"]
    for _ in range(5):
        engine.ask({"image": kept, "texts": ["sky"]})
    assert called == [2, 4]
