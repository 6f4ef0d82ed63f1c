"""Annotations, vocabularies, caches, support sets and checkpoints that somebody made to do harm: nothing runs, each gives one clear error or is made anew."""
import os
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.model import BaseModel
from mmengine.runner import CheckpointLoader, Runner, load_checkpoint

from ovdense.compat.d3 import read_d3_info
from ovdense.compat.feature_files import FeatureFiles
from ovdense.compat.grounding_forms import read_odvg
from ovdense.compat.paths import path_below
from ovdense.compat.weights import read_state_dict
from ovdense.data.annotations import read_coco, read_voc
from ovdense.data.grounding_builders import read_refer
from ovdense.evaluation.comparison import read_report
from ovdense.evaluation.ground_truth import load_ground_truth
from ovdense.methods import checkpoints  # noqa: F401  (makes MMEngine's loading safe)
from ovdense.registry import DATASETS
from ovdense.structures import ClassEntry, Results, Vocabulary
from ovdense.support.mask_sources import SupportMasker
from ovdense.support.pool import EmbeddingPool
from ovdense.support.prototype_files import PrototypeFiles, load_bank
from ovdense.support.retrieval import ImageIndex
from ovdense.support.store import MANIFEST, SupportStore
from ovdense.text.cache import EmbeddingCache
from ovdense.text.vocabulary import load_vocabulary, with_descriptions
from tests.hostile_files import Call, corpus
from tests.text.test_bank_and_cache import CountingEncoder

DEEP = b"[" * 100_000 + b"]" * 100_000
HOSTILE_JSON = {
    "empty": b"", "deep": DEEP, "deep objects": b'{"images":' * 50_000 + b"1" + b"}" * 50_000, "huge integer": b"[" + b"9" * 100_000 + b"]",
    "huge id": b'{"images": [{"id": ' + b"9" * 5000 + b"}]}", "cut": b'{"images": [{"id": 1, "file_na', "binary": bytes(range(256)) * 8,
    "pickle": pickle.dumps({"images": []}),
    "utf-16": '{"images": []}'.encode("utf-16"), "zeros": bytes(1000), "number": b"3", "string": b'"images"', "null": b"null", "infinite": b"[NaN, Infinity]",
    "deep inside": b'{"images": [{"id": 1, "file_name": ' + DEEP + b'}], "annotations": [], "categories": []}',
    "long id": b'{"images": [], "annotations": [], "categories": [{"id": 99999999999999999999999, "name": "a"}]}',
    "list of lists": b"[[[[]]]]", "lone surrogate": b'{"images": "\\ud800"}', "python": b"__import__('os').mkdir('trap')",
}  # fmt: skip
READERS = {
    "COCO": read_coco, "ground truth": lambda p: load_ground_truth(p, federated=True), "vocabulary": load_vocabulary,
    "descriptions": lambda p: with_descriptions(Vocabulary.of(["cat"]), p), "result": read_report, "ODVG": read_odvg, "expressions": read_refer,
    "VOC": lambda p: read_voc(p, ("cat",)),
}  # fmt: skip


HARMLESS = {("ODVG", "empty"), ("VOC", "empty"), ("vocabulary", "long id")}  # no lines; an id that only orders


@pytest.mark.parametrize("reader", READERS)
def test_json__one_clear_error(tmp_path, monkeypatch, reader):
    monkeypatch.chdir(tmp_path)
    for name, content in HOSTILE_JSON.items():
        path = tmp_path / "a.json"
        path.write_bytes(content)
        try:
            read = READERS[reader](path)
        except (ValueError, FileNotFoundError) as error:
            assert "a.json" in str(error), f"{name}: {error}"
            assert len(str(error)) < 3000 and type(error) in (ValueError, FileNotFoundError), f"{name}: {error!r}"
        else:
            assert (reader, name) in HARMLESS, f"{name} was read: {read!r}"
        assert not (tmp_path / "trap").exists(), name


