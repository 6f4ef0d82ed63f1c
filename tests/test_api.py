import copy
import pickle
import threading

import numpy as np
import pytest
import torch
from PIL import Image

from ovdense.api import OpenVocabPredictor, load, load_image, load_model
from ovdense.vision.sam import SamMasks
from tests.tiny_run import write_config


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return write_config(tmp_path_factory.mktemp("api"), "api")


@pytest.fixture(scope="module")
def model(config):
    torch.manual_seed(0)
    return load_model(config, device="cpu")


@pytest.fixture
def predictor(model):
    predictor = OpenVocabPredictor(model)
    predictor.set_vocabulary(["cat", "a red chair left of the table"])
    return predictor


def _photo(height=90, width=140, seed=0):
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)


def test_load_model__gives_the_checkpoints_weights(config, model, predictor, tmp_path):
    torch.save({"state_dict": model.state_dict()}, tmp_path / "w.pth")
    other = OpenVocabPredictor(load_model(config, tmp_path / "w.pth", "cpu"))
    other.set_vocabulary(["cat", "a red chair left of the table"])
    a, b = predictor.predict(_photo()), other.predict(_photo())
    assert len(a) > 0 and torch.equal(a.boxes_xyxy, b.boxes_xyxy) and torch.equal(a.scores, b.scores)


