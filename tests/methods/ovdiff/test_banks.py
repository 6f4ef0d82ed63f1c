"""A vocabulary's prototypes: stored files that serve any of their classes, what is made besides, what a protocol tells, ranks that share the work."""
import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import distributed

from ovdense.methods.ovdiff.banks import _places
from ovdense.structures import ClassEntry, Vocabulary
from ovdense.support.sources import FolderSupport, ListedSupport
from ovdense.text.vocabulary import plain
from tests.methods.ovdiff.scenes import COLOURS, VOCABULARY, model_of, predict, scene
from tests.ranks import call_on_ranks


def test_ovdiff__stored_banks_give_the_same_labels_without_a_support_set(examples, tmp_path):
    image, _ = scene({"red": (8, 8, 32, 32), "blue": (32, 40, 56, 72)})
    made = model_of(FolderSupport(examples), tmp_path)
    made.save_banks(tmp_path / "bank.safetensors", VOCABULARY)
    stored = model_of(None, tmp_path, bank_file=tmp_path / "bank.safetensors")
    assert np.array_equal(predict(made, image)[0], predict(stored, image)[0])
    with pytest.raises(ValueError, match="does not hold 1 of the 2 classes: pink"):
        predict(stored, image, vocabulary=Vocabulary.of(["red", "pink"]))


@pytest.mark.parametrize("names", [("blue", "red"), ("green", "blue", "red"), ("red",), ("red", "stuff"), ("stuff", "blue")])
@pytest.mark.parametrize("stuff", [(), ("stuff",)])
def test_ovdiff__a_bank_file_serves_any_of_its_classes_in_any_order(examples, tmp_path, names, stuff):
    """As if prototypes were made for these classes alone, the rule of stuff too: red's surroundings are as grey as "stuff", whose pictures are grey."""
    (examples / "stuff").mkdir()
    Image.fromarray(scene({})[0]).save(examples / "stuff" / "0.png")
    Image.fromarray(np.full((64, 80), 255, np.uint8)).save(examples / "stuff" / "0.mask.png")
    wanted, whole = Vocabulary.of(names), Vocabulary.of([*COLOURS, "stuff"])
    model_of(FolderSupport(examples), tmp_path, stuff=("stuff",)).save_banks(tmp_path / "bank.safetensors", whole)
    stored = model_of(None, tmp_path, bank_file=tmp_path / "bank.safetensors", stuff=stuff)
    [found], [made] = (m.encode_text(wanted).banks for m in (stored, model_of(FolderSupport(examples), tmp_path, stuff=stuff)))
    assert torch.equal(found.owner_M, made.owner_M) and torch.equal(found.bank.class_of_row_M, made.bank.class_of_row_M)
    torch.testing.assert_close(found.bank.rows_MD, made.bank.rows_MD)
    assert ((found.bank.class_of_row_M < 0).sum() == 0) == (bool(stuff) and "stuff" in names)


def test_ovdiff__what_a_bank_file_lacks_is_made_and_said(examples, tmp_path, monkeypatch):
    """The file is of swapped pictures, so that a class that came from the model's own support would be seen."""
    (tmp_path / "swapped").mkdir()
    for name, other in (("red", "blue"), ("blue", "red")):
        (tmp_path / "swapped" / name).symlink_to(examples / other)
    image, words = scene({"red": (0, 0, 32, 80), "blue": (32, 0, 64, 80)})[0], Vocabulary.of(["green", "blue", "red"])
    model_of(FolderSupport(tmp_path / "swapped"), tmp_path).save_banks(tmp_path / "bank.safetensors", Vocabulary.of(["red", "blue"]))
    model = model_of(FolderSupport(examples), tmp_path, bank_file=tmp_path / "bank.safetensors", prototypes=dict(num_parts=3))
    said = []
    monkeypatch.setattr("ovdense.methods.ovdiff.model.print_log", lambda text, **_: said.append(text))
    label = predict(model, image, vocabulary=words)[0]
    assert words[label[8, 8]].name == "blue" and words[label[56, 8]].name == "red"
    assert len(said) == 1 and "does not hold 1 of the 3 classes: green; they are made from" in said[0]
    model.set_vocabulary(Vocabulary.of(["blue", "red"]))
    assert (model.protocol()["num_parts"], model.protocol()["support"]) == (2, "folder"), "what the file's prototypes are, not what the model would make"


def test_ovdiff__a_bank_files_classes_are_found_as_people_write_them(examples, tmp_path):
    (examples / "red").rename(examples / "hot_dog")
    bank, image = tmp_path / "bank.safetensors", scene({"red": (0, 0, 64, 40), "blue": (0, 40, 64, 80)})[0]
    model_of(FolderSupport(examples), tmp_path).save_banks(bank, Vocabulary.of(["blue", "green", "hot_dog"]))
    asked = Vocabulary((ClassEntry(name="Blue"), ClassEntry(name="hot dog"), ClassEntry(name="leaf", synonyms=("green",))))
    assert predict(model_of(None, tmp_path, bank_file=bank), image, vocabulary=asked)[0][32, [10, 70]].tolist() == [1, 0]


