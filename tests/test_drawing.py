from functools import partial

import numpy as np
import pytest
import torch

from ovdense import drawing
from ovdense.drawing import class_colour, class_colours, contact_sheet, draw_heat, draw_label_map, heat_sheet, legible_on, side_by_side
from ovdense.drawing.canvas import chip_size, free_place, label_text, text_font
from ovdense.drawing.colours import palette
from ovdense.structures import Results


def _results(boxes, scores, labels=None, names=("cat", "dog"), size_hw=(120, 160)):
    labels = torch.tensor(labels or [0] * len(scores), dtype=torch.int64)
    return Results(boxes_xyxy=torch.tensor(boxes).reshape(-1, 4).float(), scores=torch.tensor(scores), labels=labels, names=names, size_hw=size_hw)


draw_results = partial(drawing.draw_results, min_side=1)  # as large as the image: pixels can be compared
IMAGE = np.full((120, 160, 3), 128, dtype=np.uint8)


def test_draw_results__nothing_above_the_threshold_changes_nothing():
    for results in (_results([], []), _results([[10, 10, 50, 50]], [0.2])):
        drawn = draw_results(IMAGE, results, score_thr=0.3)
        assert np.array_equal(drawn, IMAGE) and drawn is not IMAGE


def test_draw_results__box_has_the_colour_of_its_class_and_the_inside_stays():
    drawn = draw_results(IMAGE, _results([[40, 50, 120, 100]], [0.9]), max_labels=0)
    assert tuple(drawn[75, 40]) == class_colour("cat")
    assert np.array_equal(drawn[60:90, 50:110], IMAGE[60:90, 50:110])
    assert np.array_equal(IMAGE, np.full((120, 160, 3), 128))


def test_draw_results__edges_are_antialiased_by_the_share_covered():
    white = np.full((120, 160, 3), 255, dtype=np.uint8)
    whole, half = (draw_results(white, _results([[x, 50, 120, 100]], [0.9]), max_labels=0)[75, 36:45].astype(int) for x in (40.0, 40.5))
    assert not np.array_equal(whole, half)
    assert abs(whole.sum() - half.sum()) <= 9  # the same ink, half a pixel further


@pytest.mark.parametrize("box", [[-50, -50, 400, 400], [158, 118, 160, 120], [0, 0, 0, 0], [200, 200, 300, 300]])
def test_draw_results__any_box_on_any_place(box):
    assert draw_results(IMAGE, _results([box], [0.9])).shape == IMAGE.shape
    assert draw_results(IMAGE[:5, :5], _results([box], [0.9])).shape == (5, 5, 3)


def test_draw_results__rejects_other_images():
    with pytest.raises(ValueError, match="uint8"):
        draw_results(IMAGE.astype(np.float32), _results([], []))


def test_class_colour__depends_on_the_name_only():
    assert class_colour("cat") == class_colour("cat") != class_colour("dog")


def test_class_colours__no_two_alike_and_the_same_in_every_picture_of_a_vocabulary():
    names = [f"thing {n}" for n in range(24)]
    colours = class_colours(names)
    assert len(set(colours.values())) == 24 and colours[names[0]] == class_colour(names[0])
    assert class_colours(names, shown=names[5:7]) == colours  # a small vocabulary: whatever is shown
    many = [f"thing {n}" for n in range(300)]
    shown = class_colours(many, shown=many[40:60])
    assert list(shown) == many[40:60] and len(set(shown.values())) == 20
    assert len(class_colours(many)) == 300 and set(class_colours(many).values()) <= set(palette())


def test_palette__every_colour_bears_legible_text():
    def luminance(colour):
        linear = [c / 12.92 if (c := v / 255) <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for v in colour]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    assert len(set(palette())) == 36
    for colour in palette():
        dark, light = sorted((luminance(colour), luminance(legible_on(colour))))
        assert (light + 0.05) / (dark + 0.05) > 4.5  # WCAG AA


def test_legible_on__black_on_light_and_white_on_dark():
    assert legible_on((250, 240, 90)) == (0, 0, 0)
    assert legible_on((60, 20, 120)) == (255, 255, 255)


def test_label_text__shortens_long_names_and_keeps_the_score():
    font = text_font(12)
    text = label_text("a red chair left of the table", 0.876, font, 100)
    assert text.endswith("… 0.88") and text.startswith("a red") and font.getlength(text) <= 100
    assert label_text("bow_(weapon)", 0.5, font, 300) == "bow (weapon) 0.50"


