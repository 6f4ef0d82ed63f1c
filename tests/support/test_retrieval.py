"""The index: exact answers in a stable order, contents computed once, broken files left out, killed work kept."""
import os
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import distributed
from torch.nn import functional as F

from ovdense.support.pool import KEY_BYTES, EmbeddingPool, content_key
from ovdense.support.retrieval import ImageIndex, folder_images, index_images
from ovdense.support.retrieve import retrieve_support
from ovdense.support.store import SupportStore
from tests.ranks import call_on_ranks


class MeanColour:
    """A stand-in encoder: the mean colour as a unit vector."""

    width = 3

    def __init__(self, name="mean"):
        self.name, self.seen = name, 0

    def embed_images(self, images):
        self.seen += len(images)
        return F.normalize(torch.stack([torch.from_numpy(i.reshape(-1, 3).astype(np.float32)).mean(0) + 1 for i in images]), dim=1)

    def fingerprint(self):
        return self.name


def save(folder: Path, name: str, colour) -> Path:
    folder.mkdir(exist_ok=True)
    Image.fromarray(np.tile(np.array(colour, dtype=np.uint8), (5, 4, 1))).save(folder / name)
    return folder / name


@pytest.fixture
def archive(tmp_path):
    colours = {"red.png": (250, 5, 5), "green.png": (5, 250, 5), "blue.png": (5, 5, 250), "orange.png": (250, 120, 5), "grey.png": (90, 90, 90)}
    for name, colour in colours.items():
        save(tmp_path / "archive", name, colour)
    return tmp_path / "archive"


RED = F.normalize(torch.tensor([[1.0, 0.0, 0.0]]))


def names(index, found, q=0):
    return [index.paths[p].stem for p in found.position_Qk[q].tolist()]


