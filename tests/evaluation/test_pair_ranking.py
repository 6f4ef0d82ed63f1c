"""The description metric on scenes made by hand."""
import json
import math

import numpy as np
import pytest

from ovdense.evaluation.descriptions import PairRankingMetric, assign_detections, difference, rank_pairs
from tests.evaluation.metric_samples import evaluate, sample, write_lvis

LEFT, RIGHT, FAR = (0, 0, 50, 50), (100, 0, 150, 50), (100, 100, 150, 150)
RED, BLUE, BIG_BLUE, BALL = "ring_(red)", "ring_(blue)", "ring_(large_blue)", "ball_(red)"
CATEGORIES = [
    {"name": RED, "frequency": "f", "attributes": {"colour": "red", "size": "small"}},
    {"name": BLUE, "frequency": "c", "attributes": {"colour": "blue", "size": "small"}},
    {"name": BIG_BLUE, "frequency": "r", "attributes": {"colour": "blue", "size": "large"}},
    {"name": BALL, "frequency": "f", "attributes": {"colour": "red", "size": "small"}},
]
NAMES = [c["name"] for c in CATEGORIES]
TWO_RINGS = {1: [(RED, LEFT), (BLUE, RIGHT)]}


def accuracy(tmp_path, objects, samples, names=NAMES, categories=CATEGORIES):
    metric = PairRankingMetric(ann_file=write_lvis(tmp_path / "a.json", objects, categories))
    return evaluate(metric, samples, names), metric


@pytest.mark.parametrize(
    ("boxes", "scores", "labels", "expected", "ties", "reason"),
    [
        ([LEFT, RIGHT, LEFT, RIGHT], [0.9, 0.2, 0.1, 0.8], [0, 0, 1, 1], 100, 0, "both queries rank their own ring first"),
        ([LEFT, RIGHT, LEFT, RIGHT], [0.2, 0.9, 0.8, 0.1], [0, 0, 1, 1], 0, 0, "both rank the other one first"),
        ([LEFT, RIGHT, LEFT, RIGHT], [0.9, 0.8, 0.9, 0.8], [0, 0, 1, 1], 50, 0, "reads the noun only: the same scores for both classes"),
        ([LEFT], [0.3], [0], 75, 50, "red is right against silence, blue says nothing"),
        ([], [], [], 50, 100, "silence"),
        ([LEFT, RIGHT], [0.5, 0.5], [3, 3], 50, 100, "boxes of another class do not count"),
        ([LEFT, LEFT, RIGHT], [0.1, 0.6, 0.5], [0, 0, 0], 75, 50, "the best of several boxes on an object counts"),
    ],
)
def test_pairs__by_hand(tmp_path, boxes, scores, labels, expected, ties, reason):
    got, _ = accuracy(tmp_path, TWO_RINGS, [sample(1, boxes, scores, labels)])
    assert (got["description/pair_accuracy"], got["description/ties"], got["description/pairs"]) == (expected, ties, 2), reason


def test_pairs__only_shared_noun_and_different_category_and_the_same_image(tmp_path):
    objects = {1: [(RED, LEFT), (BALL, RIGHT)], 2: [(RED, LEFT), (RED, RIGHT)], 3: [(BLUE, LEFT)]}
    got, metric = accuracy(tmp_path, objects, [sample(i) for i in objects])
    assert got["description/pairs"] == 0 and math.isnan(got["description/pair_accuracy"])
    assert metric.protocol["images_with_pairs"] == 0


def test_pairs__a_crowd_is_no_object(tmp_path):
    path = write_lvis(tmp_path / "a.json", TWO_RINGS, CATEGORIES)
    content = json.loads(path.read_text())
    content["annotations"][1]["iscrowd"] = 1
    path.write_text(json.dumps(content))
    assert evaluate(PairRankingMetric(ann_file=path), [sample(1)], NAMES)["description/pairs"] == 0


