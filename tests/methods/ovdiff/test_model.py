"""The segmenter end to end: constructed images, a tiny drawn support set, the user's own pictures, stored banks."""
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from ovdense.structures import ClassEntry, ImageTarget, Vocabulary
from ovdense.support.generation import GeneratedSupport
from ovdense.support.sources import FolderSupport
from ovdense.vision.diffusion import ready
from ovdense.vision.extractors import DiffusionQueries
from tests.methods.ovdiff.scenes import VOCABULARY, MeanColours, model_of, predict, scene
from tests.ranks import ROOT
from tests.tiny_pipeline import tiny_sd


def test_ovdiff__segments_a_constructed_image(examples, tmp_path):
    image, truth = scene({"red": (8, 8, 32, 32), "blue": (32, 40, 56, 72)})
    [label] = predict(model_of(FolderSupport(examples), tmp_path), image)
    assert (label == truth).mean() > 0.97 and set(np.unique(label)) == {0, 1, 3}


def test_ovdiff__batch_and_padding_change_nothing(examples, tmp_path):
    model = model_of(FolderSupport(examples), tmp_path)
    first, second = scene({"red": (8, 8, 32, 32)})[0], scene({"green": (8, 8, 32, 48)}, (48, 64))[0]
    together = predict(model, first, second, pad=9)
    for image, label in zip((first, second), together):
        assert np.array_equal(predict(model, image)[0], label)


def test_ovdiff__order_of_the_vocabulary_permutes_the_labels(examples, tmp_path):
    image, _ = scene({"red": (8, 8, 32, 32), "blue": (32, 40, 56, 72)})
    model = model_of(FolderSupport(examples), tmp_path)
    turned = Vocabulary(tuple(VOCABULARY[k] for k in (2, 0, 3, 1)))
    [a], [b] = predict(model, image), predict(model, image, vocabulary=turned)
    assert [VOCABULARY.names[k] for k in a.ravel()] == [turned.names[k] for k in b.ravel()]


def test_ovdiff__without_a_background_class_every_pixel_has_a_class(examples, tmp_path):
    image, _ = scene({"red": (8, 8, 32, 32)})
    [label] = predict(model_of(FolderSupport(examples), tmp_path), image, vocabulary=Vocabulary(VOCABULARY.entries[1:]))
    assert label[16, 16] == 0 and label.max() <= 2


def test_label_map__without_background_the_best_class_wins_whatever_its_score(monkeypatch):
    """Both classes are unlike the places: negative cosines, of which the second's is larger; beside a background it is background."""
    from ovdense.methods.ovdiff.predict import PlaceFeatures, label_map
    from ovdense.support.prototypes import prototype_bank

    place = PlaceFeatures(0, slice(0, 4), slice(0, 4), torch.tensor([1.0, 0]).expand(2, 2, 2))
    bank = prototype_bank([torch.tensor([[-1.0, 0.1]]), torch.tensor([[-0.1, 1.0]])], [torch.tensor([[-1.0, -1.0]])] * 2)
    for numbers in (2**20, 1):  # in one block, and a class a block
        monkeypatch.setattr("ovdense.methods.ovdiff.predict.MOST_NUMBERS", numbers)
        alone, beside = (label_map([place], [bank], torch.ones(2, dtype=torch.bool), (4, 4), (6, 6), with_background=b) for b in (False, True))
        assert (alone == 2).all() and (beside == 0).all()


def test_ovdiff__equal_crops_are_read_once_and_count_as_often_as_they_are(examples, tmp_path):
    image = scene({"red": (8, 8, 32, 32)}, (48, 48))[0]
    model = model_of(FolderSupport(examples), tmp_path, test=dict(crops=((48, 24), (64, 32), (32, 16))))
    predict(model, image)
    MeanColours.calls = 0
    model.set_vocabulary(VOCABULARY)
    [seen] = model.encode_image(torch.from_numpy(image.transpose(2, 0, 1).copy())[None] / 255)
    assert MeanColours.calls == 1 + 4 and len(seen.places) == 1 + 1 + 4 + 1


