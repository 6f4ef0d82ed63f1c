"""MDETR's augmentation: windows of random size that lose no box, and a choice of steps."""
import numpy as np
import pytest

from ovdense.data.size_crops import OneOf, SizeCrop
from tests.data.test_transforms import sample

BOXES = [[10, 5, 30, 15], [50, 30, 58, 38], [0, 0, 60, 40]]
SPANS = (((0, 1),), ((2, 3),), ((4, 5), (0, 1)))


def given(seed, boxes=BOXES, size_hw=(40, 60)):
    height, width = size_hw
    masks = np.zeros((len(boxes), height, width), dtype=bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes):
        mask[y1:y2, x1:x2] = True
    return sample(boxes, size_hw, seed, caption="a b c", positive_spans=SPANS[: len(boxes)], masks=masks, final=np.arange(len(boxes), dtype=np.float32))


def test_window__is_of_a_drawn_size_and_everything_follows_it():
    sides = set()
    for seed in range(80):
        out = SizeCrop(16, 32, keep_boxes=False)(given(seed))
        height, width = out["image"].shape[:2]
        x, y = int(out["image"][0, 0, 0]), int(out["image"][0, 0, 1])  # a pixel says where it was
        assert 16 <= height <= 32 and 16 <= width <= 32
        for k, (box, mask) in enumerate(zip(BOXES, given(seed)["masks"])):
            inside = np.clip(np.array(box) - [x, y, x, y], 0, [width, height, width, height])
            row = np.flatnonzero(out["labels"] == k)
            assert len(row) == bool((inside[2:] > inside[:2]).all())
            for r in row:
                assert np.array_equal(out["boxes_xyxy"][r], inside) and out["positive_spans"][r] == SPANS[k] and out["final"][r] == k
                assert np.array_equal(out["masks"][r], mask[y : y + height, x : x + width])
        sides.add((height, width))
    assert {h for h, _ in sides} == {w for _, w in sides} == set(range(16, 33)), "both ends are drawn"


def test_window__loses_no_box_where_there_is_one_that_does_not():
    windows = set()
    for seed in range(40):
        out = SizeCrop(16, 1333)(given(seed, [[10, 5, 30, 15], [28, 12, 40, 20]]))
        assert out["labels"].tolist() == [0, 1] and out["positive_spans"] == SPANS[:2]
        windows.add(out["image"].shape)
    assert len(windows) > 10
    apart = SizeCrop(8, 8, tries=5)(given(0, [[0, 0, 4, 4], [56, 36, 60, 40]]))
    assert apart["image"].shape == (8, 8, 3) and len(apart["labels"]) < 2, "the last window stays, as released"
    assert SizeCrop(8, 16)(given(0, []))["image"].shape[0] <= 16


def test_window__of_a_small_image_is_as_large_as_it_is():
    out = SizeCrop(384, 1333)(given(3))
    assert out["image"].shape == (40, 60, 3) and np.array_equal(out["boxes_xyxy"], np.array(BOXES, np.float32))
    assert SizeCrop(50, 55)(given(3))["image"].shape[0] == 40, "a side below the smallest window is taken whole"


def test_window__the_releases_slip_is_behind_its_switch():
    for seed in range(40):
        out = SizeCrop(16, 24, keep_boxes=False, published_spans=True)(given(seed))
        own = SizeCrop(16, 24, keep_boxes=False)(given(seed))
        assert out["positive_spans"] == own["positive_spans"] and "align_spans" not in own
        assert out["align_spans"] == SPANS[: len(out["labels"])], "spans of boxes that are gone stay, those of the last ones go"


@pytest.mark.parametrize("wrong", [dict(min_size=0), dict(min_size=9, max_size=8), dict(tries=0)])
def test_window__settings_are_checked(wrong):
    with pytest.raises(ValueError, match="min_size <= max_size and tries"):
        SizeCrop(**wrong)


def test_one_of__runs_each_list_of_steps_as_often():
    def put(name):
        return lambda s: s | {"ran": s.get("ran", "") + name}

    step = OneOf([[put("a")], [put("b"), put("c")], []])
    ran = [step(sample([], seed=n)).get("ran", "") for n in range(600)]
    assert set(ran) == {"a", "bc", ""} and all(150 < ran.count(r) < 250 for r in set(ran))
    assert OneOf([[dict(type="SizeCrop", min_size=4, max_size=4)]])(sample([]))["image"].shape == (4, 4, 3)
    with pytest.raises(ValueError, match="at least one list of steps"):
        OneOf([])
