"""Exported files give what their model gives: by onnxruntime and by torch.export, vocabulary folded in or as an input, before and after a swap."""
from pathlib import Path

import numpy as np
import pytest
import torch

from ovdense.export import ExportedModel, export
from ovdense.export.networks import network_of
from ovdense.methods.dual_encoder import ConseDualEncoder
from ovdense.methods.maskclip import MaskClip
from ovdense.structures import ClassEntry, ImageTarget, Vocabulary
from ovdense.text.caption_prompts import caption_prompt
from tests.methods.denseclip import tiny as denseclip
from tests.methods.desco import test_model as desco
from tests.methods.mdetr import tiny as mdetr

BACKGROUND = ClassEntry(name="background", is_background=True)
PETS, FURNITURE = Vocabulary((BACKGROUND, *Vocabulary.of(["cat", "dog"]))), Vocabulary((BACKGROUND, *Vocabulary.of(["sofa", "chair", "tv monitor", "bus"])))
SIZE = (64, 96)
ATOL = 1e-3


def picture(seed=0, size=SIZE):
    """Return blobs of colour, uint8 RGB: noise alone gives every place the same answer."""
    rng = np.random.default_rng(seed)
    small = torch.from_numpy(rng.random((1, 3, 5, 7), dtype=np.float32))
    return (torch.nn.functional.interpolate(small, size=size, mode="bicubic").clamp(0, 1)[0] * 255).byte().permute(1, 2, 0).numpy()


def predicted(model, image):
    """Return what the model itself predicts for an image of the file's size."""
    size = image.shape[:2]
    target = ImageTarget(image_id=0, file_name="", size_hw=size, original_size_hw=size, boxes_xyxy=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64))
    data = model.data_preprocessor({"images": [torch.from_numpy(image).permute(2, 0, 1)], "targets": [target]})
    return model.predict(data["images"], data["targets"])[0]


def same_boxes(a, b):
    assert len(a) == len(b) > 0
    assert torch.equal(a.labels, b.labels)
    torch.testing.assert_close(a.scores, b.scores, atol=ATOL, rtol=0)
    torch.testing.assert_close(a.boxes_xyxy, b.boxes_xyxy, atol=1e-2, rtol=1e-3)


def same_maps(a, b):
    assert a.names == b.names and (a.label_map_HW == b.label_map_HW).float().mean() > 0.999


def maskclip():
    return MaskClip(ConseDualEncoder(short_sides=(32,)), background_thr=0.55)


MODELS = {
    "maskclip": (maskclip, (PETS, FURNITURE), same_maps),
    "denseclip_open": (lambda: denseclip.make("open_semantic"), (Vocabulary.of(["cat", "sofa"]), Vocabulary.of(["tree", "house", "red bus"])), same_maps),
    "desco": (lambda: desco.tiny(max_classes=2), (Vocabulary.of(["cat", "dog", "bus"]), Vocabulary.of(["a red chair", "tree"])), same_boxes),
    "mdetr": (mdetr.tiny, (Vocabulary.of(["cat", "dog"]), Vocabulary.of(["a red chair left of the table", "bus", "tree"])), same_boxes),
    "mdetr_many": (lambda: mdetr.tiny(prompts="many", phrase_score="max", clip=False),
                   (Vocabulary.of(["cat", "dog"]), Vocabulary.of(["bus", "red tree"])), lambda a, b: same_boxes(a, b.inside())),
    "mdetr_proposals": (lambda: mdetr.tiny(slots_from="proposals", tokens="alignment", prompts="many"),
                        (Vocabulary.of(["cat", "dog"]), Vocabulary.of(["bus", "red tree"])), same_boxes),
}