def test_ovdiff__image_is_read_once_for_all_classes_and_a_new_class_builds_itself_only(examples, tmp_path):
    model, image = model_of(FolderSupport(examples), tmp_path), scene({"red": (8, 8, 32, 32)})[0]
    two = Vocabulary(VOCABULARY.entries[:3])
    predict(model, image, vocabulary=two)
    MeanColours.calls = 0
    predict(model, image, vocabulary=two)
    crops = MeanColours.calls
    MeanColours.calls = 0
    predict(model, image)
    assert MeanColours.calls == crops + 2  # the two pictures of the new class
    assert len(list((tmp_path / "prototypes").glob("*.safetensors"))) == 3


def test_ovdiff__a_second_question_about_a_remembered_image_reads_no_pixels(examples, tmp_path, monkeypatch):
    """By the api, with a pre-filter: other classes on the same picture run neither extractors nor the pre-filter's image side, and answer as without."""
    from ovdense.api import OpenVocabPredictor
    from ovdense.data.transforms import ResizeShortestEdge
    from ovdense.methods.dual_encoder import ConseDualEncoder

    image, questions = scene({"red": (8, 8, 32, 32), "blue": (32, 40, 56, 72)})[0], (["red", "blue"], ["green", "blue"], ["red", "blue"])
    model = model_of(FolderSupport(examples), tmp_path, prefilter=dict(encoder=ConseDualEncoder(short_sides=(64,)), top_k=2))
    predictor = OpenVocabPredictor(model, resize=ResizeShortestEdge((64,), 80))
    plain = [predictor(image, q).label_map_HW for q in questions]  # prototypes are made on the way
    read = []
    for part in (model.filter.encoder.image, model.extractors[0]):
        forward = part.encode_image if hasattr(part, "encode_image") else part.features
        monkeypatch.setattr(part, forward.__name__, lambda x, forward=forward: read.append(1) or forward(x))
    predictor.remember_images()
    remembered = [predictor(image, q).label_map_HW for q in questions]
    crops = len(read)
    assert model.image_cache.misses == 1 and model.image_cache.hits == 2 and crops > 1
    assert all(map(torch.equal, plain, remembered)) and not torch.equal(plain[0], plain[1])
    model.test = replace(model.test, crops=())
    assert predictor(image, questions[0]).label_map_HW.shape == image.shape[:2] and len(read) == crops + 2  # the whole image, and the pre-filter's


def test_folder_support__a_class_without_pictures_raises(examples, tmp_path):
    with pytest.raises(FileNotFoundError, match="must have a folder of pictures named 'pink'"):
        predict(model_of(FolderSupport(examples), tmp_path), scene({})[0], vocabulary=Vocabulary.of(["red", "pink"]))


def test_retrieved_support__hashes_its_encoder_once_for_all_classes(examples, tmp_path, monkeypatch):
    """A large CLIP's weights take a second."""
    from ovdense.methods.dual_encoder import DualEncoder
    from ovdense.methods.ovdiff.retrieved import RetrievedSupport
    from tests.methods.reco.test_model import Colours, GivenText

    hashed, image = [], Colours()
    text = GivenText({"red": torch.tensor([1.0, 0, 0]), "green": torch.tensor([0, 1.0, 0])})
    plain = image.fingerprint
    monkeypatch.setattr(image, "fingerprint", lambda: hashed.append(1) or plain())
    support = RetrievedSupport(DualEncoder(text, image, "plain"), archive=str(examples), num_images=2, store=tmp_path / "store")
    monkeypatch.setenv("OVDENSE_CACHE", str(tmp_path / "cache"))
    red = support.support_set(ClassEntry(name="red"))
    before = len(hashed)
    green = support.support_set(ClassEntry(name="green"))
    assert len(hashed) == before and red.made_with["encoder"] == green.made_with["encoder"] != "" and len(red) == len(green) == 2