def test_retrieve__ranks_as_the_release_does(golden_root):
    """Similarities, ranks and file names of ImageNet1KDataset.set_category; the index holds the case's embeddings."""
    folder = golden_root / "reco" / "retrieve"
    given, wanted = np.load(folder / "inputs.npz"), np.load(folder / "outputs.npz")
    rows = given["image_embeddings"]
    pool = MemoryPool(rows)
    index = ImageIndex([Path(str(f)) for f in given["filenames"]], [bytes([n // 256, n % 256]) for n in range(len(rows))], pool)
    for category in given["categories"]:
        key = str(category).replace(" ", "_")
        text, similarity = torch.from_numpy(wanted[f"text__{key}"]), wanted[f"similarity__{key}"]
        files = [str(f) for f in wanted[f"topk_files__{key}"]]
        for k in (len(files), len(rows)):
            found = index.top_k(text[None], k)
            np.testing.assert_allclose(found.score_Qk[0], similarity[wanted[f"rank__{key}"]][:k], atol=1e-6)
            assert [index.paths[p].name for p in found.position_Qk[0].tolist()][: len(files)] == files


class MemoryPool(EmbeddingPool):
    """A pool of given rows."""

    def __init__(self, rows):
        self.table, self.width, self.folder = rows, rows.shape[1], Path("memory")

    def places(self, keys):
        return np.stack([np.zeros(len(keys), dtype=np.int64), np.arange(len(keys))], axis=1)

    def rows(self, places_N2):
        return self.table[places_N2[:, 1]]


def test_top_k__equal_images_keep_the_archives_order(monkeypatch):
    rows = np.tile(np.eye(2, dtype=np.float32), (50, 1))
    for block in (7, 1000):
        monkeypatch.setattr("ovdense.support.retrieval.BLOCK", block)
        index = ImageIndex([Path(str(n)) for n in range(100)], [b""] * 100, MemoryPool(rows))
        found = index.top_k(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), 60)
        assert found.position_Qk[0].tolist() == [*range(1, 100, 2), *range(0, 20, 2)]
        assert found.position_Qk[1].tolist() == [*range(0, 100, 2), *range(1, 20, 2)]
    assert index.top_k(torch.ones(1, 2), 1000).position_Qk.shape == (1, 100)


def test_index__hashes_its_contents_once(monkeypatch):
    index = ImageIndex([Path("a"), Path("b")], [b"1", b"2"], MemoryPool(np.eye(2, dtype=np.float32)))
    first = index.fingerprint()
    monkeypatch.setattr("ovdense.support.retrieval.hashlib.sha256", None)
    assert index.fingerprint() == first


def test_index__computes_each_content_once_and_follows_moves(tmp_path, archive):
    embedder, kwargs = MeanColour(), dict(folder=tmp_path / "index", batch_size=2, progress=False)
    index = index_images(folder_images(archive), embedder, **kwargs)
    assert embedder.seen == 5 and names(index, index.top_k(RED, 3)) == ["red", "orange", "grey"]
    assert index_images(folder_images(archive), embedder, **kwargs).fingerprint() == index.fingerprint() and embedder.seen == 5
    (archive / "red.png").rename(archive / "a_red.png")
    save(archive, "pink.png", (250, 60, 60))
    again = index_images(folder_images(archive), embedder, **kwargs)
    assert embedder.seen == 6 and names(again, again.top_k(RED, 3)) == ["a_red", "pink", "orange"]
    save(archive, "a_red.png", (5, 5, 240))  # another picture under the old name
    assert names(*(lambda i: (i, i.top_k(RED, 1)))(index_images(folder_images(archive), embedder, **kwargs))) == ["pink"]
    assert index_images(folder_images(archive), MeanColour("other"), **kwargs).pool.folder != index.pool.folder


def test_index__leaves_broken_and_missing_images_out(tmp_path, archive):
    (archive / "broken.jpg").write_bytes(b"no image")
    whole = (archive / "green.png").read_bytes()
    (archive / "cut.png").write_bytes(whole[: len(whole) // 2])
    paths = [*folder_images(archive), archive / "gone.jpg"]
    index = index_images(paths, MeanColour(), folder=tmp_path / "index", progress=False)
    assert sorted(p.name for p in index.skipped) == ["broken.jpg", "cut.png", "gone.jpg"] and len(index) == 5
    assert "cannot be read" in index.skipped[archive / "broken.jpg"]
    with pytest.raises(ValueError, match="at least one image"):
        index_images([archive / "broken.jpg"], MeanColour(), folder=tmp_path / "index", progress=False)


def test_pool__a_tail_cut_short_is_not_read(tmp_path):
    pool = EmbeddingPool(tmp_path, 2)
    writer = pool.writer()
    writer.append([content_key(b"a"), content_key(b"b")], np.eye(2, dtype=np.float32), [])
    writer.close()
    with open(tmp_path / "shard-0000.rows", "ab") as file:
        file.write(b"\0" * 11)
    with open(tmp_path / "shard-0000.keys", "ab") as file:
        file.write(content_key(b"c")[: KEY_BYTES - 1])
    writer = pool.writer()
    writer.append([content_key(b"d")], np.array([[3.0, 4.0]], dtype=np.float32), [])
    other = pool.writer()  # while the first is open
    other.append([content_key(b"e")], np.array([[5.0, 6.0]], dtype=np.float32), [])
    writer.close(), other.close()
    pool.refresh()
    assert len(pool) == 4 and content_key(b"c") not in pool
    rows = pool.rows(pool.places([content_key(x) for x in (b"e", b"a", b"d")]))
    assert rows.tolist() == [[5, 6], [1, 0], [3, 4]]
    with pytest.raises(ValueError, match="another encoder"):
        EmbeddingPool(tmp_path, 3)


@pytest.mark.slow
def test_index__a_killed_process_loses_at_most_its_batch(tmp_path):
    for n in range(40):
        save(tmp_path / "many", f"{n:02d}.png", (n * 6, 10, 200 - n))
    code = textwrap.dedent(f"""
        import sys, time
        sys.path.insert(0, {str(Path(__file__).resolve().parents[2])!r})
        from tests.support.test_retrieval import MeanColour, folder_images, index_images
        class Slow(MeanColour):
            def embed_images(self, images):
                print(self.seen, flush=True)
                time.sleep(0.05)
                return super().embed_images(images)
        index_images(folder_images({str(tmp_path / "many")!r}), Slow(), folder={str(tmp_path / "index")!r}, batch_size=4, progress=False)
    """)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    done = 0
    while done < 20:
        done = int(process.stdout.readline())
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    embedder = MeanColour()
    index = index_images(folder_images(tmp_path / "many"), embedder, folder=tmp_path / "index", progress=False)
    assert len(index) == 40 and embedder.seen <= 40 - done  # what was done before the batch that was running is there


def index_and_queries(folder: Path, images: int, width: int) -> tuple[ImageIndex, torch.Tensor]:
    """Return an index of unit rows drawn with seed 0, kept beside `folder`, and five queries drawn after them."""
    generator = torch.Generator().manual_seed(0)
    pool = MemoryPool(F.normalize(torch.randn(images, width, generator=generator), dim=1).numpy())
    pool.folder = folder
    index = ImageIndex([Path(str(n)) for n in range(images)], [bytes([n // 256, n % 256]) for n in range(images)], pool)
    return index, F.normalize(torch.randn(5, width, generator=generator), dim=1)


def test_faiss__finds_what_the_exact_search_finds(tmp_path):
    index, queries = index_and_queries(tmp_path, images=3000, width=16)
    exact = index.top_k(queries, 20)
    for kwargs in (dict(factory="Flat"), dict(nprobe=10**6), dict()):
        near = index.top_k(queries, 20, engine="faiss", **kwargs)
        recall = np.mean([len(set(a.tolist()) & set(b.tolist())) / 20 for a, b in zip(near.position_Qk, exact.position_Qk)])
        assert recall == 1 or not kwargs and recall > 0.8
    assert len(list(tmp_path.glob("faiss-*.index"))) == 2  # the default's is made once
    with pytest.raises(ValueError, match="engine must be"):
        index.top_k(queries, 3, engine="annoy")
    with pytest.raises(ValueError, match="queries must have shape"):
        index.top_k(torch.ones(3), 3)


def test_faiss__gives_as_many_as_are_asked_for_however_few_lie_in_the_lists_it_visits(tmp_path):
    index, queries = index_and_queries(tmp_path, images=2000, width=8)
    exact, near = index.top_k(queries, 1500), index.top_k(queries, 1500, engine="faiss", nprobe=2)
    torch.testing.assert_close(near.score_Qk, exact.score_Qk)
    assert near.position_Qk.shape == (5, 1500)


def test_retrieve__keeps_the_set_with_where_it_came_from(tmp_path, archive):
    save(archive, "red_again.png", (250, 5, 5))
    index = index_images(folder_images(archive), MeanColour(), folder=tmp_path / "index", progress=False)
    store = SupportStore(tmp_path / "support")
    found = retrieve_support("red thing", RED[0], index, 3, store, said={"templates": "plain"})
    assert [i.path.stem for i in found.images] == ["red", "orange", "grey"]
    assert [i.details["rank"] for i in found.images] == [0, 1, 2] and found.images[0].details["similarity"] > 0.99
    assert found.made_with["by"] == "retrieval" and found.made_with["templates"] == "plain" and found.made_with["archive_images"] == 6
    assert retrieve_support("red thing", RED[0], index, 3, store, said={"templates": "plain"}) == found
    twice = retrieve_support("red thing", RED[0], index, 2, store, deduplicate=False)
    assert [i.path.stem for i in twice.images] == ["red", "red_again"]
    (archive / "orange.png").unlink()
    assert [i.path.stem for i in retrieve_support("red thing", RED[0], index, 3, store, said={"templates": "plain"}).images] == ["red", "grey", "blue"]


def test_retrieve__two_that_ask_at_once_store_one_set(tmp_path, archive, monkeypatch):
    """While one stores the set, another has looked for it in vain already: it waits, and takes what is there then."""
    index, store, stored = index_images(folder_images(archive), MeanColour(), folder=tmp_path / "index", progress=False), SupportStore(tmp_path / "support"), []
    put = SupportStore.put

    def slow(self, *args):
        stored.append(1)
        time.sleep(0.2)
        return put(self, *args)

    monkeypatch.setattr(SupportStore, "put", slow)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: retrieve_support("red thing", RED[0], index, 3, store), range(2))
    assert first == second and stored == [1]


def test_retrieve__a_set_that_another_run_stores_between_two_ranks_looks_is_found(tmp_path, archive, monkeypatch):
    """The first rank has found it, this one had looked too early; a cache that this one cannot see is said."""
    index, store = index_images(folder_images(archive), MeanColour(), folder=tmp_path / "index", progress=False), SupportStore(tmp_path / "support")
    stored, find, looks = retrieve_support("red thing", RED[0], index, 3, store), SupportStore.find, []

    def late(self, *args):
        looks.append(1)
        return None if len(looks) == 1 else find(self, *args)

    monkeypatch.setattr(SupportStore, "find", late)
    monkeypatch.setattr("ovdense.support.retrieve.dist.broadcast_object_list", lambda said: said.__setitem__(0, True))
    assert retrieve_support("red thing", RED[0], index, 3, store) == stored
    with pytest.raises(FileNotFoundError, match="must see one cache of support sets"):
        retrieve_support("red thing", RED[0], index, 3, SupportStore(tmp_path / "own"))


def index_a_share(folder):
    """Index FOLDER/many with the other ranks; write how many pictures this one has embedded, and what looks most like red."""
    embedder = MeanColour()
    time.sleep(distributed.get_rank())  # the second one looks when the first has embedded its share: each still has its own
    index = index_images(folder_images(f"{folder}/many"), embedder, folder=f"{folder}/index", batch_size=4, progress=False)
    Path(f"{folder}/said{distributed.get_rank()}").write_text(" ".join(map(str, (embedder.seen, *names(index, index.top_k(RED, 15))))))


@pytest.mark.slow
def test_index__several_processes_share_the_work_and_agree(tmp_path):
    for n in range(21):
        save(tmp_path / "many", f"{n:02d}.png", (n * 10, 20, 200 - n * 5))
    call_on_ranks(index_a_share, str(tmp_path), folder=tmp_path)
    answers = [(tmp_path / f"said{r}").read_text().split() for r in (0, 1)]
    assert sorted(int(a[0]) for a in answers) == [10, 11] and answers[0][1:] == answers[1][1:]
    alone = index_images(folder_images(tmp_path / "many"), MeanColour(), folder=tmp_path / "index", progress=False)
    assert names(alone, alone.top_k(RED, 15)) == answers[0][1:]