def test_free_place__inside_the_image_and_never_on_another():
    size, taken = chip_size("cat 0.90", text_font(12)), []
    for _ in range(200):
        place = free_place((150, 2, 170, 30), size, (160, 120), 2, taken)
        if place is None:
            break
        assert 0 <= place[0] and 0 <= place[1] and place[2] <= 160 and place[3] <= 120
        assert all(place[0] >= t[2] or t[0] >= place[2] or place[1] >= t[3] or t[1] >= place[3] for t in taken)
        taken.append(place)
    assert len(taken) >= 5 and place is None


def test_contact_sheet__rows_of_unequal_images():
    sheet = contact_sheet([IMAGE, IMAGE[:60], IMAGE], columns=2, cell_width=80, gap=4)
    assert sheet.shape == (4 + 60 + 4 + 60 + 4, 2 * 84 + 4, 3)
    with pytest.raises(ValueError, match="needs an image"):
        contact_sheet([], columns=2)


def test_draw_results__small_images_are_enlarged_with_their_boxes():
    drawn = drawing.draw_results(IMAGE, _results([[40, 50, 120, 100]], [0.9]), max_labels=0, min_side=480)
    assert drawn.shape == (480, 640, 3)
    assert tuple(drawn[300, 160]) == class_colour("cat")


def test_draw_results__of_several_classes_on_a_place_the_best_is_drawn():
    boxes, names = [[40, 50, 120, 100], [41, 50, 120, 101], [10, 10, 60, 40]], ("cat", "dog")
    best = draw_results(IMAGE, _results(boxes, [0.6, 0.9, 0.5], [0, 1, 0], names), max_labels=0)
    assert np.array_equal(best, draw_results(IMAGE, _results(boxes[1:], [0.9, 0.5], [1, 0], names), max_labels=0))
    every = draw_results(IMAGE, _results(boxes, [0.6, 0.9, 0.5], [0, 1, 0], names), max_labels=0, same_place_iou=1.0)
    assert not np.array_equal(best, every)


def test_label_map__tints_classes_and_leaves_background():
    image = np.full((64, 96, 3), 120, np.uint8)
    label = np.zeros((64, 96), np.int64)
    label[:, 48:], label[:8, :8] = 1, 255
    drawn = draw_label_map(image, label, ("background", "cat"), min_side=64, max_labels=0)
    assert drawn.shape == image.shape
    assert (drawn[20:, :40] == 120).all() and (drawn[:8, :8] == 120).all()
    middle, colour = drawn[30, 75].astype(int), np.array(class_colour("cat"))
    assert (abs(middle - (0.55 * 120 + 0.45 * colour)) <= 1).all()
    assert (draw_label_map(image, label, ("background", "cat"), min_side=64) != drawn).any()  # the name


def test_label_map__of_another_size():
    with pytest.raises(ValueError, match="image's size"):
        draw_label_map(np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5), np.int64), ("a",))


def test_results__masks_and_label_maps_are_drawn():
    image = np.full((80, 80, 3), 30, np.uint8)
    mask = torch.zeros(1, 80, 80, dtype=torch.bool)
    mask[0, 20:60, 20:60] = True
    found = Results(boxes_xyxy=torch.tensor([[20.0, 20, 60, 60]]), scores=torch.tensor([0.9]), labels=torch.tensor([0]), names=("cat",), size_hw=(80, 80),
                    masks_NHW=mask)
    drawn = draw_results(image, found, max_labels=0)
    assert (drawn[40, 40] != 30).any() and (drawn[70, 70] == 30).all()
    painted = draw_results(image, Results.of_label_map(torch.zeros(80, 80, dtype=torch.int64), ("cat",)), max_labels=0)
    assert (painted != 30).any()


