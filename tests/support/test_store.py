"""Support sets on disk: found by what they were made with, resumed, and never confused."""
import json

import numpy as np
import pytest
from PIL import Image

from ovdense.support.store import MANIFEST, PARTIAL, SupportStore

MADE = {"by": "retrieval", "encoder": "abc", "k": 2}


def picture(value: int) -> np.ndarray:
    return np.full((4, 6, 3), value, dtype=np.uint8)


@pytest.fixture
def file(tmp_path):
    Image.fromarray(picture(7)).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def test_store__gives_back_files_and_arrays_with_their_details(tmp_path, file):
    store = SupportStore(tmp_path / "store")
    assert store.find("cat", MADE) is None
    put = store.put("cat", MADE, [(file, {"similarity": 0.5}), (picture(9), {"seed": 42})])
    found = store.find("cat", MADE)
    assert found == put and len(found) == 2 and found.made_with == MADE
    assert [i.details for i in found.images] == [{"similarity": 0.5}, {"seed": 42}]
    np.testing.assert_array_equal(found.images[0].read(), picture(7))
    np.testing.assert_array_equal(found.images[1].read(), picture(9))


def test_store__another_request_is_another_set(tmp_path, file):
    store = SupportStore(tmp_path / "store")
    store.put("cat", MADE, [(file, {})])
    assert store.find("Cat", MADE) is None and store.find("cat", {**MADE, "k": 3}) is None
    assert store.find("cat", dict(reversed(MADE.items()))) is not None  # the order of keys is nothing


def test_writer__goes_on_where_it_stopped(tmp_path):
    store = SupportStore(tmp_path)
    writer = store.begin("a cat / dog", MADE)
    writer.add(picture(1), seed=0)
    writer.add(picture(2), seed=1)
    with open(writer.folder / PARTIAL, "a") as lines:  # killed in the middle of a line
        lines.write('{"file": "00002.p')
    assert store.find("a cat / dog", MADE) is None
    again = store.begin("a cat / dog", MADE)
    assert len(again) == 2
    again.add(picture(3), seed=2)
    found = again.finish()
    assert [i.details["seed"] for i in found.images] == [0, 1, 2] and store.find("a cat / dog", MADE) == found
    np.testing.assert_array_equal(found.images[2].read(), picture(3))


def test_set__fingerprint_follows_the_images_in_order(tmp_path, file):
    store = SupportStore(tmp_path)
    one = store.put("x", {"n": 1}, [(file, {}), (picture(2), {})])
    two = store.put("x", {"n": 2}, [(picture(2), {}), (file, {})])
    assert one.fingerprint() == store.find("x", {"n": 1}).fingerprint() != two.fingerprint()


def test_store__says_what_is_wrong(tmp_path, file):
    store = SupportStore(tmp_path / "store")
    found = store.put("cat", MADE, [(file, {})])
    Image.fromarray(picture(8)).save(file)
    with pytest.raises(ValueError, match="content has changed"):
        found.images[0].read()
    (store.place("cat", MADE) / MANIFEST).write_text(json.dumps({"name": "cat"}))
    with pytest.raises(ValueError, match="is damaged"):
        store.find("cat", MADE)
    with pytest.raises(ValueError, match="at least one image"):
        store.put("dog", MADE, [])
    with pytest.raises(FileNotFoundError, match="existing file"):
        store.begin("dog", MADE).add(tmp_path / "missing.jpg")
    with pytest.raises(ValueError, match="uint8"):
        store.begin("dog", MADE).add(np.zeros((2, 2, 3)))
