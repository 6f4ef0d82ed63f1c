"""ReCo end to end: parity with the release's pipeline, and what a user sees of it."""
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from ovdense.heads.crf import CrfSettings
from ovdense.methods.dual_encoder import DualEncoder
from ovdense.methods.reco.model import ReCo
from ovdense.methods.reco.references import CosegmentRules, ReferenceBuilder, Retrieval
from ovdense.structures import ClassEntry, FeatureMap, ImageTarget, Vocabulary
from ovdense.support.sources import FolderSupport
from ovdense.support.store import SupportStore
from ovdense.text.cache import EmbeddingCache
from ovdense.vision.dense import DenseImageEncoder
from ovdense.vision.dense_clip import ClipDenseEncoder
from ovdense.vision.vit import VitBackbone
from tests.golden import load_fill
from tests.ranks import call_on_ranks
from tests.vision.test_dense import golden_tower
from tests.vision.test_vit import golden_net

IMAGENET = dict(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))


class GivenText(nn.Module):
    """Text vectors by name."""

    def __init__(self, vectors):
        super().__init__()
        self.vectors = vectors

    def embed(self, sentences, templates=("{}",)):
        return torch.stack([self.vectors[s] for s in sentences])

    def fingerprint(self):
        return "given"


class GivenSupport(ReferenceBuilder):
    """A builder whose support sets are given."""

    def given(self, sets):
        self.sets, self.asked = sets, []
        return self

    def support(self, said):
        self.asked.append(said[0])
        return self.sets[said[0]]

    def fingerprint(self):
        return "given"


@pytest.fixture
def pipeline(golden_root, tmp_path):
    """The pipeline case's inputs, outputs, and a model of its parts."""
    folder = golden_root / "reco" / "pipeline"
    given, wanted = dict(np.load(folder / "inputs.npz")), dict(np.load(folder / "outputs.npz"))
    fill = load_fill(golden_root).fill
    encoder = VitBackbone(net=golden_net(golden_root / "reco" / "encoder_deit", fill))
    text = GivenText({k.removeprefix("text__"): torch.from_numpy(v) for k, v in given.items() if k.startswith("text__")})
    tower = ClipDenseEncoder(visual=golden_tower(golden_root / "reco" / "maskclip", fill), **IMAGENET)
    dense = DualEncoder(text, tower, "plain")
    archive = {k.removeprefix("archive__"): v for k, v in given.items() if k.startswith("archive__")}
    model = ReCo(encoder, dense=dense, retrieval=dict(archive="nowhere", k=3, px=next(iter(archive.values())).shape[1]))
    store = SupportStore(tmp_path / "support")
    sets = {name: store.put(name, {}, [(image, {}) for image in images]) for name, images in archive.items()}
    old = model.builder
    model.builder = GivenSupport(encoder, dense, dense, old.retrieval, old.rules, store, EmbeddingCache(tmp_path / "cache")).given(sets)
    return given, wanted, model


def classes(wanted, folder) -> list[str]:
    """Return the classes in the order of the scores, as the README states them."""
    readme = (folder / "README.md").read_text()
    return json.loads(readme.split("in class order: ")[1].split("]")[0].replace("'", '"') + "]")


def test_pipeline__gives_the_published_references_and_scores(pipeline, golden_root):
    given, wanted, model = pipeline
    names = classes(wanted, golden_root / "reco" / "pipeline")
    text = model.encode_text(Vocabulary.of(names))
    for name, vector in model.builder.contexts().items():
        assert float(vector @ torch.from_numpy(wanted[f"context_ref__{name}"])) >= 0.99999, name
    for name, vector in zip(names, text.reference_MC):
        assert float(vector @ torch.from_numpy(wanted[f"ref__{name}"])) >= 0.99999, name
    query = torch.from_numpy(given["query"]).permute(0, 3, 1, 2)
    images = model.data_preprocessor({"images": list(query)})["images"]
    for b, image in enumerate(images):
        score = model.score(model.encode_image(image[None]), text)
        np.testing.assert_allclose(score.numpy(), wanted["score"][b], atol=1e-4)
        two = score.topk(2, dim=0).values
        clear = two[0] - two[1] > 2e-4
        assert torch.equal(score.argmax(0)[clear], torch.from_numpy(wanted["argmax"][b])[clear]) and clear.float().mean() > 0.9
    assert [n for n in model.builder.asked if n not in model.builder.rules.contexts] == [n for n in names if n not in ("road", "vegetation")]