def pickles(trap: Path) -> dict[str, bytes]:
    return {"call": pickle.dumps(Call(os.mkdir, str(trap))), "inside": pickle.dumps({1: {"is_negative": Call(os.mkdir, str(trap))}}),
            "list": pickle.dumps([1]),
            "protocol 0": b"cos\nmkdir\n(S'" + str(trap).encode() + b"'\ntR.", "cut": pickle.dumps({1: 2})[:-3], "empty": b""}  # fmt: skip


def test_pickles__of_published_annotations_run_nothing(tmp_path):
    trap = tmp_path / "trap"
    for name, content in pickles(trap).items():
        (tmp_path / "refs.p").write_bytes(content)
        (tmp_path / "sentences.pkl").write_bytes(content)
        for read, words in ((lambda: read_refer(tmp_path / "refs.p"), "refs.p"), (lambda: read_d3_info(tmp_path), "sentences.pkl")):
            with pytest.raises(ValueError, match=words):
                read()
            assert not trap.exists(), name


def arrays(trap: Path) -> dict[str, bytes]:
    """Files of arrays: pickled objects, heads that lie about the size, and rubbish."""

    def npy(head: str) -> bytes:
        text = (head + " " * (118 - len(head) % 64) + "\n").encode()
        return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text

    return {"pickled": npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }") + pickle.dumps(Call(os.mkdir, str(trap))),
            "pickled alone": pickle.dumps(Call(os.mkdir, str(trap))),
            "enormous": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 1000), }"),
            "code for a head": npy(f"__import__('os').mkdir({str(trap)!r})"), "negative": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-4, 4), }"),
            "strings": npy("{'descr': '<U4', 'fortran_order': False, 'shape': (2, 2), }") + bytes(64), "cut": b"\x93NUMPY\x01", "empty": b"",
            "text": b"hello"}  # fmt: skip


@pytest.fixture
def support(tmp_path):
    """A support set of one drawn image with its heat map, its store, and how it was made."""
    store, made_with = SupportStore(tmp_path / "store"), {"kind": "test"}
    folder = store.place("cat", made_with)
    folder.mkdir(parents=True)
    np.save(folder / "00000.heat.npy", np.ones((4, 4), np.float32))
    made = store.put("cat", made_with, [(np.zeros((8, 8, 3), np.uint8), {"heat": "00000.heat.npy"})])
    return store, made_with, folder, made


def test_support_set__heat_maps_run_nothing(tmp_path, support):
    trap, (_, _, folder, made) = tmp_path / "trap", support
    assert SupportMasker()(made.images[0], ClassEntry(name="cat")).foreground_HW.shape == (8, 8)
    for name, content in arrays(trap).items():
        (folder / "00000.heat.npy").write_bytes(content)
        with pytest.raises(ValueError, match=r"00000.heat.npy must be a heat map"):
            SupportMasker()(made.images[0], ClassEntry(name="cat"))
            pytest.fail(f"{name} was read")
        assert not trap.exists(), name


def test_support_set__a_record_or_an_image_that_was_changed_is_refused(tmp_path, support):
    store, made_with, folder, made = support
    outside = tmp_path / "outside.png"
    outside.write_bytes((folder / "00000.png").read_bytes() + b"x")
    (folder / "00000.png").unlink()
    (folder / "00000.png").symlink_to(outside)
    with pytest.raises(ValueError, match="its content has changed"):
        store.find("cat", made_with).images[0].read()
    for name, content in HOSTILE_JSON.items():
        (folder / MANIFEST).write_bytes(content)
        with pytest.raises(ValueError, match="is damaged"):
            store.find("cat", made_with)
            pytest.fail(f"{name} was read")


def test_feature_files__hostile_ones_are_computed_anew(tmp_path):
    trap, files = tmp_path / "trap", FeatureFiles("f" * 32, tmp_path)
    files.put(b"key", [torch.ones(2)])
    [path] = (tmp_path / ("f" * 32)).rglob("*.npz")
    for content in arrays(trap).values():
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("t0.npy", content)
        assert files.get(b"key") is None and not trap.exists()
        path.write_bytes(content)
        assert files.get(b"key") is None and not trap.exists()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("t0.npy", bytes(400 * 2**20))
    assert files.get(b"key") is None
    files.put(b"key", [torch.ones(2)])
    assert files.get(b"key")[0].tolist() == [1, 1]


