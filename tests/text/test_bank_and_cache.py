"""Banks of class embeddings, and the cache on disk: keys, damage, races."""
import multiprocessing
import os
import warnings
from pathlib import Path

import pytest
import torch

from ovdense.compat.atomic import remove_left
from ovdense.structures import ClassEntry, Vocabulary
from ovdense.text.bank import class_bank
from ovdense.text.cache import EmbeddingCache
from ovdense.text.encoders import BertTextEncoder
from ovdense.text.prompts import fill_template
from tests.ranks import PATIENCE


class CountingEncoder:
    """Unit rows made from the characters of the sentences; counts its calls."""

    def __init__(self, name: str = "one") -> None:
        self.name, self.calls = name, 0

    def fingerprint(self) -> str:
        return self.name

    def embed(self, sentences, templates=("{}",)):
        self.calls += 1
        texts = ["".join(fill_template(t, s) for t in templates) for s in sentences]
        rows = torch.tensor([[len(t), sum(map(ord, t)) % 97 + 1, len(self.name), ord(t[0])] for t in texts]).float()
        return rows / rows.norm(dim=1, keepdim=True)


def files(cache):
    return sorted(p.name for p in cache.folder.iterdir())


def test_cache__second_time_is_read(tmp_path):
    cache, encoder = EmbeddingCache(tmp_path / "deep" / "er"), CountingEncoder()
    first = cache.embed(encoder, ["cat", "dog"])
    assert torch.equal(cache.embed(encoder, ["cat", "dog"]), first) and encoder.calls == 1
    assert len(files(cache)) == 1 and not files(cache)[0].endswith(".tmp")


def test_cache__key_holds_all_that_matters(tmp_path):
    cache, encoder = EmbeddingCache(tmp_path), CountingEncoder()
    asked = [
        (encoder, ["cat", "dog"], ("{}",), torch.float32),
        (encoder, ["dog", "cat"], ("{}",), torch.float32),
        (encoder, ["cat", "dog"], ("a {}",), torch.float32),
        (encoder, ["cat", "dog"], ("a {}", "{}"), torch.float32),
        (encoder, ["cat", "dog"], ("{}",), torch.float16),
        (CountingEncoder("two!"), ["cat", "dog"], ("{}",), torch.float32),
        (encoder, ["cat dog"], ("{}",), torch.float32),
    ]
    for who, sentences, templates, dtype in asked * 2:
        rows = cache.embed(who, sentences, templates, dtype)
        assert torch.equal(rows, who.embed(sentences, templates).to(dtype)) and rows.dtype == dtype
    assert len(files(cache)) == len(asked)
    with pytest.raises(ValueError, match="sequences of strings"):
        cache.embed(encoder, "cat")