def test_pipeline__a_batch_is_its_images_and_padding_changes_nothing(pipeline, golden_root):
    given, wanted, model = pipeline
    vocabulary = Vocabulary.of(classes(wanted, golden_root / "reco" / "pipeline"))
    model.set_vocabulary(vocabulary)
    one = torch.from_numpy(given["query"][0]).permute(2, 0, 1)
    two = torch.from_numpy(np.ascontiguousarray(given["query"][-1][:48, :64])).permute(2, 0, 1)
    targets = [ImageTarget(image_id=n, file_name="", size_hw=tuple(i.shape[1:]), original_size_hw=(96, 80), boxes_xyxy=torch.zeros(0, 4),
                           labels=torch.zeros(0, dtype=torch.int64)) for n, i in enumerate((one, two))]  # fmt: skip
    both = model.predict(model.data_preprocessor({"images": [one, two]})["images"], targets)
    for image, target, result in zip((one, two), targets, both):
        alone = model.predict(model.data_preprocessor({"images": [image]})["images"], [target])[0]
        assert torch.equal(alone.label_map_HW, result.label_map_HW) and result.label_map_HW.shape == (96, 80)


class Colours(DenseImageEncoder):
    """Places and images as mean colours: texts "red", "green", "blue" are the axes."""

    mean, std, width = (0.0, 0.0, 0.0), (255.0, 255.0, 255.0), 3

    def encode_places(self, images_BCHW):
        return FeatureMap(tensor_BCHW=F.normalize(F.avg_pool2d(images_BCHW, 8) + 1e-3, dim=1), stride=8), self.encode_image(images_BCHW)

    def encode_image(self, images_BCHW):
        return F.normalize(images_BCHW.mean((2, 3)) + 1e-3, dim=1)

    def settings(self):
        return {}


class ColourBackbone(nn.Module):
    mean, std, channels, strides = Colours.mean, Colours.std, (3,), (8,)

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1), requires_grad=False)
        self.calls = 0

    def forward(self, images_BCHW):
        self.calls += 1
        return [FeatureMap(tensor_BCHW=(F.avg_pool2d(images_BCHW, 8) + 1e-3) * self.scale, stride=8)]


AXES = {"red": [1.0, 0, 0], "green": [0, 1.0, 0], "blue": [0, 0, 1.0], "crimson": [0.95, 0.05, 0.31], "first": [1.0, 1, 1], "second": [1.0, 1, 1]}


