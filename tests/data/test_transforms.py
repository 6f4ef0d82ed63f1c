"""Exact small cases of each transform."""
import numpy as np
import pytest
import torch

from ovdense.data.transforms import PackDetection, PhotometricJitter, RandomCrop, RandomFlip, ResizeShortestEdge, resize_image, shortest_edge_size


def sample(boxes, size_hw=(40, 60), seed=0, **more):
    height, width = size_hw
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0], image[..., 1] = np.arange(width), np.arange(height)[:, None]  # a pixel says where it was
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    rng = np.random.default_rng(seed)
    return dict(image=image, boxes_xyxy=boxes, labels=np.arange(len(boxes)), rng=rng, image_id=1, file_name="a", original_size_hw=size_hw, **more)


SIZES = [  # size_hw, short side, longest, wanted, why
    ((480, 640), 800, 1333, (800, 1066), "longer side is cut, not rounded"),
    ((640, 480), 800, 1333, (1066, 800), "portrait"),
    ((200, 1000), 800, 1333, (267, 1335), "the longest side decides, as the published rounding has it"),
    ((50, 50), 224, 448, (224, 224), "square"),
    ((1, 10000), 800, 1333, (1, 1333), "a strip keeps one pixel, and its longer side at the limit"),
    ((10000, 1), 800, 1333, (1333, 1), "upright too"),
    ((2, 1200), 800, 1333, (2, 1200), "short of the limit nothing is cut"),
    ((2, 1500), 800, 1333, (2, 1333), "the rounding of few pixels would give 1500"),
]


@pytest.mark.parametrize("size, short, longest, wanted, why", SIZES)
def test_shortest_edge_size__published_rounding(size, short, longest, wanted, why):
    assert shortest_edge_size(size, short, longest) == wanted, why


def test_resize__scales_boxes_and_drops_slivers():
    out = ResizeShortestEdge((20,), 100)(sample([[10, 4, 30, 24], [0, 0, 1.5, 20]]))
    assert out["image"].shape == (20, 30, 3)
    assert out["boxes_xyxy"].tolist() == [[5, 2, 15, 12]] and out["labels"].tolist() == [0]
    image = sample([])["image"]
    assert resize_image(image, (40, 60)) is image
    with pytest.raises(ValueError, match="short_sides must be positive and at most max_size"):
        ResizeShortestEdge((800,), 500)


def test_resize__draws_every_short_side():
    step = ResizeShortestEdge((10, 20, 30), 100)
    assert {min(step(sample([], seed=s))["image"].shape[:2]) for s in range(30)} == {10, 20, 30}


def test_flip__mirrors_boxes_and_pixels():
    out = RandomFlip(1.0)(sample([[10, 5, 30, 15]]))
    assert out["boxes_xyxy"].tolist() == [[30, 5, 50, 15]]
    assert out["image"][0, 0, 0] == 59
    assert RandomFlip(0.0)(sample([[10, 5, 30, 15]]))["boxes_xyxy"].tolist() == [[10, 5, 30, 15]]
    with pytest.raises(ValueError, match="prob must lie in 0..1, got 2"):
        RandomFlip(2)


CAPTIONS = [  # caption, flipped, why
    ("a ring Left of a cube. ", False, "would become false"),
    ("a cube (right).", False, "punctuation is no letter"),
    ("an upright bottle", True, "no word of its own"),
    (None, True, "no caption"),
]


@pytest.mark.parametrize("caption, flipped, why", CAPTIONS)
def test_flip__never_with_words_of_sides(caption, flipped, why):
    more = {} if caption is None else {"caption": caption, "positive_spans": (((0, 3),),)}
    assert (RandomFlip(1.0)(sample([[10, 5, 30, 15]], **more))["boxes_xyxy"][0, 0] == 30) == flipped, why


def test_crop__keeps_boxes_that_stay_half_inside():
    boxes = [[10, 5, 30, 15], [40, 20, 60, 40], [0, 0, 60, 40]]
    seen = set()
    for seed in range(60):
        before = sample(boxes, seed=seed)
        out = RandomCrop(1.0, min_side=0.4)(sample(boxes, seed=seed))
        height, width = out["image"].shape[:2]
        x, y = int(out["image"][0, 0, 0]), int(out["image"][0, 0, 1])  # where the window began
        assert np.array_equal(out["image"], before["image"][y : y + height, x : x + width])
        for k, box in enumerate(before["boxes_xyxy"]):
            inside = np.clip(box - [x, y, x, y], 0, [width, height, width, height])
            share = np.prod(inside[2:] - inside[:2]) / np.prod(box[2:] - box[:2])
            rows = out["boxes_xyxy"][out["labels"] == k]
            assert len(rows) == (share >= 0.5)
            if len(rows):
                assert np.allclose(rows[0], inside)
        seen.add(tuple(out["labels"]))
    assert len(seen) > 2 and () not in seen


def test_crop__follows_spans_and_leaves_empty_images_be():
    spans = (((0, 1),), ((2, 3),))
    for seed in range(20):
        out = RandomCrop(1.0, min_side=0.3)(sample([[0, 0, 9, 9], [50, 30, 60, 40]], seed=seed, caption="a b", positive_spans=spans))
        assert out["positive_spans"] == tuple(spans[k] for k in out["labels"])
    assert len(RandomCrop(1.0)(sample([]))["labels"]) == 0


def test_jitter__moves_all_colours_alike():
    out = PhotometricJitter(0.2, 0.0)(sample([], seed=1))["image"].astype(int) - sample([])["image"]
    assert len(np.unique(out[10:30, 10:30, :2])) == 1 and out[20, 20, 0] != 0
    assert np.array_equal(PhotometricJitter(0, 0)(sample([]))["image"], sample([])["image"])


def test_pack__makes_the_contract():
    out = PackDetection()(sample([[10, 5, 30, 15]], caption="cat. ", positive_spans=(((0, 3),),)))
    target = out["target"]
    assert set(out) == {"image", "target"} and out["image"].shape == (3, 40, 60) and out["image"].dtype == torch.uint8
    assert target.boxes_xyxy.dtype == torch.float32 and target.labels.dtype == torch.int64
    assert target.caption == "cat. " and target.positive_spans == (((0, 3),),) and target.size_hw == (40, 60)
    assert int(out["image"][0, 3, 7]) == 7
    empty = PackDetection()(sample([]))["target"]
    assert empty.boxes_xyxy.shape == (0, 4) and empty.caption is None
