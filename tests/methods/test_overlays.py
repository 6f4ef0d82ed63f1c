"""What OverlayHook draws: the caption's own phrases, the truth beside what was found."""
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from ovdense import drawing
from ovdense.compat.grounding import CaptionPhrases
from ovdense.compat.mm import to_data_sample
from ovdense.data.center_crop import CenterSquare
from ovdense.drawing.colours import _wish
from ovdense.methods.reporting import OverlayHook
from ovdense.structures import ClassEntry, ImageTarget, Results, Vocabulary

IMAGE = np.full((80, 100, 3), 90, np.uint8)


@pytest.fixture
def draw(tmp_path, monkeypatch):
    """Return the function from a data set, a target and results to the picture, and the list of what is written on it."""
    written = []
    draw_chip = drawing.overlay.draw_chip
    monkeypatch.setattr(drawing.overlay, "draw_chip", lambda *a: written.append(a[2]) or draw_chip(*a))
    Image.fromarray(IMAGE).save(tmp_path / "a.png")

    def run(dataset, target, results, images=(), **settings):
        written.clear()
        runner = SimpleNamespace(test_dataloader=SimpleNamespace(dataset=SimpleNamespace(image_folder=tmp_path, **dataset)))
        hook = OverlayHook(str(tmp_path / "out"), **settings)
        hook.after_test_iter(runner, 0, {"targets": [target], "images": images}, [to_data_sample(results)])
        name = f"a_{target.image_id}.jpg" if "phrases_of_image" in dataset else "a.jpg"
        with Image.open(tmp_path / "out" / name) as picture:
            return picture.size, written

    return run


def _target(boxes=((0.0, 0.0, 20.0, 20.0),), labels=(1,), **more):
    return ImageTarget(image_id=7, file_name="a.png", size_hw=(40, 50), original_size_hw=(80, 100), boxes_xyxy=torch.tensor(boxes).reshape(-1, 4),
                       labels=torch.tensor(labels, dtype=torch.int64), **more)


def _found(label=0, names=("cat", "dog")):
    return Results(boxes_xyxy=torch.tensor([[10.0, 10, 60, 60]]), scores=torch.tensor([0.8]), labels=torch.tensor([label]), names=names, size_hw=(80, 100),
                   image_id=7)


def test_overlay__a_caption_names_its_own_phrases(draw, tmp_path):
    caption = CaptionPhrases(caption="a dog beside a sofa", spans=(((0, 5),), ((13, 19),)), boxes_xyxy=(np.array([[5.0, 5, 50, 50]]), np.zeros((0, 4))))
    dataset = {"vocabulary": Vocabulary.of([f"phrase {n}" for n in range(5)]), "phrases_of_image": lambda image_id: {7: caption}[image_id]}
    size, written = draw(dataset, _target((), ()), _found(1, tuple(f"phrase {n}" for n in range(5))))
    assert written == ["a sofa 0.80", "a dog"] and size[0] > 2 * 640
    draw(dataset | {"phrases_of_image": lambda image_id: caption}, replace(_target((), ()), image_id=8), _found(1, dataset["vocabulary"].names))
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a_7.jpg", "a_8.jpg"], "a photo with two captions has two pictures"


def test_overlay__boxes_of_the_truth_in_pixels_of_the_file(draw, monkeypatch):
    drawn = []
    draw_results = drawing.draw_results
    monkeypatch.setattr(drawing, "draw_results", lambda image, results, **k: drawn.append(results) or draw_results(image, results, **k))
    dataset = {"vocabulary": Vocabulary.of(["cat", "dog"])}
    size, written = draw(dataset, _target(), _found())
    assert written == ["cat 0.80", "dog"] and torch.equal(drawn[1].boxes_xyxy, torch.tensor([[0.0, 0, 40, 40]])) and size[0] > 2 * 640
    for target, settings in ((_target(), {"truth": False}), (_target((), ()), {})):
        size, written = draw(dataset, target, _found(), **settings)
        assert written == ["cat 0.80"] and size == (800, 640)


@pytest.mark.parametrize("maps", [False, True])
def test_overlay__a_class_has_one_colour_on_both_sides(draw, monkeypatch, maps):
    """Of a large vocabulary only the names in a picture share out the colours: here two, found in another order than they are there."""
    names, used = tuple(f"class {n}" for n in range(80)), []
    wishes = [_wish(name) for name in names]
    alike = [n for n in range(1, 80) if wishes[n] == next(w for w in wishes[1:] if wishes[1:].count(w) > 1)][:2]  # two that wish for one colour
    of = drawing.overlay.class_colours
    monkeypatch.setattr(drawing.overlay, "class_colours", lambda *a: used.append(of(*a)) or used[-1])
    boxes, label = torch.tensor([[5.0, 5, 40, 40], [50.0, 40, 90, 75]]), torch.zeros(80, 100, dtype=torch.int64)
    label[:40], label[40:] = alike[0], alike[1]
    found = Results(boxes_xyxy=boxes, scores=torch.tensor([0.9, 0.8]), labels=torch.tensor(alike), names=names, size_hw=(80, 100), image_id=7)
    target = _target(boxes.tolist(), alike[::-1])
    if maps:
        found, target = Results.of_label_map(label, names, 7), _target((), (), label_map_HW=torch.where(label == alike[0], alike[1], 0))
    draw({"vocabulary": Vocabulary.of(names)}, target, found)
    assert len(used) == 2 and all(used[0][names[k]] == used[1][names[k]] for k in alike) and used[0][names[alike[0]]] != used[0][names[alike[1]]]


def test_overlay__label_maps_beside_each_other(draw):
    label = torch.zeros(80, 100, dtype=torch.int64)
    label[:40] = 1
    truth = label.clone()
    truth[60:] = 255
    dataset = {"vocabulary": Vocabulary((ClassEntry(name="nothing", is_background=True), ClassEntry(name="cat")))}
    found = Results.of_label_map(label, dataset["vocabulary"].names, 7)
    size, written = draw(dataset, _target((), (), label_map_HW=truth), found)
    assert written == ["cat", "cat"] and size[0] > 2 * 640


def test_overlay__of_a_part_that_a_transform_cut_out_shows_that_part(draw, tmp_path):
    """ReCo's squares: the label map is of the middle of the photo, at a size of its own."""
    left = np.zeros((80, 120, 3), np.uint8)
    left[:, 20:100] = 200  # the middle square
    Image.fromarray(left).save(tmp_path / "a.png")
    square = CenterSquare(64)({"image": left, "original_size_hw": (80, 120)})
    target = ImageTarget(image_id=7, file_name="a.png", size_hw=(64, 64), original_size_hw=square["original_size_hw"], boxes_xyxy=torch.zeros(0, 4),
                         labels=torch.zeros(0, dtype=torch.int64))
    found = Results.of_label_map(torch.zeros(64, 64, dtype=torch.int64), ("background", "cat"), image_id=7)
    dataset = {"vocabulary": Vocabulary((ClassEntry(name="background", is_background=True), ClassEntry(name="cat")))}
    size, _ = draw(dataset, target, found, images=[torch.from_numpy(square["image"].transpose(2, 0, 1).copy())])
    assert size[0] == size[1], "the square, not the photo"
    with Image.open(tmp_path / "out" / "a.jpg") as picture:
        assert np.asarray(picture).min() > 190