def test_folder_support__reads_no_folder_outside_and_has_one_for_names_with_a_slash(examples, tmp_path):
    (examples / "red").rename(examples / "Cabinet_shelf")
    assert len(FolderSupport(examples).support_set(ClassEntry(name="Cabinet/shelf"))) == 2
    for outside in ("..", "../mine/blue", str(examples / "blue"), "."):
        with pytest.raises(FileNotFoundError, match="must have a folder of pictures"):
            FolderSupport(examples).support_set(ClassEntry(name=outside))


def test_ovdiff__a_tiny_pipeline_from_drawing_to_labels_twice_the_same(tmp_path):
    pipeline = ready(tiny_sd())
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    words = Vocabulary((VOCABULARY[0], ClassEntry(name="traffic_light"), ClassEntry(name="cat")))

    def run(folder):
        support = GeneratedSupport(pipeline, settings=dict(num_images=2, num_steps=2), store=tmp_path / folder, batch_size=2)
        model = model_of(support, tmp_path / folder, extractors=[DiffusionQueries(pipeline)], test=dict(crops=(), pamr=True))
        return predict(model, image, vocabulary=words)[0], model.encode_text(words).banks[0].bank.rows_MD

    (label, rows), (again, rows_again) = run("a"), run("b")
    assert np.array_equal(label, again) and torch.equal(rows, rows_again)
    assert rows.shape[1] == 7680 * 16 // 320  # the published width at 16 channels instead of 320


def test_exemplars__are_a_prompt_kind_of_segmenters(examples, tmp_path):
    """By the api: OVDiff and MaskClip take a folder of example pictures, a detector says that it cannot."""
    from ovdense.api import OpenVocabPredictor
    from ovdense.data.transforms import ResizeShortestEdge
    from ovdense.methods.dual_encoder import ConseDualEncoder
    from ovdense.methods.maskclip import MaskClip

    image, truth = scene({"red": (0, 0, 32, 80), "blue": (32, 0, 64, 80)})
    for model, least in ((model_of(FolderSupport(examples), tmp_path), 0.95), (MaskClip(ConseDualEncoder(short_sides=(64,))), 0.0)):
        predictor = OpenVocabPredictor(model, resize=ResizeShortestEdge((64,), 80))
        named = ("blue", "green", "red") if not model.wants_background else ("background", "blue", "green", "red")
        assert predictor.set_exemplars(examples) == named and model.prompt == "exemplars"
        label = predictor.predict(image).label_map_HW.numpy()
        assert label.shape == truth.shape and (label == np.where(truth == 1, named.index("red"), named.index("blue"))).mean() >= least
    with pytest.raises(ValueError, match="folder of pictures"):
        (tmp_path / "empty").mkdir()
        predictor.set_exemplars(tmp_path / "empty")


def test_sheet__has_a_column_an_image_and_rows_for_masks_and_parts(examples, tmp_path):
    from ovdense.methods.ovdiff.sheets import TILE, write_sheet

    path = write_sheet(tmp_path / "sheets", model_of(FolderSupport(examples), tmp_path), VOCABULARY[1])
    picture = np.asarray(Image.open(path))
    assert picture.shape[0] > 3 * TILE and picture.shape[1] > 2 * TILE and path.name == "red.png"  # with a title and the rows' names
    parts = picture[-TILE:, -2 * TILE :].reshape(-1, 3)
    grey = (parts == parts[:, :1]).all(1)
    assert grey.mean() > 0.05 < (~grey).mean()  # parts of what is around it and of the class


def test_sheet__classes_of_any_script_have_a_file_each():
    from ovdense.methods.ovdiff.sheets import file_stem

    names = ["red", "hot dog", "hot-dog", "猫", "犬", "C++", "C#", "a/b", "..", "circle_(small_red)"]
    stems = [file_stem(n) for n in names]
    assert stems[:2] == ["red", "hot_dog"] and stems[3:5] == ["猫", "犬"] and len(set(stems)) == len(names)
    assert all(s.strip("._") and "/" not in s for s in stems)