def test_load_model__wrong_checkpoints(config, model, tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing.pth"):
        load_model(config, tmp_path / "nothing.pth")
    (tmp_path / "cut.pth").write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(ValueError, match="not a whole checkpoint"):
        load_model(config, tmp_path / "cut.pth")
    state = model.state_dict()
    state.pop("head.level_scale")
    torch.save(state, tmp_path / "part.pth")
    with pytest.raises(ValueError, match="missing head.level_scale"):
        load_model(config, tmp_path / "part.pth")
    torch.save({"model": {"module.backbone.body.patch_embed.proj.weight": torch.ones(1)}}, tmp_path / "glip.pth")
    with pytest.raises(ValueError, match="tools/convert_weights.py"):
        load_model(config, tmp_path / "glip.pth")


def test_predict__any_image_type_gives_the_same(predictor, tmp_path):
    photo = _photo()
    Image.fromarray(photo).save(tmp_path / "a.png")
    results = [predictor.predict(image) for image in (photo, Image.fromarray(photo), tmp_path / "a.png", str(tmp_path / "a.png"))]
    assert all(torch.equal(results[0].boxes_xyxy, r.boxes_xyxy) for r in results[1:])
    assert results[0].size_hw == (90, 140) and results[0].names == ("cat", "a red chair left of the table")
    assert float(results[0].boxes_xyxy[:, 2].max()) <= 140 and float(results[0].boxes_xyxy[:, 3].max()) <= 90


def test_predict__leaves_out_what_is_below_the_threshold(predictor):
    everything = predictor.predict(_photo())
    middle = float(everything.scores.median())
    assert len(predictor.predict(_photo(), score_thr=middle)) == int((everything.scores >= middle).sum()) < len(everything)


def test_predict_many__batches_equal_singles_and_read_lazily(predictor):
    photos = [_photo(seed=n) for n in range(3)]
    single = [predictor.predict(p) for p in photos]
    batched = list(predictor.predict_many(iter(photos), batch_size=2))
    assert [r.image_id for r in batched] == [0, 1, 2]
    for a, b in zip(single, batched):
        torch.testing.assert_close(a.scores, b.scores)
    endless = predictor.predict_many((_photo() for _ in iter(int, 1)), batch_size=2)
    assert next(endless).image_id == 0


def test_set_vocabulary__text_is_encoded_once_and_a_new_one_replaces_it(predictor, monkeypatch):
    calls = []
    encode = predictor.model.text_encoder.encode
    monkeypatch.setattr(predictor.model.text_encoder, "encode", lambda *a, **k: calls.append(1) or encode(*a, **k))
    predictor.set_vocabulary(["dog", "zebra"])
    list(predictor.predict_many([_photo()] * 3))
    predictor.predict(_photo())
    assert len(calls) == 1
    predictor.set_vocabulary("voc")
    assert len(predictor.predict(_photo()).names) == 20 and len(calls) == 2


def test_predictor__says_what_is_missing(model):
    fresh = OpenVocabPredictor(model)
    fresh.model.vocabulary = None
    with pytest.raises(ValueError, match="set_vocabulary"):
        fresh.predict(_photo())
    with pytest.raises(ValueError, match="resize="):
        OpenVocabPredictor(torch.nn.Identity())
    fresh.set_vocabulary(["cat"])
    with pytest.raises(ValueError, match="batch_size"):
        list(fresh.predict_many([], batch_size=0))


def test_load_image__upright_and_clear_errors(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side
    Image.new("RGB", (40, 20), "red").save(tmp_path / "side.jpg", exif=exif)
    assert load_image(tmp_path / "side.jpg").shape == (40, 20, 3)
    (tmp_path / "text.jpg").write_text("hello")
    with pytest.raises(ValueError, match="text.jpg cannot be read"):
        load_image(tmp_path / "text.jpg")
    with pytest.raises(FileNotFoundError, match="existing file"):
        load_image(tmp_path / "nothing.jpg")
    for wrong in (np.zeros((4, 4), dtype=np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), dtype=np.uint8)):
        with pytest.raises(ValueError, match="uint8"):
            load_image(wrong)


def test_load__short_names_work_at_once_or_say_what_is_missing(config, model, tmp_path):
    mini = load("mini", device="cpu")
    found = mini(_photo(), "cat. not: sofa")
    assert found.names == ("background", "cat") and found.label_map_HW.shape == (90, 140) and np.array_equal(found.image, _photo())
    with pytest.raises(ValueError, match="tools/train.py configs/desco_lvis_mini.py"):
        load("desco_mini", device="cpu")
    with pytest.raises(ValueError, match="files of the networks"):
        load("reco_voc", device="cpu")
    with pytest.raises(KeyError, match="desco_swin_t"):
        load("desco_swin", device="cpu")
    with pytest.raises(ValueError, match="weights=CHECKPOINT"):
        load(config, device="cpu")
    torch.save(model.state_dict(), tmp_path / "w.pth")
    assert torch.equal(load(config, tmp_path / "w.pth", device="cpu").model.head.level_scale, model.head.level_scale)


def test_call__one_image_one_result_and_several_a_list(predictor, tmp_path):
    photos = [_photo(seed=n) for n in range(3)]
    for n, photo in enumerate(photos):
        Image.fromarray(photo).save(tmp_path / f"{n}.png")
    one = predictor(photos[0], score_thr=0.0)
    assert torch.equal(one.scores, predictor.predict(photos[0]).scores) and len(predictor(photos[0], score_thr=1.0)) == 0
    paths = sorted(tmp_path.glob("*.png"))
    for images in (tmp_path, str(tmp_path), photos, np.stack(photos), paths, [paths[0], photos[1], Image.fromarray(photos[2])], [tmp_path], iter(photos)):
        found = predictor(images, score_thr=0.0, batch_size=2)
        assert [r.image_id for r in found] == [0, 1, 2]
        torch.testing.assert_close(found[0].scores, one.scores)
    assert [r.file_name for r in predictor(tmp_path)] == ["0.png", "1.png", "2.png"]
    assert np.array_equal(predictor(tmp_path)[1].image, photos[1])


def test_call__the_same_texts_are_encoded_once(predictor, monkeypatch):
    calls = []
    encode = predictor.model.text_encoder.encode
    monkeypatch.setattr(predictor.model.text_encoder, "encode", lambda *a, **k: calls.append(1) or encode(*a, **k))
    for texts in (["dog", "zebra"], "dog. zebra", None, ["dog", "zebra"]):
        predictor(_photo(), texts)
    assert len(calls) == 1
    predictor.set_caption("a dog and a zebra", ["a dog", "a zebra"])
    assert predictor(_photo(), score_thr=0.0).names == ("a dog", "a zebra")
    assert predictor(_photo(), ["dog", "zebra"]).names == ("dog", "zebra")


def test_call__threads_get_answers_for_their_own_texts(predictor, monkeypatch):
    """The second thread asks while the first one's image is looked at: it waits for its turn."""
    plain, found, swapped = predictor.model.predict, {}, threading.Event()

    def ask(*texts):
        found[texts] = predictor(_photo(), list(texts), score_thr=0.0)
        swapped.set()

    other = threading.Thread(target=ask, args=("zebra", "grass", "sky"), daemon=True)

    def slow(images, targets):
        monkeypatch.setattr(predictor.model, "predict", plain)
        other.start()
        swapped.wait(1.0)  # without turns the other one would be through by now
        return plain(images, targets)

    monkeypatch.setattr(predictor.model, "predict", slow)
    ask("cat", "dog")
    other.join(120)
    assert {texts: results.names for texts, results in found.items()} == {texts: texts for texts in (("cat", "dog"), ("zebra", "grass", "sky"))}
    assert predictor.vocabulary.names == ("zebra", "grass", "sky")
    assert torch.equal(predictor(_photo(), ["cat", "dog"], score_thr=0.0).scores, found["cat", "dog"].scores)


def test_predictor__is_copied_and_pickled(predictor):
    for again in (copy.deepcopy(predictor), pickle.loads(pickle.dumps(predictor))):
        assert torch.equal(again.predict(_photo()).scores, predictor.predict(_photo()).scores)


def test_call__negatives_never_come_back(predictor):
    found = predictor(_photo(), ["cat", "not: dog", "not: a fox"], score_thr=0.0)
    assert found.names == ("cat",) and set(found.labels.tolist()) <= {0} and predictor.vocabulary.names == ("cat", "dog", "a fox")


def test_call__no_image_is_not_the_current_folder(predictor, tmp_path, monkeypatch):
    Image.fromarray(_photo()).save(tmp_path / "a.png")
    (tmp_path / "script.py").write_text("raise SystemExit('run as a config')")
    monkeypatch.chdir(tmp_path)
    assert len(predictor(".", score_thr=0.0)) == 1
    for images in ("", [""]):
        with pytest.raises(FileNotFoundError, match="existing file"):
            predictor(images)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load("")


def test_call__images_of_a_data_set_of_ones_own(predictor):
    class Photos(torch.utils.data.Dataset):  # it has no __iter__
        def __getitem__(self, n):
            return [_photo(), _photo()][n]

    assert len(predictor(Photos(), score_thr=0.0)) == 2


def test_call__addresses_and_wrong_kinds(predictor):
    with pytest.raises(ValueError, match="nothing is fetched"):
        predictor("https://example.org/cat.jpg")
    for wrong in ([3], 3, None):
        with pytest.raises(ValueError, match="a path, an array or a PIL image"):
            predictor(wrong)
    for wrong in (None, 3):
        with pytest.raises(ValueError, match="names, a vocabulary, a file or a mapping"):
            predictor.set_vocabulary(wrong)
    for wrong in (float("nan"), -0.1, 30):
        with pytest.raises(ValueError, match="score_thr must lie in 0..1"):
            predictor(_photo(), score_thr=wrong)


def test_model__is_pickled_and_copied_with_its_vocabulary():
    """What torch.save of a model and workers that are spawned do."""
    predictor = load("mini")
    predictor.set_vocabulary(["cat", "sofa"])
    again = pickle.loads(pickle.dumps(predictor.model))
    image = torch.zeros(1, 3, 64, 64)
    assert again.vocabulary == predictor.model.vocabulary
    assert torch.equal(again.score(again.encode_image(image), again.text()), predictor.model.score(predictor.model.encode_image(image), predictor.model.text()))


def test_set_vocabulary__example_pictures_by_folder_or_mapping(tmp_path):
    mini = load("mini", device="cpu")
    for name, colour in (("red thing", "red"), ("blue thing", "blue")):
        (tmp_path / name).mkdir()
        Image.new("RGB", (64, 64), colour).save(tmp_path / name / "a.png")
    mini.set_vocabulary(tmp_path)
    names, found = mini.vocabulary.names, mini(_photo())
    assert names == ("background", "blue thing", "red thing") and mini.model.prompt == "exemplars"
    mini.set_vocabulary({name: [tmp_path / name / "a.png"] for name in names[1:]})
    assert torch.equal(mini(_photo()).label_map_HW, found.label_map_HW)
    with pytest.raises(ValueError, match="some of both"):
        mini.set_vocabulary({"a": tmp_path / "red thing", "b": "it is blue"})
    with pytest.raises(ValueError, match="without negatives"):
        mini.set_vocabulary(tmp_path, negatives=["dog"])


def test_precision__is_checked_and_bfloat16_changes_little(model):
    with pytest.raises(ValueError, match="precision must be"):
        OpenVocabPredictor(model, precision="half")
    with pytest.raises(ValueError, match="for accelerators"):
        OpenVocabPredictor(model, precision="float16")
    assert "float32" in repr(OpenVocabPredictor(model, precision="auto"))
    full, half = (OpenVocabPredictor(model, precision=p)(_photo(), ["cat", "dog"], score_thr=0.0) for p in ("float32", "bfloat16"))
    assert half.scores.dtype == torch.float32 and len(half) == len(full)
    torch.testing.assert_close(half.scores, full.scores, atol=0.02, rtol=0.1)


def test_masks__boxes_get_them_and_label_maps_are_refined(model, predictor, tmp_path):
    from tests.vision.test_sam import small_sam

    sam = SamMasks(small_sam())
    with_masks = OpenVocabPredictor(model, masks=sam)
    found = with_masks([_photo(), _photo(seed=1)], ["cat", "dog"], score_thr=0.0, batch_size=2)
    assert all(torch.equal(r.masks_NHW, sam.of_boxes(r.image, r.boxes_xyxy)[0]) and r.masks_NHW.shape == (len(r), 90, 140) for r in found)
    mini = load("mini", device="cpu", masks=sam)
    label = load("mini", device="cpu")(_photo(), ["cat"]).label_map_HW
    assert torch.equal(mini(_photo(), ["cat"]).label_map_HW, sam.refine(_photo(), label, [0]))
    with pytest.raises(FileNotFoundError, match="SAM's weights must be a local file"):
        load("mini", device="cpu", masks=tmp_path / "sam_vit_b.pth")


def test_heat_maps__the_best_place_of_a_class_is_its_best_box(predictor):
    maps = predictor.heat_maps(_photo(), ["cat", "not: dog"])
    assert list(maps) == ["cat"]
    cat = maps["cat"]
    found = predictor(_photo(), score_thr=0.0)
    assert cat.dtype == np.float32 and cat.ndim == 2 and float(cat.max()) ** 0.5 == pytest.approx(float(found.scores[0]), abs=1e-4)


def test_heat_maps__of_a_segmenter_say_what_its_label_map_says():
    mini = load("mini", device="cpu")
    mini.set_vocabulary(["cat", "sofa"])
    photo = _photo()
    maps = mini.heat_maps(photo)
    best = np.stack([np.asarray(Image.fromarray(m).resize((140, 90), Image.Resampling.BILINEAR)) for m in maps.values()]).argmax(0)
    assert list(maps) == ["background", "cat", "sofa"] and np.mean(best == mini(photo).label_map_HW.numpy()) > 0.9


@pytest.mark.parametrize("name", ["denseclip_voc_photos", "mdetr_coco_photos"])
def test_heat_maps__of_other_methods(name):
    model = load(name, "random", device="cpu")
    if name.startswith("mdetr"):
        with pytest.raises(NotImplementedError, match="scores objects"):
            model.heat_maps(_photo(), ["cat"])
    else:
        total = sum(model.heat_maps(_photo(), ["cat", "sofa"]).values())
        np.testing.assert_allclose(total, 1, atol=1e-4)