def test_pairs__by_attribute_and_by_rare(tmp_path):
    objects = {1: [(RED, LEFT), (BLUE, RIGHT), (BIG_BLUE, FAR)]}
    # red: .9 on itself; blue: .5 on itself, .7 on the large one; large: nothing
    got, _ = accuracy(tmp_path, objects, [sample(1, [LEFT, RIGHT, FAR], [0.9, 0.5, 0.7], [0, 1, 1])])
    want = {
        "pair_accuracy": 100 * (1 + 1 + 1 + 0 + 0.5 + 0.5) / 6,
        "pairs": 6,
        "ties": 100 * 2 / 6,
        "pair_accuracy_colour": 100,
        "pairs_colour": 2,
        "pair_accuracy_several": 75,
        "pairs_several": 2,
        "pair_accuracy_size": 25,
        "pairs_size": 2,
        "pair_accuracy_rare": 50,
        "pairs_rare": 4,
        "pair_accuracy_seen": 100,
        "pairs_seen": 2,
    }
    assert {k.removeprefix("description/"): v for k, v in got.items()} == pytest.approx(want)


def test_pairs__without_attributes_and_frequencies_there_are_no_groups(tmp_path):
    plain = [{"name": n} for n in NAMES]
    got, _ = accuracy(tmp_path, TWO_RINGS, [sample(1, [LEFT], [0.5], [0])], categories=plain)
    assert set(got) == {f"description/{n}" for n in ("pair_accuracy", "pairs", "ties")}


def test_pairs__noun_of_the_file_wins_over_the_name(tmp_path):
    nouns = [c | {"noun": "thing"} for c in CATEGORIES]
    got, _ = accuracy(tmp_path, {1: [(RED, LEFT), (BALL, RIGHT)]}, [sample(1)], categories=nouns)
    assert got["description/pairs"] == 2


def test_pairs__a_class_that_is_not_asked_for_is_no_query_but_may_be_the_other_one(tmp_path):
    got, _ = accuracy(tmp_path, TWO_RINGS, [sample(1, [LEFT, RIGHT], [0.3, 0.4], [0, 0])], names=[RED])
    assert (got["description/pair_accuracy"], got["description/pairs"]) == (0, 1)


def test_assign__to_the_object_that_is_overlapped_most():
    objects = np.array([[0, 0, 10, 10], [3, 0, 13, 10.0]])
    boxes = np.array([[0, 0, 10, 10], [2, 0, 12, 10], [6, 0, 30, 10], [1.5, 0, 11.5, 10]])
    assert assign_detections(boxes, objects, 0.5).tolist() == [0, 1, -1, 0], "own, nearer to 1, too far, equally near: the first"
    assert assign_detections(boxes, objects[:0], 0.5).tolist() == [-1] * 4
    assert assign_detections(boxes[:0], objects, 0.5).tolist() == []


def test_assign__a_right_box_on_a_third_object_is_not_held_against_the_query(tmp_path):
    beside = (10, 0, 60, 50)  # a second red ring, overlapping the blue one (IoU 2/3)
    objects = {1: [(RED, FAR), (BLUE, LEFT), (RED, beside)]}
    got, _ = accuracy(tmp_path, objects, [sample(1, [beside, FAR], [0.9, 0.5], [0, 0])])
    assert got["description/pair_accuracy"] == 100 * (1 + 1 + 0.5 + 0.5) / 4


def test_rank_pairs__one_object_has_none():
    assert rank_pairs([0], np.array([0]), np.array([0.5]), np.array([0])) == []


def test_difference__one_several_none():
    red, blue, large = ({"attributes": a} for a in ({"colour": "red"}, {"colour": "blue"}, {"colour": "blue", "size": "large"}))
    assert [difference(red, blue), difference(blue, large), difference(red, large), difference(red, red), difference(red, {})] == [
        "colour", "size", "several", None, None,
    ]  # fmt: skip


def test_pairs__missing_images_raise(tmp_path):
    with pytest.raises(ValueError, match="cover all 2 images"):
        accuracy(tmp_path, TWO_RINGS | {2: []}, [sample(1)])


def test_pairs__real_file(data_root):
    ann_file = "lvis_mini/annotations/lvis_v1_val.json"
    content = json.loads((data_root / ann_file).read_text())
    metric = PairRankingMetric(ann_file=ann_file, data_root=data_root)
    got = evaluate(metric, [sample(i["id"]) for i in content["images"]], [c["name"] for c in content["categories"]])
    assert metric.protocol["images"] == 50 and isinstance(got["description/pairs"], int)