def test_safetensors_caches__hostile_ones_are_refused_or_made_anew(tmp_path):
    trap, folder = tmp_path / "trap", tmp_path / "corpus"
    folder.mkdir()
    prototypes, cache = PrototypeFiles(tmp_path / "prototypes"), EmbeddingCache(tmp_path / "cache")
    place = prototypes.path("cat", {})
    place.parent.mkdir()
    cache.embed(CountingEncoder(), ["cat"])
    [rows] = cache.folder.iterdir()
    for name, path, _ in corpus(folder, trap):
        if not path.is_file():
            continue
        content = path.read_bytes()
        place.write_bytes(content)
        with pytest.raises(ValueError, match="damaged"):
            prototypes.find("cat", {})
        place.write_bytes(content)
        with pytest.raises(ValueError, match="must be a file of prototypes"):
            load_bank(place)
        rows.write_bytes(content)
        with pytest.warns(UserWarning, match="damaged"):
            assert torch.isfinite(cache.embed(CountingEncoder(), ["cat"])).all()
        assert not trap.exists(), name


def test_index__hostile_files(tmp_path):
    pool = EmbeddingPool(tmp_path, 2)
    for content in HOSTILE_JSON.values():
        (tmp_path / "pool.json").write_bytes(content)
        with pytest.raises(ValueError, match="pool.json"):
            EmbeddingPool(tmp_path, 2)
    (tmp_path / "pool.json").unlink()
    writer = pool.writer()
    writer.append([b"k" * 16], np.array([[1, 0]], np.float32), [])
    writer.close()
    (tmp_path / "shard-0000.files").write_bytes(b"".join(c[:2000] + b"\n" for c in HOSTILE_JSON.values()))
    index = ImageIndex([Path("a")], [b"k" * 16], EmbeddingPool(tmp_path, 2))
    index.top_k(torch.ones(1, 2), 1, engine="faiss", factory="Flat")
    [file] = tmp_path.glob("faiss-*.index")
    for content in (b"", b"hello", file.read_bytes()[:20], pickle.dumps([1])):
        file.write_bytes(content)
        with pytest.raises(ValueError, match="is damaged"):
            index.top_k(torch.ones(1, 2), 1, engine="faiss", factory="Flat")


@pytest.mark.parametrize("name, inside", [("a/b.jpg", "a/b.jpg"), ("../../a.jpg", "a.jpg"), ("/etc/passwd", "etc/passwd"), ("a/../../b.jpg", "a/b.jpg"),
                                          ("..\\..\\a.jpg", "a.jpg"), ("//x//y", "x/y"), ("./a", "a")])  # fmt: skip
def test_path_below__never_leads_out(tmp_path, name, inside):
    assert path_below(tmp_path, name) == tmp_path / inside


class Tiny(BaseModel):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def forward(self, x, mode="loss"):
        return {"loss": self.layer(torch.stack(x)).sum()}


@DATASETS.register_module(force=True)
class TwoNumbers(torch.utils.data.Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return {"x": torch.ones(2)}


def runner(folder, name, **how):
    from mmengine.runner import IterBasedTrainLoop

    from ovdense.methods.checkpoints import AtomicCheckpointHook

    loader = dict(batch_size=1, num_workers=0, sampler=dict(type="InfiniteSampler"), dataset=dict(type=TwoNumbers))
    return Runner(Tiny(), str(folder), train_dataloader=loader, train_cfg=dict(type=IterBasedTrainLoop, max_iters=1), experiment_name=name,
                  optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1)), default_scope="ovdense", log_level="ERROR",
                  default_hooks=dict(checkpoint=dict(type=AtomicCheckpointHook, interval=1, by_epoch=False)), **how)  # fmt: skip