def cut(content):
    return content[: len(content) // 2]


def flip_a_bit_of_the_rows(content):
    at = len(content) - 40  # the rows or the checksum: both are caught
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


DAMAGES = [cut, flip_a_bit_of_the_rows, lambda c: b"", lambda c: c[:-1], lambda c: b"not a tensor file at all", lambda c: c + b"x"]


@pytest.mark.parametrize("damage", DAMAGES)
def test_cache__damaged_file_is_removed_and_made_again(tmp_path, damage):
    cache, encoder = EmbeddingCache(tmp_path), CountingEncoder()
    good = cache.embed(encoder, ["cat", "dog", "bird"])
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    path.write_bytes(damage(content))
    with pytest.warns(UserWarning, match="is damaged"):
        assert torch.equal(cache.embed(encoder, ["cat", "dog", "bird"]), good)
    assert encoder.calls == 2 and path.read_bytes() == content
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cache.embed(encoder, ["cat", "dog", "bird"])


def test_cache__file_of_another_request_is_refused(tmp_path):
    cache, encoder = EmbeddingCache(tmp_path), CountingEncoder()
    cache.embed(encoder, ["cat"])
    (path,) = tmp_path.iterdir()
    path.rename(tmp_path / f"{cache.key('one', ['dog'], ('{}',), torch.float32)}.safetensors")
    with pytest.warns(UserWarning, match="damaged"):
        assert torch.equal(cache.embed(encoder, ["dog"]), encoder.embed(["dog"]))


def test_cache__unwritable_folder_is_said(tmp_path):
    (tmp_path / "file").write_text("in the way")
    cache, encoder = EmbeddingCache(tmp_path / "file" / "folder"), CountingEncoder()
    with pytest.warns(UserWarning, match="could not be kept"):
        assert torch.equal(cache.embed(encoder, ["cat"]), encoder.embed(["cat"]))


def refuse(*args, **kwargs):
    raise PermissionError(13, "Permission denied")


def test_cache__read_only_files_are_said(tmp_path, monkeypatch):
    cache, encoder = EmbeddingCache(tmp_path), CountingEncoder()
    good = cache.embed(encoder, ["cat"])
    (path,) = tmp_path.iterdir()
    with monkeypatch.context() as patch, pytest.warns(UserWarning, match="cannot be read.*Permission denied.*OVDENSE_CACHE"):
        patch.setattr("pathlib.Path.read_bytes", refuse)
        assert torch.equal(cache.embed(encoder, ["cat"]), good)
    path.write_bytes(b"damaged")
    with monkeypatch.context() as patch, pytest.warns(UserWarning, match="is damaged.*cannot be removed.*Permission denied"):
        patch.setattr("pathlib.Path.unlink", refuse)
        assert torch.equal(cache.embed(encoder, ["cat"]), good)
    assert encoder.calls == 3


def test_cache__leftovers_of_another_user_do_not_keep_from_writing(tmp_path, monkeypatch):
    left = tmp_path / ".old.0123456789ab.ovdense.tmp"
    left.write_text("")
    os.utime(left, (0, 0))
    cache, unlink = EmbeddingCache(tmp_path), Path.unlink
    monkeypatch.setattr(Path, "unlink", lambda path, **how: refuse() if path == left else unlink(path, **how))
    cache.embed(CountingEncoder(), ["cat"])
    assert len(list(tmp_path.glob("*.safetensors"))) == 1 and left.exists()
    monkeypatch.undo()
    assert remove_left(tmp_path) == 1


def test_cache__default_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("OVDENSE_CACHE", str(tmp_path))
    assert EmbeddingCache().folder == tmp_path / "embeddings"


def hammer(folder: str, barrier, results) -> None:
    """Ask for the same rows again and again while others do, and now and then cut the file short."""
    cache, encoder = EmbeddingCache(folder), CountingEncoder()
    sentences = [f"thing {i}" for i in range(2000)]
    expected = encoder.embed(sentences)
    path = cache.folder / f"{cache.key('one', sentences, ('{}',), torch.float32)}.safetensors"
    barrier.wait()
    wrong = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for i in range(20):
            if i % 5 == 4:
                path.unlink(missing_ok=True)
            if i % 7 == 6 and path.exists():
                try:
                    with open(path, "r+b") as file:
                        file.truncate(100)
                except FileNotFoundError:
                    pass
            wrong += not torch.equal(cache.embed(encoder, sentences), expected)
    results.put(wrong)


def test_cache__two_processes_at_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(2), context.Queue()
    workers = [context.Process(target=hammer, args=(str(tmp_path), barrier, results)) for _ in range(2)]
    for worker in workers:
        worker.start()
    assert [results.get(timeout=PATIENCE) for _ in workers] == [0, 0]
    for worker in workers:
        worker.join()
    assert not list(tmp_path.glob(".*.tmp"))


VOCABULARY = Vocabulary((
    ClassEntry(name="house_cat", synonyms=("kitty", "house cat")),
    ClassEntry(name="bow_(weapon)"),
    ClassEntry(name="bow_(ribbon)"),
    ClassEntry(name="wall", is_background=True),
))


def test_class_bank__rows_and_classes():
    encoder = CountingEncoder()
    bank = class_bank(VOCABULARY, encoder, templates=("a {}", "{}"))
    assert bank.class_of_row_M.tolist() == [0, 0, 1, 2, 3] and bank.background_K.tolist() == [False, False, False, True]
    assert torch.equal(bank.rows_MD, encoder.embed(["house cat", "kitty", "bow", "bow", "wall"], ("a {}", "{}")))
    assert class_bank(VOCABULARY, encoder, use_synonyms=False).class_of_row_M.tolist() == [0, 1, 2, 3]
    assert class_bank(Vocabulary.of(["cat"]), encoder).num_classes == 1
    with pytest.raises(KeyError, match="unknown templates"):
        class_bank(VOCABULARY, encoder, templates="fotos")


def test_class_bank__cached_and_with_a_real_encoder(tmp_path):
    encoder = BertTextEncoder()
    cache = EmbeddingCache(tmp_path)
    first = class_bank(VOCABULARY, encoder, "photo", cache=cache)
    again = class_bank(VOCABULARY, encoder, "photo", cache=cache)
    fresh = class_bank(VOCABULARY, encoder, "photo")
    assert torch.equal(first.rows_MD, again.rows_MD) and torch.equal(first.rows_MD, fresh.rows_MD)
    assert len(files(cache)) == 1
