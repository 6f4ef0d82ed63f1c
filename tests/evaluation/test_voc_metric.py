"""Pascal VOC's mAP by hand and on real files."""
import math
from pathlib import Path

import numpy as np
import pytest

from ovdense.evaluation.ground_truth import load_voc_truth
from ovdense.evaluation.voc import VocMetric, match_class, voc_ap
from tests.evaluation.metric_samples import evaluate, sample

SPLIT = "voc_mini/VOCdevkit/VOC2012/ImageSets/Main/val.txt"


def write_voc(root: Path, images: dict[str, list[tuple[str, tuple, bool]]]) -> Path:
    """Write a split; per image (class, xmin ymin xmax ymax as in VOC, difficult)."""
    (root / "Annotations").mkdir(parents=True)
    split = root / "ImageSets/Main/val.txt"
    split.parent.mkdir(parents=True)
    split.write_text("".join(f"{name}\n" for name in images))
    for name, objects in images.items():
        things = "".join(
            f"<object><name>{c}</name><difficult>{int(d)}</difficult><bndbox><xmin>{b[0]}</xmin><ymin>{b[1]}</ymin>"
            f"<xmax>{b[2]}</xmax><ymax>{b[3]}</ymax></bndbox></object>"
            for c, b, d in objects
        )
        (root / f"Annotations/{name}.xml").write_text(f"<annotation>{things}</annotation>")
    return split


@pytest.mark.parametrize(
    ("verdict", "num_truth", "area", "eleven", "reason"),
    [
        # precision 1, 1/2, 2/3, 1/2, 3/5 at recall 1/3, 1/3, 2/3, 2/3, 1: 4 points of 1, 3 of 2/3, 4 of 3/5
        ([1, 0, 1, 0, 1], 3, (1 + 2 / 3 + 3 / 5) / 3, (4 + 2 + 2.4) / 11, "right, wrong, right, wrong, right"),
        ([1, 1, 1], 10, 0.3, 4 / 11, "recall 3/10 reaches the point .3"),
        ([0, 1], 1, 0.5, 0.5, "wrong first"),
        ([-1, 1, -1], 1, 1, 1, "ignored ones change nothing"),
        ([], 2, 0, 0, "nothing predicted"),
        ([0, 0], 2, 0, 0, "all wrong"),
    ],
)
def test_voc_ap__by_hand(verdict, num_truth, area, eleven, reason):
    assert voc_ap(np.array(verdict, dtype=np.int64), num_truth) == pytest.approx((area, eleven)), reason


def test_voc_ap__no_truth_is_nan():
    assert all(math.isnan(v) for v in voc_ap(np.array([0]), 0))


def test_match_class__belongs_to_the_box_it_overlaps_most():
    truth = np.array([[0, 0, 10, 10], [0, 0, 10, 8.0]])
    # Both lie nearest to box 0: the second does not fall back to box 1, as it would in COCO.
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 9.5], [0, 0, 10, 5.0]])
    verdict = match_class(np.array([1, 1]), truth, np.array([False, False]), np.array([1, 1, 2]), boxes, np.array([0.9, 0.8, 0.95]))
    assert verdict.tolist() == [0, 1, 0], "best score first: the one on the other image, then right, then taken"


def test_voc__counts_from_one_and_takes_iou_of_exactly_half(tmp_path):
    split = write_voc(tmp_path, {"2007_000027": [("cat", (11, 11, 20, 20), False)]})
    assert load_voc_truth(split).boxes_xyxy.tolist() == [[10, 10, 20, 20]]
    for image_id in ("2007_000027", 2007000027):
        got = evaluate(VocMetric(ann_file=split), [sample(image_id, [(10, 10, 15, 20)], [0.5], [0])], ["cat"])
        assert got == pytest.approx({"voc/mAP": 100, "voc/mAP_11point": 100})


