"""The web page under many clients at once: everyone gets an answer or a polite refusal, and afterwards it serves as before. Loopback only."""
import io
import threading
import time
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from ovdense.web.engine import Engine, ModelChoice
from ovdense.web.limits import Limits
from tests.web.server import get, post, serving

CLIENTS, WAITING, ROUNDS = 50, 8, 2
LIMITS = Limits(upload_mib=1.0, megapixels=2.0, classes=5, characters=120, waiting=WAITING, images=40, answers=4, side=200)


def picture(seed: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (48, 64, 3), dtype=np.uint8)).save(out, format="PNG")
    return out.getvalue()


@pytest.fixture(scope="module")
def site():
    engine = Engine([ModelChoice(name="mini", config="mini", about="label maps")], limits=LIMITS, device="cpu")
    with serving(engine) as url:
        yield url, engine


def one_client(url: str, seed: int) -> list[tuple[int, dict]]:
    """Return status and content of each request of a client that drops a picture and asks, ROUNDS times; one in ten sends junk."""
    said = []
    for n in range(ROUNDS):
        status, kept = post(url + "image", b"junk" if seed % 10 == 9 else picture(100 * seed + n))
        said.append((status, kept))
        said.append(post(url + "ask", {"image": kept.get("image", "none"), "texts": [f"thing {seed}", "sky"], "model": "mini"}))
    return said


def test_fifty_clients__are_answered_or_refused_politely_and_it_comes_back(site):
    url, engine = site
    assert post(url + "ask", {"image": post(url + "image", picture(0))[1]["image"], "texts": ["sky"], "model": "mini"})[0] == 200  # loads the model
    begun, found, start = time.monotonic(), {}, threading.Barrier(CLIENTS)

    def client(seed: int) -> None:
        start.wait()
        found[seed] = one_client(url, seed)

    threads = [threading.Thread(target=client, args=(seed,), daemon=True) for seed in range(1, CLIENTS + 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len(found) == CLIENTS, "nobody is left waiting"
    requests = [pair for said in found.values() for pair in said]
    counts = Counter(status for status, _ in requests)
    print(f"{CLIENTS} clients, {len(requests)} requests in {time.monotonic() - begun:.1f} s: {dict(counts)}")
    assert set(counts) <= {200, 404, 410, 415, 422, 503}, "no request fails in another way"
    assert all(len(content["error"]) > 20 for status, content in requests if status != 200)
    answered = [content for status, content in requests if status == 200 and "answer" in content]
    assert len(answered) >= WAITING and all(content["overlay"] for content in answered)
    assert counts[503] >= 1, "the queue is shorter than the crowd"
    assert len(engine._images) <= LIMITS.images and len(engine._answers) <= LIMITS.answers
    assert get(url + "about")[0] == 200
    for seed in range(3):
        status, kept = post(url + "image", picture(seed))
        status, answer = post(url + "ask", {"image": kept["image"], "texts": ["sky"], "model": "mini"})
        assert status == 200 and [c["name"] for c in answer["classes"]][-1] == "sky", "it comes back"