def test_exemplars__names_asked_afterwards_are_answered_by_names(examples, tmp_path):
    """The same classes by example pictures of the wrong colours, then by name: the support set of before; and a name that has no example."""
    swapped = tmp_path / "swapped"
    swapped.mkdir()
    for name, other in (("red", "blue"), ("blue", "red")):
        (swapped / name).symlink_to(examples / other)
    model, image = model_of(FolderSupport(examples), tmp_path), scene({"red": (0, 0, 32, 80), "blue": (32, 0, 64, 80)})[0]
    words = Vocabulary(tuple(VOCABULARY[k] for k in (0, 1, 3)))
    [named] = predict(model, image, vocabulary=words)
    model.use_exemplars(words, FolderSupport(swapped))
    target = ImageTarget(image_id=0, file_name="", size_hw=image.shape[:2], original_size_hw=image.shape[:2], boxes_xyxy=torch.zeros(0, 4),
                         labels=torch.zeros(0, dtype=torch.int64))
    [shown] = [r.label_map_HW.numpy() for r in model.predict(torch.from_numpy(image.transpose(2, 0, 1).copy())[None] / 255, [target])]
    assert model.prompt == "exemplars" and named[8, 8] == 1 and shown[8, 8] == 2
    assert np.array_equal(predict(model, image, vocabulary=words)[0], named) and model.prompt == "names"
    assert predict(model, image)[0].max() == 3  # "green", of which there was no example


def test_ovdiff__other_weights_make_other_prototypes(examples, tmp_path):
    class Scaled(MeanColours):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(4, 1, 1), requires_grad=False)

        def features(self, image_BCHW):
            return super().features(image_BCHW) * self.scale

    model = model_of(FolderSupport(examples), tmp_path, extractors=[Scaled()])
    before, [printed] = model.encode_text(VOCABULARY).banks[0].bank.rows_MD, [e.fingerprint() for e in model.extractors]
    assert model.encode_text(VOCABULARY).banks[0].bank.rows_MD is before
    model.load_state_dict({"extractors.0.scale": torch.tensor([2.0, 1, 1, 1])[:, None, None]})
    assert model.extractors[0].fingerprint() != printed and not model.encode_text(VOCABULARY).banks[0].bank.rows_MD.equal(before)


def test_ovdiff__prototypes_do_not_depend_on_autocast(examples, tmp_path):
    """They are kept on disk for other runs, under a key that does not know of it."""
    class Mixed(MeanColours):
        def features(self, image_BCHW):
            return torch.einsum("bchw,dc->bdhw", super().features(image_BCHW), torch.eye(4) + 0.1)

    made = model_of(FolderSupport(examples), tmp_path / "a", extractors=[Mixed()]).encode_text(VOCABULARY).banks[0].bank.rows_MD
    with torch.autocast("cpu", torch.bfloat16):
        under = model_of(FolderSupport(examples), tmp_path / "b", extractors=[Mixed()]).encode_text(VOCABULARY).banks[0].bank.rows_MD
    assert torch.equal(made, under)


def test_ovdiff__says_what_it_cannot_do(examples, tmp_path):
    model = model_of(FolderSupport(examples), tmp_path)
    for verb in (model.predict, model.score_maps):
        with pytest.raises(ValueError, match="set_vocabulary"):
            verb(torch.zeros(0, 3, 8, 8), [])
    with pytest.raises(ValueError, match="asked by names"):
        model.set_vocabulary(VOCABULARY, prompt="descriptions")
    with pytest.raises(ValueError, match="one or more feature extractors"):
        model_of(FolderSupport(examples), tmp_path, extractors=[])
    for wrong in (("clas",), "part", ()):
        with pytest.raises(ValueError, match="kinds must be"):
            model_of(FolderSupport(examples), tmp_path, prototypes=dict(kinds=wrong))


def test_protocol__tells_what_moves_the_numbers(examples, tmp_path):
    said = model_of(FolderSupport(examples), tmp_path, prototypes=dict(seed=3, stuff_cosine=0.7), test=dict(threshold=0.1)).protocol()
    assert (said["threshold"], said["stuff_cosine"], said["seed"]) == (0.1, 0.7, 3)