def test_runner__its_own_loading_and_resuming_run_nothing(tmp_path):
    """MMEngine's Runner and its loader, as they are: no tool of ours around them."""
    trap, folder = tmp_path / "trap", tmp_path / "corpus"
    folder.mkdir()
    run = runner(tmp_path / "work", "hostile")
    run.train()
    good = torch.load(tmp_path / "work" / "iter_1.pth", weights_only=False)
    good["meta"]["config"] = f"__import__('os').mkdir({str(trap)!r})\ngpu_ids = [0, 1]"
    torch.save(good, folder / "with_config.pth")
    again = runner(tmp_path / "again", "resumed", load_from=str(folder / "with_config.pth"), resume=True)
    again.train()
    assert again.iter == 1 and not trap.exists()
    for name, path, words in corpus(folder, trap):
        for load in (run.load_checkpoint, run.resume, lambda p: load_checkpoint(Tiny(), p), CheckpointLoader.load_checkpoint):
            with pytest.raises((ValueError, FileNotFoundError), match=words):
                load(str(path))
                pytest.fail(f"{name} was loaded")
            assert not trap.exists(), name


@pytest.mark.parametrize("scheme", ["http://a/b.pth", "https://a/b.pth", "s3://a/b", "torchvision://resnet50", "open-mmlab://a", "mmcls://a", "pavi://a"])
def test_runner__fetches_nothing(scheme):
    with pytest.raises(ValueError, match="nothing is fetched"):
        CheckpointLoader.load_checkpoint(scheme)


def test_runner__weights_with_nan_are_refused(tmp_path):
    state = {"layer.weight": torch.tensor([[1.0, float("nan")]]), "layer.bias": torch.zeros(1)}
    torch.save({"state_dict": state, "meta": {"iter": 1, "epoch": 0}, "message_hub": {}, "optimizer": {}}, tmp_path / "nan.pth")
    run = runner(tmp_path / "work", "nan")
    with pytest.raises(ValueError, match="nan.pth must hold numbers, but 1 tensors hold nan, such as layer.weight"):
        run.resume(str(tmp_path / "nan.pth"))


def test_torchscript__bombs_and_payloads(tmp_path):
    trap, path = tmp_path / "trap", tmp_path / "clip.pt"
    for name, members in {
        "payload": {"a/data.pkl": pickle.dumps(Call(os.mkdir, str(trap)), protocol=2)}, "rubbish": {"a/data.pkl": b"hello"}, "empty": {"a/data.pkl": b""},
        "a number": {"a/data.pkl": pickle.dumps(3, protocol=2)}, "no data": {},
    }.items():  # fmt: skip
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a/code/x.py", f"open({str(trap)!r}, 'w')")
            for member, content in members.items():
                archive.writestr(member, content)
        with pytest.raises(ValueError, match="clip.pt"):
            read_state_dict(path)
            pytest.fail(f"{name} was read")
        assert not trap.exists(), name
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("a/code/x.py", "")
        bomb.writestr("a/data.pkl", bytes(400 * 2**20))
    with pytest.raises(ValueError, match="must unpack to about its size"):
        read_state_dict(path)


def test_outputs__stay_in_their_folder(tmp_path):
    """A picture's name in an annotation file decides where its overlay goes, but not outside of the folder that was asked for."""
    from ovdense.methods.reporting import PredictionWriter

    metric = PredictionWriter(path=str(tmp_path / "out" / "predictions.json"))
    assert metric._png("../../../etc/cron.d/x.jpg") == tmp_path / "out" / "predictions" / "etc" / "cron.d" / "x.png"


def test_outputs__of_two_images_do_not_take_each_others_place(tmp_path):
    from ovdense.methods.reporting import PredictionWriter

    metric = PredictionWriter(path=str(tmp_path / "predictions.json"))
    found = Results.of_label_map(torch.zeros(2, 3, dtype=torch.int64), ["sky"])
    metric._written(found, "a/1.jpg"), metric._written(found, "a/1.jpg")  # where several processes fill up their last turn, one comes again
    with pytest.raises(ValueError, match=r"a/1.png and a/1.jpg would have the same label map .*predictions/a/1.png"):
        metric._written(found, "a/1.png")