def _grid(count, names=("cat", "dog")):
    boxes = [[10 + 30 * (n % 15), 10 + 30 * (n // 15), 30 + 30 * (n % 15), 30 + 30 * (n // 15)] for n in range(count)]
    return _results(boxes, [0.9] * count, [n % len(names) for n in range(count)], names, size_hw=(480, 480))


def test_draw_results__many_objects_get_a_legend_and_few_labels(monkeypatch):
    image, written = np.full((480, 480, 3), 90, np.uint8), []
    draw_chip = drawing.overlay.draw_chip
    monkeypatch.setattr(drawing.overlay, "draw_chip", lambda *a: written.append(a[2]) or draw_chip(*a))
    assert draw_results(image, _grid(15)).shape == image.shape and sum(text.endswith("0.90") for text in written) == len(written) > 10
    written.clear()
    drawn = draw_results(image, _grid(60))
    assert drawn.shape[0] > 480 and drawn.shape[1] == 480 and sorted(written) == ["cat"] * 3 + ["dog"] * 3
    strip = drawn[480:].reshape(-1, 3)
    for colour in class_colours(("cat", "dog")).values():
        assert (strip == colour).all(1).sum() > 50  # its swatch
    assert draw_results(image, _grid(60), legend=False).shape == image.shape
    assert draw_results(image, _grid(2), legend=True).shape[0] > 480


def test_draw_label_map__a_legend_for_classes_without_a_label():
    label = np.zeros((200, 200), np.int64)
    label[:100], label[150:152, 150:152] = 1, 2
    image = np.full((200, 200, 3), 90, np.uint8)
    assert draw_label_map(image, label, ("background", "cat", "dog"), min_side=1).shape[0] > 200
    assert draw_label_map(image, np.minimum(label, 1), ("background", "cat", "dog"), min_side=1).shape == image.shape


def test_draw_heat__bright_where_there_is_much():
    heat = np.zeros((4, 6))
    heat[1, 2] = 3.0
    drawn = draw_heat(IMAGE, heat, min_side=1, scale=False).astype(int).sum(-1)
    y, x = np.unravel_index(drawn.argmax(), drawn.shape)
    assert drawn.shape == IMAGE.shape[:2] and 30 <= y < 60 and 53 <= x < 80
    flat = draw_heat(IMAGE, np.ones((2, 2)), min_side=1)
    assert flat.shape[0] > 120 and (flat[:120] == flat[0, 0]).all()
    for wrong in (np.zeros((0, 3)), np.full((2, 2), np.nan), np.zeros((1, 2, 2))):
        with pytest.raises(ValueError, match="heat map must be finite"):
            draw_heat(IMAGE, wrong)


def test_heat_sheet__one_scale_and_the_highest_first():
    maps = np.stack([np.zeros((2, 2)), np.ones((2, 2))])
    sheet = heat_sheet(IMAGE, maps, ["nothing", "much"], columns=2, cell_width=160)
    left, right = (sheet[40, x].astype(int).sum() for x in (80, 250))
    assert left > right
    with pytest.raises(ValueError, match="one name each"):
        heat_sheet(IMAGE, maps, ["one"])


def test_side_by_side__titles_above_both():
    pair = side_by_side(IMAGE, IMAGE[:100], gap=4)
    assert pair.shape[1] == 2 * 160 + 4 and pair.shape[0] > 120 and (pair[-1, -1] == 255).all()
    with pytest.raises(ValueError, match="one width"):
        side_by_side(IMAGE, IMAGE[:, :10])
    with pytest.raises(ValueError, match="as many captions"):
        contact_sheet([IMAGE], columns=1, captions=["a", "b"])


@pytest.mark.parametrize("size_hw", [(1, 3000), (3000, 1), (6, 2000)])
def test_strips__are_not_enlarged_without_end(size_hw):
    """A picture of a few bytes must not fill the memory of whoever draws it, such as the web page."""
    image, names = np.full((*size_hw, 3), 128, np.uint8), ("background", "a thing")
    label = torch.zeros(size_hw, dtype=torch.int64)
    label[size_hw[0] // 2 :, size_hw[1] // 2 :] = 1
    drawn = [drawing.draw_results(image, _results([[0, 0, size_hw[1], size_hw[0]]], [0.9], size_hw=size_hw)),
             draw_label_map(image, label.numpy(), names, legend=True), draw_heat(image, np.ones((2, 3)))]  # fmt: skip
    for picture in drawn:
        assert 640 <= max(picture.shape[:2]) <= 8 * 640 + 100
    assert contact_sheet(drawn, 2).shape[0] < 4 * 480 * 2 + 100 and heat_sheet(image, np.ones((2, 2, 3)), ["a", "b"]).size < 20e6