def test_voc__names_of_many_digits_are_told_apart(tmp_path):
    """Times as names: 17 digits, which floats of 64 bits round to the nearest sixteen."""
    names = [f"202311051230456{n:02d}" for n in range(40)]
    split = write_voc(tmp_path, {n: [("cat", (11, 11, 20, 20), False)] for n in names})
    got = evaluate(VocMetric(ann_file=split), [sample(n, [(10, 10, 20, 20)], [0.5], [0]) for n in names], ["cat"])
    assert got == pytest.approx({"voc/mAP": 100, "voc/mAP_11point": 100})


def test_voc__difficult_is_ignored_and_other_classes_are_left_out(tmp_path):
    box, hard = (1, 1, 50, 50), (101, 101, 150, 150)
    split = write_voc(tmp_path, {"a": [("cat", box, False), ("cat", hard, True), ("dog", box, True)], "b": [("sofa", box, False)]})
    metric = VocMetric(ann_file=split)
    first = sample(1, [(100, 100, 150, 150), (0, 0, 50, 50)], [0.9, 0.8], [0, 0])
    got = evaluate(metric, [first, sample(2)], ["cat", "dog"])
    assert got["voc/mAP"] == pytest.approx(100), "the better score lies on a difficult box"
    assert math.isnan(metric.per_class_ap["dog"]) and metric.protocol["classes_with_truth"] == 1


def test_voc__wrong_set_up_raises(tmp_path):
    split = write_voc(tmp_path, {"a": [("cat", (1, 1, 5, 5), False)], "b": []})
    with pytest.raises(KeyError, match=r"'kat' \(near 'cat'\)"):
        evaluate(VocMetric(ann_file=split), [sample(1)], ["kat"])
    with pytest.raises(ValueError, match="cover all 2 images"):
        evaluate(VocMetric(ann_file=split), [sample("a")], ["cat"])
    (tmp_path / "Annotations/a.xml").write_text("<annotation><object>")
    with pytest.raises(ValueError, match="a.xml: every object must have"):
        evaluate(VocMetric(ann_file=split), [sample(1)], ["cat"])
    (tmp_path / "Annotations/a.xml").unlink()
    with pytest.raises(FileNotFoundError, match="a.xml is missing"):
        evaluate(VocMetric(ann_file=split), [sample(1)], ["cat"])


def test_voc__truth_as_predictions_gives_100(data_root):
    truth = load_voc_truth(data_root / SPLIT)
    classes = sorted(set(truth.class_names))
    labels = np.array([classes.index(n) for n in truth.class_names])
    samples = [
        sample(i, truth.boxes_xyxy[truth.image_row == n], [1.0] * int((truth.image_row == n).sum()), labels[truth.image_row == n])
        for n, i in enumerate(truth.image_ids)
    ]
    metric = VocMetric(ann_file=SPLIT, data_root=data_root)
    assert evaluate(metric, samples, classes) == pytest.approx({"voc/mAP": 100, "voc/mAP_11point": 100})
    assert metric.protocol["images"] == 37
    assert evaluate(metric, samples[::-1], classes)["voc/mAP"] == pytest.approx(100)
    assert evaluate(metric, [sample(i) for i in truth.image_ids], classes)["voc/mAP"] == 0


def test_truth__of_a_linked_split_lies_where_the_data_set_looks(tmp_path):
    """A link in a folder of one's own to a split elsewhere: the XML is that beside the link, as for `read_voc`."""
    shared = write_voc(tmp_path / "shared", {"2007_000027": [("cat", (11, 11, 20, 20), False)]})
    own = write_voc(tmp_path / "own", {"2007_000027": [("dog", (11, 11, 20, 20), False)]})
    own.unlink()
    own.symlink_to(shared)
    assert load_voc_truth(own).class_names == ("dog",)


def test_truth__a_box_that_is_not_finite_is_named(tmp_path):
    split = write_voc(tmp_path, {"2007_000027": [("dog", (11, "nan", 20, 20), False)]})
    with pytest.raises(ValueError, match="2007_000027.xml: every object must have .* four numbers .*not finite"):
        load_voc_truth(split)