@pytest.mark.slow
@pytest.mark.parametrize("name, form", [(name, "onnx") for name in MODELS] + [("denseclip_open", "torch"), ("mdetr", "torch")])
def test_export__swap_export_swap_again(name, form, tmp_path):
    """The file answers for the vocabulary that was set when it was written; the model itself goes on as before, to the bit."""
    make, (first, second), same = MODELS[name]
    model, image = make(), picture()
    model.set_vocabulary(first)
    before = predicted(model, image)
    model.set_vocabulary(second)
    expected, path = predicted(model, image), export(model, tmp_path / f"a.{form}", format=form, size_hw=SIZE)
    model.set_vocabulary(first)
    after = predicted(model, image)
    assert torch.equal(after.scores, before.scores) and (before.label_map_HW is None or torch.equal(after.label_map_HW, before.label_map_HW))
    exported = ExportedModel(path)
    assert exported.names == second.names and exported.about["prompt"] == "names" and exported.size_hw == SIZE
    same(exported(image), expected)
    assert path.stat().st_size < 4 * 2**20 + sum(t.numel() * t.element_size() for n, t in model.state_dict().items() if "text" not in n)


@torch.no_grad()
@pytest.mark.parametrize("how", ["sum", "max", "object"])
def test_mdetr__the_network_scores_a_caption_as_the_model(how):
    """The published configs score by "max"; an expression's score has the final head's part."""
    model = mdetr.tiny(head=dict(final=True), phrase_score=how, clip=False)
    vocabulary, prompt = caption_prompt("a red dog left of it", [[(0, 9)]])
    model.ask([prompt], vocabulary)
    image = picture()
    scores, boxes = network_of(model, True, SIZE)[0](torch.from_numpy(image).permute(2, 0, 1)[None].float())
    expected = predicted(model, image)
    order = scores[:, 0].argsort(descending=True, stable=True)
    assert len(expected) == len(order) == 6
    torch.testing.assert_close(scores[order, 0], expected.scores, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(boxes[0][order], expected.boxes_xyxy, atol=1e-2, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name, form", [("maskclip", "onnx"), ("denseclip_open", "torch")])
def test_export__embeddings_as_an_input_serve_any_vocabulary(name, form, tmp_path):
    make, (first, second), _ = MODELS[name]
    model, image = make(), picture(1)
    model.set_vocabulary(second)
    rows, expected = network_of(model, False, SIZE)[0].text.numpy(), predicted(model, image)
    model.set_vocabulary(first)
    exported = ExportedModel(export(model, tmp_path / f"a.{form}", format=form, fold=False, size_hw=SIZE))
    same_maps(exported(image), predicted(model, image))
    exported.set_text(second.names, rows, [entry.is_background for entry in second])
    same_maps(exported(image), expected)
    assert exported(picture(3, (120, 50))).label_map_HW.shape == (120, 50)  # a portrait photo in a landscape file: results are in its own pixels
    with pytest.raises(ValueError, match="text_KC must have shape"):
        exported.set_text(["cat"], rows)


@pytest.mark.slow
def test_export__the_published_form_and_its_raw_scores(tmp_path):
    model, image = denseclip.make("semantic"), picture(2)
    exported = ExportedModel(export(model, tmp_path / "a.onnx", size_hw=SIZE))
    same_maps(exported(image), predicted(model, image))
    batch = model.data_preprocessor({"images": [torch.from_numpy(image).permute(2, 0, 1)]})["images"]
    out = exported.outputs(image.transpose(2, 0, 1)[None])["scores"]
    np.testing.assert_allclose(out, model.segment(batch).numpy(), atol=ATOL)
    with pytest.raises(ValueError, match="folded into this file"):
        exported.set_text(["cat"], np.zeros((1, 12)))


@pytest.mark.parametrize("make, how, words", [
    (lambda: denseclip.make("retina"), {}, "mmdet's own heads"),
    (lambda: denseclip.make("semantic"), {"fold": False}, "fold=True"),
    (lambda: denseclip.make("semantic", prompting="pre"), {}, "encoded for each image"),
    (lambda: desco.tiny(), {"fold": False}, "fold=True"),
    (lambda: desco.tiny(pool="max"), {}, "pool="),
    (lambda: mdetr.tiny(head=dict(answers="gqa")), {}, "answers questions"),
    (lambda: desco.tiny(), {"format": "tflite"}, "format must be one of onnx, torch"),
    (lambda: desco.tiny(), {"size_hw": (50, 64)}, "multiples of 32"),
])
def test_export__says_what_it_cannot(make, how, words, tmp_path):
    model = make()
    if model.vocabulary is None:
        model.set_vocabulary(Vocabulary.of(["cat", "dog"]))
    with pytest.raises(ValueError, match=words):
        export(model, tmp_path / "a.onnx", **{"size_hw": SIZE} | how)
    assert not (tmp_path / "a.onnx").exists()


def test_export__needs_a_vocabulary_and_a_model(tmp_path):
    with pytest.raises(ValueError, match="set_vocabulary"):
        export(desco.tiny(), tmp_path / "a.onnx")
    with pytest.raises(ValueError, match="got Linear"):
        export(torch.nn.Linear(1, 1), tmp_path / "a.onnx")


def test_exported_model__wrong_files(tmp_path):
    (tmp_path / "a.onnx").write_bytes(b"not a model")
    with pytest.raises(ValueError, match="cannot be read as ONNX"):
        ExportedModel(tmp_path / "a.onnx")
    with pytest.raises(FileNotFoundError):
        ExportedModel(tmp_path / "b.onnx")


def test_command__texts_are_texts_even_where_a_vocabulary_has_their_name(monkeypatch, tmp_path):
    import ovdense.export
    from ovdense.cli.export import main

    asked = []

    def export(predictor, path, **how):
        asked.append(predictor.vocabulary.names)
        Path(path).touch()
        return Path(path)

    monkeypatch.setattr(ovdense.export, "export", export)
    assert main(["mini", "--texts", "voc", "--out", str(tmp_path / "a.onnx")]) == 0
    assert main(["mini", "--vocab", "voc", "--out", str(tmp_path / "b.onnx")]) == 0
    assert asked[0] == ("background", "voc") and len(asked[1]) == 21


@pytest.mark.slow
@pytest.mark.parametrize("name", ["maskclip", "desco", "mdetr"])
def test_export__negatives_never_come_back(name, tmp_path):
    """The file of a predictor answers as the predictor does: what a negative wins is nobody's."""
    from ovdense.api import OpenVocabPredictor
    from ovdense.data.transforms import ResizeShortestEdge

    predictor, image = OpenVocabPredictor(MODELS[name][0](), resize=ResizeShortestEdge((SIZE[0],), SIZE[1])), picture()
    predictor.set_vocabulary(["cat", "a red chair"], negatives=["dog"])
    expected = predictor.predict(image)
    exported = ExportedModel(export(predictor, tmp_path / "a.pt2", format="torch", size_hw=SIZE))
    found = exported(image)
    assert "dog" not in found.names and found.names == exported.names == expected.names and exported.about["negatives"] == 1
    (same_maps if name == "maskclip" else same_boxes)(found, expected)


def test_exported_model__negatives_compete_by_whole_boxes_as_in_a_predictor(monkeypatch):
    """MDETR's published protocols leave boxes beyond the border; cut first, these two would be one place."""
    model = object.__new__(ExportedModel)
    model.about = {"task": "mdetr", "group_of_class": [0, 0], "classes": [0, 1], "decode": {"score_thr": 0.5, "max_dets": 9}, "mean": [0, 0, 0]}
    model._asked, model._num_negatives, model._background, model.size_hw = ("cat", "dog"), 1, [False, False], SIZE
    height, width = SIZE
    boxes = np.array([[[0, 0, width, height], [-2 * width, 0, width, height]]], dtype=np.float32)
    monkeypatch.setattr(ExportedModel, "outputs", lambda self, images: {"scores": np.array([[0.6, 0], [0, 0.9]], dtype=np.float32), "boxes": boxes})
    found = model(picture())
    assert found.names == ("cat",) and found.boxes_xyxy.tolist() == [[0, 0, width, height]]
