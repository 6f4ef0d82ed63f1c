"""Silence where nothing is there: by hand, for LVIS's verified absences and for COCO's complete ones."""
import itertools
import json
import math

import numpy as np
import pytest

from ovdense.evaluation.absence import AbsenceMetric, ranking
from tests.evaluation.metric_samples import evaluate, noisy_predictions, sample, write_lvis

BOX, FAR = (10, 10, 110, 110), (130, 130, 190, 190)
CLASSES = [{"name": n, "frequency": "f"} for n in ("cat", "dog", "cow")]
NAMES = [c["name"] for c in CLASSES]


def numbers(metric, samples) -> dict[str, float]:
    return {k.partition("/")[2]: v for k, v in evaluate(metric, samples, NAMES).items()}


def test_absence__only_what_is_known_counts(tmp_path):
    path = write_lvis(tmp_path / "a.json", {1: [("cat", BOX)], 2: [("dog", BOX)]}, CLASSES, neg={1: ["dog"], 2: ["cat"]})
    samples = [
        sample(1, [BOX, FAR, FAR], [0.9, 0.2, 0.8], [0, 1, 2]),  # cat found; dog below the threshold; of the cow nothing is known
        sample(2, [FAR, FAR], [0.3, 0.1], [0, 1]),  # a cat at the threshold that is not there; the dog missed
    ]
    metric = AbsenceMetric(ann_file=path)
    got = numbers(metric, samples)
    assert (got["N-acc"], got["false_positives"], got["T-acc"], got["absent"], got["present"]) == (50, 50, 50, 2, 2)
    assert got["AUROC"] == pytest.approx(100 * 2 / 4), "0.9 above both, 0.1 above neither"
    assert metric.per_class["cat"] == {"N-acc": 0, "false_positives": 100, "T-acc": 100, "absent": 1, "present": 1}
    assert math.isnan(metric.per_class["cow"]["N-acc"]) and metric.protocol["absent_classes"] == "neg_category_ids of each image"


def test_absence__in_coco_form_all_without_an_object_are_absent(tmp_path):
    path = write_lvis(tmp_path / "a.json", {1: [("cat", BOX)]}, CLASSES)
    content = json.loads(path.read_text())
    for image in content["images"]:
        del image["neg_category_ids"]
    path.write_text(json.dumps(content))
    metric = AbsenceMetric(ann_file=path, score_thr=0.5)
    got = numbers(metric, [sample(1, [BOX, FAR], [0.9, 0.6], [0, 2])])
    assert (got["N-acc"], got["T-acc"], got["absent"], got["AUROC"]) == (50, 100, 2, 100)
    assert metric.protocol["absent_classes"] == "all without an object in the image"


def test_absence__real_file(data_root):
    path = data_root / "lvis_mini/annotations/lvis_v1_val.json"
    content = json.loads(path.read_text())
    names = [c["name"] for c in content["categories"]]
    samples = noisy_predictions(content, seed=0, false_per_image=10)
    metric = AbsenceMetric(ann_file=path)
    got = evaluate(metric, samples, names)
    assert got["absence/AUROC"] > 60 and got["absence/absent"] > 50 and got["absence/present"] > 100
    assert evaluate(metric, samples[::-1], names) == got
    nothing = evaluate(metric, [sample(i["id"]) for i in content["images"]], names)
    assert (nothing["absence/N-acc"], nothing["absence/T-acc"], nothing["absence/AUROC"]) == (100, 0, 50), "silence is right where nothing is, and only there"


def test_ranking__equals_all_pairs():
    rng = np.random.default_rng(0)
    present, absent = np.round(rng.random(30), 1), np.round(rng.random(40), 1)
    plain = np.mean([1.0 if a > b else 0.5 if a == b else 0.0 for a, b in itertools.product(present, absent)])
    assert ranking(present, absent) == pytest.approx(100 * plain) and math.isnan(ranking(present, absent[:0]))


def test_absence__a_threshold_of_nothing_is_refused():
    with pytest.raises(ValueError, match=r"score_thr must lie in \(0, 1\]"):
        AbsenceMetric(score_thr=0)