@pytest.fixture
def coloured(tmp_path, monkeypatch):
    """A model over an archive of pictures, each one colour on grey; and a function that makes it anew on the same caches."""
    monkeypatch.setenv("OVDENSE_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    (tmp_path / "archive").mkdir()
    for n in range(18):
        image = rng.integers(80, 100, (64, 64, 3)).astype(np.uint8)
        y, x = (int(v) * 8 for v in rng.integers(0, 5, 2))
        image[y : y + 24, x : x + 24] = 5
        image[y : y + 24, x : x + 24, n % 3] = 250
        Image.fromarray(image).save(tmp_path / "archive" / f"{n:02d}.png")

    def make(**kwargs):
        vectors = {k: F.normalize(torch.tensor(v), dim=0) for k, v in AXES.items()}
        dense = DualEncoder(GivenText(vectors), Colours(), "plain")
        retrieval = dict(archive=str(tmp_path / "archive"), k=5, px=64, index_px=64)
        kwargs = {"cosegmentation": dict(context_elimination=False, aliases={}), **kwargs}
        return ReCo(ColourBackbone(), dense=dense, retrieval=retrieval, **kwargs)

    return make


def picture():
    image = np.tile(np.array((90, 96, 103), dtype=np.uint8), (48, 64, 1))  # grey, and nothing tied
    image[8:40, 0:24] = (250, 5, 5)
    image[8:40, 40:64] = (5, 5, 250)
    return image


def predict(model, image):
    target = ImageTarget(image_id=1, file_name="", size_hw=image.shape[:2], original_size_hw=image.shape[:2], boxes_xyxy=torch.zeros(0, 4),
                         labels=torch.zeros(0, dtype=torch.int64))  # fmt: skip
    data = model.data_preprocessor({"images": [torch.from_numpy(image.copy()).permute(2, 0, 1)], "targets": [target]})
    return model.predict(data["images"], data["targets"])[0]


def test_model__finds_what_the_names_support_sets_have_in_common(coloured):
    model = coloured(inference=dict(background_thr=0.72))
    model.set_vocabulary(Vocabulary((ClassEntry(name="background", is_background=True), *Vocabulary.of(["red", "green", "blue"]))))
    result = predict(model, picture())
    label = result.label_map_HW
    assert result.names[int(label[24, 8])] == "red" and result.names[int(label[24, 56])] == "blue" and int(label[2, 32]) == 0
    assert {int(v) for v in label.unique()} == {0, 1, 3}
    found, support = model.builder.cosegment(("red",), {})
    assert all(int(i.path.stem) % 3 == 0 for i in support.images)
    assert model.protocol()["background_rule"] == "score below 0.72" and model.protocol()["archive_images"] == 18


def shown(folder, name, mask=None, at=16):
    """Write a picture of a red square left of a blue one, in folder/name, and a mask of one of them."""
    (folder / name).mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(at).integers(80, 100, (64, 96, 3)).astype(np.uint8)
    image[at : at + 24, 24:48], image[at : at + 24, 56:80] = (250, 5, 5), (5, 5, 250)
    Image.fromarray(image).save(folder / name / f"{at}.png")
    if mask is not None:
        inside = np.zeros((64, 96), np.uint8)
        inside[:, mask] = 255
        inside[:at], inside[at + 24 :] = 0, 0
        Image.fromarray(inside).save(folder / name / f"{at}.mask.png")


def test_exemplars__masks_say_what_is_meant_and_names_where_there_are_none(coloured, tmp_path):
    """"first" and "second" mean nothing to the text side; no archive is looked at."""
    for at in (8, 16, 32):
        shown(tmp_path / "mine", "first", slice(56, 80), at)
        shown(tmp_path / "mine", "second", slice(24, 48), at)
        shown(tmp_path / "named", "red", None, at)
        shown(tmp_path / "named", "blue", slice(56, 80) if at == 8 else None, at)
    model = coloured()
    model.builder.retrieval = replace(model.builder.retrieval, archive=str(tmp_path / "nowhere"))
    for names, left, right in ((["first", "second"], 1, 0), (["second", "first"], 0, 1)):
        model.use_exemplars(Vocabulary.of(names), FolderSupport(tmp_path / "mine"))
        label = predict(model, picture()).label_map_HW
        assert (int(label[24, 8]), int(label[24, 56])) == (left, right) and model.prompt == model.protocol()["prompt"] == "exemplars"
    model.use_exemplars(Vocabulary.of(["blue", "red"]), FolderSupport(tmp_path / "named"))
    label = predict(model, picture()).label_map_HW
    assert (int(label[24, 8]), int(label[24, 56])) == (1, 0) and model.protocol()["archive_images"] == 0


def test_exemplars__what_lies_outside_the_middle_square_is_left_out_or_named(coloured, tmp_path):
    shown(tmp_path / "mine", "first", slice(56, 80), 8)
    model, source = coloured(), FolderSupport(tmp_path / "mine")
    model.use_exemplars(Vocabulary.of(["first"]), source)
    alone = model._text.reference_MC
    shown(tmp_path / "mine", "first", slice(0, 8), 32)
    model.use_exemplars(Vocabulary.of(["first"]), source)
    assert torch.equal(model._text.reference_MC, alone)
    shown(tmp_path / "mine", "second", slice(0, 8), 32)
    with pytest.raises(ValueError, match="'second' must reach into the middle square of at least one of its 1 pictures"):
        model.use_exemplars(Vocabulary.of(["second"]), source)
    with pytest.raises(FileNotFoundError, match="folder of pictures named 'green'"):
        model.use_exemplars(Vocabulary.of(["green"]), source)


def test_model__permuting_the_vocabulary_permutes_the_map(coloured):
    model = coloured()
    model.set_vocabulary(Vocabulary.of(["red", "green", "blue"]))
    first = predict(model, picture()).label_map_HW
    model.set_vocabulary(Vocabulary.of(["blue", "red", "green"]))
    assert torch.equal(predict(model, picture()).label_map_HW, torch.tensor([1, 2, 0])[first])


def test_model__builds_references_once_and_again_when_what_they_depend_on_changes(coloured, tmp_path):
    vocabulary = Vocabulary.of(["red", "blue"])
    first = coloured()
    first.set_vocabulary(vocabulary)
    assert first.encoder.calls > 0
    again = coloured()
    again.set_vocabulary(vocabulary)
    assert again.encoder.calls == 0 and torch.equal(again._text.reference_MC, first._text.reference_MC)
    again.set_vocabulary(Vocabulary.of(["red", "blue", "crimson"]))
    assert again.encoder.calls == 1  # the new name's images only
    for other in (coloured(cosegmentation=dict(context_elimination=False, aliases={}, window="image")), coloured()):
        if other.builder.rules.window == "published":
            (tmp_path / "archive" / "00.png").unlink()
        other.set_vocabulary(vocabulary)
        assert other.encoder.calls == 2


def test_model__crf_is_asked_for_as_the_configs_say(coloured):
    assert coloured(inference=dict(crf=True)).inference.crf == CrfSettings() and coloured(inference=dict(crf=None)).inference.crf is None
    for wrong in ("{}", 3, dict(iterationen=3)):
        with pytest.raises(ValueError, match="iterations"):
            coloured(inference=dict(crf=wrong))


def test_said__another_word_is_asked_for_and_the_class_keeps_its_name(coloured):
    model = coloured()
    model.builder.retrieval = replace(model.builder.retrieval, said={"rouge": "red", "red": "blue"})
    model.set_vocabulary(Vocabulary.of(["rouge", "red"]))
    result = predict(model, picture())
    assert (int(result.label_map_HW[24, 8]), int(result.label_map_HW[24, 56])) == (0, 1) and result.names == ("rouge", "red")
    plain = coloured()
    plain.set_vocabulary(Vocabulary.of(["red", "blue"]))
    assert plain.encoder.calls == 0 and torch.equal(plain.text().reference_MC, model.text().reference_MC), "what was said is what references are known by"


def test_texts__of_all_classes_are_encoded_at_once_and_kept_on_disk(coloured, monkeypatch):
    asked = []
    embed = GivenText.embed
    monkeypatch.setattr(GivenText, "embed", lambda self, words, templates=("{}",): asked.append(tuple(words)) or embed(self, words, templates))
    classes = [ClassEntry(name="red", synonyms=("crimson",)), ClassEntry(name="blue"), ClassEntry(name="Red", synonyms=("crimson", "blue"))]
    for _ in range(2):
        model = coloured()
        model.dense.text.vectors["Red"] = model.dense.text.vectors["red"]
        model.builder.retrieval = replace(model.builder.retrieval, use_synonyms=True)
        rows = model.builder.texts(model.dense, classes)
        assert asked == [("red", "crimson", "blue", "Red")], "one request, found on disk the second time"
    for row, words in zip(rows, (("red", "crimson"), ("blue",), ("red", "crimson", "blue"))):
        mean = torch.stack([model.dense.text.vectors[w] for w in words]).mean(0)
        torch.testing.assert_close(row, mean / mean.norm())


def test_said__synonyms_that_differ_by_case_only_are_asked_for(coloured):
    model = coloured()
    model.dense.text.vectors["Red"] = model.dense.text.vectors["red"]
    model.builder.retrieval = replace(model.builder.retrieval, use_synonyms=True)
    model.set_vocabulary(Vocabulary((ClassEntry(name="red", synonyms=("Red",)), ClassEntry(name="blue"))))
    assert int(predict(model, picture()).label_map_HW[24, 8]) == 0


def test_references__of_names_that_read_alike_when_joined_are_apart(coloured):
    model = coloured()
    model.dense.text.vectors["red / blue"] = model.dense.text.vectors["green"]
    one = model.builder.references([ClassEntry(name="red / blue")])
    model.builder.retrieval = replace(model.builder.retrieval, use_synonyms=True)
    assert not torch.allclose(model.builder.references([ClassEntry(name="red", synonyms=("blue",))]), one)


def references_where_one_rank_has_a_file(folder):
    """Ask for references where rank 0's cache has them and rank 1's is empty, as when another run writes between the two looks."""
    from torch import distributed

    rank = distributed.get_rank()
    vectors = {k: F.normalize(torch.tensor(v), dim=0) for k, v in AXES.items()}
    retrieval = dict(archive=f"{folder}/archive", k=5, px=64, index_px=64)
    made = ReCo(ColourBackbone(), dense=DualEncoder(GivenText(vectors), Colours(), "plain"), retrieval=retrieval,
                cosegmentation=dict(context_elimination=False, aliases={}))  # fmt: skip
    made.builder.cache = EmbeddingCache(f"{folder}/kept" if rank == 0 else f"{folder}/empty")
    made.set_vocabulary(Vocabulary.of(["red", "blue"]))
    assert made.encoder.calls > 0, "all compute what one of them lacks"
    torch.save(made.text().reference_MC, f"{folder}/references{rank}.pt")


@pytest.mark.slow
def test_references__ranks_go_the_same_way_whatever_each_finds_on_disk(coloured, tmp_path, monkeypatch):
    alone = coloured()
    alone.builder.cache = EmbeddingCache(tmp_path / "kept")
    alone.set_vocabulary(Vocabulary.of(["red", "blue"]))
    call_on_ranks(references_where_one_rank_has_a_file, str(tmp_path), folder=tmp_path)
    for rank in range(2):
        assert torch.equal(torch.load(tmp_path / f"references{rank}.pt"), alone.text().reference_MC)


def test_model__crf_keeps_classes_and_sharpens(coloured):
    model = coloured(inference=dict(crf=dict(iterations=3)))
    assert model.inference.crf.iterations == 3
    model.set_vocabulary(Vocabulary.of(["red", "green", "blue"]))
    label = predict(model, picture()).label_map_HW
    assert int(label[24, 8]) == 0 and int(label[24, 56]) == 2 and model.protocol()["crf"] is True


def test_model__says_what_is_wrong(coloured, tmp_path):
    with pytest.raises(ValueError, match="background class in the vocabulary"):
        coloured(inference=dict(background_thr=0.5)).set_vocabulary(Vocabulary.of(["red"]))
    with pytest.raises(ValueError, match="has the settings"):
        coloured(inference=dict(background=0.5))
    with pytest.raises(ValueError, match="must lead to contexts"):
        CosegmentRules(contexts=("sky",))
    with pytest.raises(ValueError, match="set_vocabulary"):
        predict(coloured(), picture())
    with pytest.raises(ValueError, match="asked by names"):
        coloured().set_vocabulary(Vocabulary.of(["red"]), prompt="descriptions")
    model = coloured()
    model.builder.retrieval = Retrieval(archive="no_such_folder")
    with pytest.raises(FileNotFoundError, match="no_such_folder"):
        model.set_vocabulary(Vocabulary.of(["red"]))


def test_model__fewer_images_than_wanted_are_all_taken(coloured):
    model = coloured()
    model.builder.retrieval = Retrieval(archive=model.builder.retrieval.archive, k=50, px=64, index_px=64)
    assert len(model.builder.support(("red",))) == 18


def test_references__are_made_anew_for_other_settings_and_weights(coloured, monkeypatch):
    """On the same disk cache: an encoder that wants its images otherwise, or whose weights were loaded, has references of its own."""
    vocabulary = Vocabulary.of(["red", "blue"])
    coloured().set_vocabulary(vocabulary)
    for part in (ColourBackbone, Colours):
        with monkeypatch.context() as patch:
            patch.setattr(part, "mean", (1.0, 2.0, 3.0))
            other = coloured()
            other.set_vocabulary(vocabulary)
            assert other.encoder.calls > 0, part.__name__
    model = coloured()
    model.set_vocabulary(vocabulary)
    before = model.text().reference_MC
    assert model.encoder.calls == 0, "references come from disk"
    model.load_state_dict({**model.state_dict(), "encoder.scale": torch.tensor([-1.0])})
    torch.testing.assert_close(model.text().reference_MC, -before)
    assert model.text() is model.text()


def test_references__are_where_the_encoder_is(coloured, monkeypatch):
    model = coloured()
    model.set_vocabulary(Vocabulary.of(["red", "blue"]))
    monkeypatch.setattr(type(model.builder), "device", torch.device("meta"))
    assert model.builder.references(list(model.vocabulary)).device.type == "meta"


def test_retrieval__of_no_image_is_an_error():
    with pytest.raises(ValueError, match="at least 1"):
        Retrieval(archive="photos", k=0)
    with pytest.raises(ValueError, match="said must be a mapping"):
        Retrieval(archive="photos", said="{'parking': 'parking lot'}")
    with pytest.raises(ValueError, match="engine must be one of exact, faiss"):
        Retrieval(archive="photos", engine="fais")