def test_stored_classes__are_looked_for_in_one_pass(monkeypatch):
    """Of a large vocabulary asked of a large file each name is read once, not for each class again."""
    held, read = tuple(f"Thing_{n}" for n in range(300)), []
    monkeypatch.setattr("ovdense.methods.ovdiff.banks.plain", lambda name: read.append(name) or plain(name))
    entries = [ClassEntry(name=f"thing {n}") for n in reversed(range(300))] + [ClassEntry(name="nothing"), ClassEntry(name="Thing_7")]
    assert _places(entries, held) == {f"thing {n}": n for n in range(300)} | {"Thing_7": 7}
    assert len(read) <= 3 * (len(held) + len(entries))
    assert _places([ClassEntry(name="DOG")], ("dog", "Dog")) == {"DOG": 0}


def test_exemplars__with_stored_banks_leave_the_banks_in_use(examples, tmp_path):
    image = scene({"red": (8, 8, 32, 32)})[0]
    model_of(FolderSupport(examples), tmp_path).save_banks(tmp_path / "bank.safetensors", VOCABULARY)
    stored = model_of(None, tmp_path, bank_file=tmp_path / "bank.safetensors")
    [before] = predict(stored, image)
    stored.use_exemplars(Vocabulary(VOCABULARY.entries[:2]), ListedSupport({"red": examples / "red"}))
    assert np.array_equal(predict(stored, image)[0], before)


def test_protocol__tells_of_which_pictures_the_prototypes_are(examples, tmp_path):
    told = []
    for words in (VOCABULARY, VOCABULARY, Vocabulary(VOCABULARY.entries[:3])):
        model = model_of(FolderSupport(examples), tmp_path)
        model.set_vocabulary(words)
        told.append(model.protocol())
        Image.fromarray(scene({"red": (8, 8, 40, 40)})[0]).save(examples / "red" / "9.png")
        Image.fromarray(scene({"red": (8, 8, 40, 40)})[1].astype(np.uint8)).save(examples / "red" / "9.mask.png")
    assert (told[0]["support"], told[0]["support_masks"]) == ("folder", "heat") and len({t["support_sha256"] for t in told}) == 3


@pytest.mark.parametrize("rank, first", [(0, ["red", "blue", "green"]), (1, ["green", "red", "blue"])])
def test_ovdiff__ranks_begin_with_different_classes(examples, tmp_path, monkeypatch, rank, first):
    monkeypatch.setattr("mmengine.dist.get_rank", lambda: rank)
    monkeypatch.setattr("mmengine.dist.get_world_size", lambda: 2)
    model, asked = model_of(FolderSupport(examples), tmp_path), []
    support_set = model.support.support_set
    monkeypatch.setattr(model.support, "support_set", lambda entry: asked.append(entry.name) or support_set(entry))
    assert len(model.encode_text(VOCABULARY).provenance["sets"]) == 3 and asked == first
    asked.clear()
    model._text, model.support.together = None, True  # retrieval talks to the other ranks about a class
    model.encode_text(VOCABULARY)
    assert asked == list(COLOURS)


WORDS = ("red ring", "blue star", "green disc", "cat", "hot_dog")


def draw_a_share(folder):
    """Make the banks of WORDS with the other ranks, of drawn pictures; write what this one has drawn, and the rows."""
    from ovdense.support.generation import GeneratedSupport
    from ovdense.support.small_diffusion import build_small_pipeline

    settings = dict(num_images=2, num_steps=2, guidance=1.0, negative_prompt="")
    source, drawn = GeneratedSupport(build_small_pipeline(image_px=16, channels=(16, 16), head_dim=8), settings=settings, store=f"{folder}/support"), []
    draw = source.draw
    source.draw = lambda entry, numbers: drawn.append(entry.name) or time.sleep(0.5) or draw(entry, numbers)
    distributed.barrier()
    [bank] = model_of(source, Path(folder)).encode_text(Vocabulary.of(WORDS)).banks
    Path(f"{folder}/said{distributed.get_rank()}").write_text(json.dumps([drawn, bank.bank.rows_MD.tolist()]))


@pytest.mark.slow
def test_ovdiff__ranks_share_the_drawing_and_have_the_same_banks(tmp_path):
    call_on_ranks(draw_a_share, str(tmp_path), folder=tmp_path)
    (first, rows), (second, other) = (json.loads((tmp_path / f"said{r}").read_text()) for r in (0, 1))
    assert sorted(first + second) == sorted(WORDS) and min(len(first), len(second)) >= 2 and rows == other


def test_bank_file__of_the_first_format_is_read_and_others_are_refused(examples, tmp_path):
    path, image = tmp_path / "bank.safetensors", scene({"red": (8, 8, 32, 32), "blue": (32, 40, 56, 72)})[0]
    made = model_of(FolderSupport(examples), tmp_path)
    made.save_banks(path, VOCABULARY)
    with safe_open(path, framework="pt") as file:
        about, tensors = file.metadata(), {k: file.get_tensor(k) for k in file.keys()}
    for changed, fine in (({"format": "ovdense prototypes 1"}, True), ({"format": "ovdense prototypes 3"}, False), ({"names": json.dumps(["red"] * 3)}, False),
                          ({"provenance": "[]"}, False), ({"provenance": json.dumps(json.loads(about["provenance"]) | {"extractors": []})}, None)):  # fmt: skip
        save_file(tensors, path, about | changed)
        if fine:
            assert np.array_equal(predict(model_of(None, tmp_path, bank_file=path), image)[0], predict(made, image)[0])
            continue
        with pytest.raises(ValueError, match="must be a file of prototypes" if fine is False else "other feature extractors"):
            predict(model_of(None, tmp_path, bank_file=path), image)