def test_dataset_exemplars__another_file_of_the_same_name_has_its_own(tmp_path):
    import json

    from ovdense.data.detection import CocoDetection
    from ovdense.methods.ovdiff.exemplars import DatasetExemplars

    def examples_of(folder, box):
        (tmp_path / folder / "images").mkdir(parents=True, exist_ok=True)
        Image.fromarray(scene({"red": (0, 0, 30, 30), "blue": (30, 40, 60, 70)})[0]).save(tmp_path / folder / "images" / "0.png")
        x, y, w, h = box
        content = {"images": [{"id": 1, "file_name": "0.png", "width": 80, "height": 64}], "categories": [{"id": 1, "name": "cat"}],
                   "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": box, "area": w * h, "iscrowd": 0,
                                    "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]]}]}  # fmt: skip
        (tmp_path / folder / "instances.json").write_text(json.dumps(content))
        data = CocoDetection(ann_file=str(tmp_path / folder / "instances.json"), image_prefix=str(tmp_path / folder / "images"), with_masks=True)
        [image] = DatasetExemplars(data, store=tmp_path / "store").support_set(data.vocabulary[0]).images
        return image.read().reshape(-1, 3).astype(int)

    first, elsewhere = examples_of("a", [0, 0, 30, 30]), examples_of("b", [40, 30, 30, 30])
    assert first[:, 0].max() == 220 and elsewhere[:, 0].max() < 220, "red is in the first file's window alone"
    assert examples_of("a", [40, 30, 30, 30])[:, 0].max() < 220, "the file was edited"


def test_prefilter__prompts_are_embedded_anew_by_other_weights():
    from ovdense.methods.dual_encoder import DualEncoder
    from ovdense.methods.ovdiff.category_filter import CategoryFilter
    from tests.methods.reco.test_model import Colours

    class Turned(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.row_D = torch.nn.Parameter(torch.tensor([1.0, 0, 0]))

        def embed(self, sentences, templates):
            return self.row_D.detach().clone().expand(len(sentences), -1)

    made = CategoryFilter(DualEncoder(Turned(), Colours(), "plain"))
    assert made.embed(["a cat"]).tolist() == [[1, 0, 0]]
    made.encoder.text.load_state_dict({"row_D": torch.tensor([0.0, 1, 0])})
    assert made.embed(["a cat"]).tolist() == [[0, 1, 0]]


def test_published_configs__draw_and_ask_by_the_words_of_the_release():
    """Of the release's list of VOC's classes: what is drawn, and what the pre-filter asks for; the rest are single words as they stand."""
    from mmengine.config import Config

    from ovdense.methods.dual_encoder import DualEncoder
    from ovdense.methods.ovdiff.category_filter import CategoryFilter
    from ovdense.text.vocabulary import load_vocabulary
    from tests.methods.reco.test_model import Colours

    class Asked(torch.nn.Module):
        def embed(self, sentences, templates):
            self.sentences = list(sentences)
            return torch.eye(3)[[n % 3 for n in range(len(sentences))]]

    said = {"aeroplane": "airplane", "diningtable": "table", "pottedplant": "potted plant", "tvmonitor": "monitor"}
    for config, vocabulary in (("ovdiff_voc", "voc"), ("ovdiff_context", "context59")):
        model, text, entries = Config.fromfile(str(ROOT / "configs" / f"{config}.py")).model, Asked(), load_vocabulary(vocabulary).entries
        drawn = GeneratedSupport("nothing/here", renamed=model.support.renamed)
        prefilter = CategoryFilter(DualEncoder(text, Colours(), "plain"), renamed=model.prefilter.renamed, top_k=1)
        prefilter(torch.tensor([1.0, 0, 0]), entries)
        names = [said.get(e.name, "computer keyboard" if e.name == "keyboard" else e.name) for e in entries]
        assert [drawn._name(e) for e in entries] == names and text.sentences[: len(names)] == [f"a {n}" for n in names]
