"""LVIS and COCO metrics against numbers worked out by hand, real files, and a second evaluator."""
import itertools
import json
import math

import numpy as np
import pytest
import torch
from mmengine.evaluator import Evaluator
from mmengine.structures import BaseDataElement, InstanceData

from ovdense.evaluation import detection
from ovdense.evaluation.average_precision import iou_xyxy, top_per_class
from ovdense.evaluation.detection import CocoMetric, LvisMetric
from ovdense.registry import METRICS
from tests.evaluation.metric_samples import evaluate, noisy_predictions, sample, truth_as_predictions, write_lvis

BOX, OTHER, FAR = (10, 10, 110, 110), (120, 10, 180, 60), (130, 130, 190, 190)
CLASSES = [{"name": "rare thing", "frequency": "r"}, {"name": "cat", "frequency": "f"}, {"name": "dog", "frequency": "c"}]
NAMES = [c["name"] for c in CLASSES]
CAT, DOG = 1, 2
HALF = 100 * 51 / 101  # precision 1 at the recalls 0, .01, ..., .50


@pytest.mark.parametrize("metric_type", [LvisMetric, CocoMetric])
@pytest.mark.parametrize(
    ("truth", "predicted", "ap", "ap50", "ap75", "reason"),
    [
        ([BOX], [(BOX, 0.9)], 100, 100, 100, "perfect"),
        ([BOX], [(FAR, 0.9), (BOX, 0.8)], 50, 50, 50, "one wrong box above the right one: precision 1/2 at every recall"),
        ([BOX], [(BOX, 0.9), (FAR, 0.8)], 100, 100, 100, "a wrong box below all right ones costs nothing"),
        ([BOX, OTHER], [(BOX, 0.9)], HALF, HALF, HALF, "half found"),
        ([BOX], [(BOX, 0.8), (BOX, 0.9)], 100, 100, 100, "the second on one box is wrong, but below"),
        ([BOX], [((10, 10, 82, 110), 0.9)], 50, 100, 0, "IoU .72 passes 5 of 10 thresholds"),
        ([BOX], [], 0, 0, 0, "nothing predicted"),
    ],
)
def test_ap__by_hand(tmp_path, metric_type, truth, predicted, ap, ap50, ap75, reason):
    path = write_lvis(tmp_path / "a.json", {7: [("cat", b) for b in truth]}, CLASSES)
    predictions = sample(7, [b for b, _ in predicted], [s for _, s in predicted], [CAT] * len(predicted))
    got = evaluate(metric_type(ann_file=path), [predictions], NAMES)
    prefix = metric_type.default_prefix
    assert [got[f"{prefix}/bbox_{n}"] for n in ("AP", "AP50", "AP75")] == pytest.approx([ap, ap50, ap75], abs=1e-9), reason


def test_lvis__names_of_the_numbers_and_groups_without_truth_are_nan(tmp_path):
    path = write_lvis(tmp_path / "a.json", {1: [("cat", BOX), ("dog", (0, 0, 20, 20))]}, CLASSES)
    got = evaluate(LvisMetric(ann_file=path), [sample(1, [BOX], [0.5], [CAT])], NAMES)
    assert list(got) == [f"lvis/bbox_{n}" for n in "AP AP50 AP75 APs APm APl APr APc APf AR ARs ARm ARl".split()]
    assert got["lvis/bbox_APf"] == pytest.approx(100) and got["lvis/bbox_APc"] == 0 and got["lvis/bbox_AP"] == pytest.approx(50)
    assert got["lvis/bbox_APl"] == pytest.approx(100) and got["lvis/bbox_APs"] == 0
    assert math.isnan(got["lvis/bbox_APr"]) and math.isnan(got["lvis/bbox_APm"]) and math.isnan(got["lvis/bbox_ARm"])


def test_coco__names_of_the_twelve_numbers(tmp_path):
    path = write_lvis(tmp_path / "a.json", {1: [("cat", BOX), ("cat", FAR)]}, CLASSES)
    got = evaluate(CocoMetric(ann_file=path), [sample(1, [BOX, FAR], [0.5, 0.4], [CAT, CAT])], NAMES)
    assert list(got) == [f"coco/bbox_{n}" for n in "AP AP50 AP75 APs APm APl AR1 AR10 AR100 ARs ARm ARl".split()]
    assert got["coco/bbox_AR1"] == pytest.approx(50) and got["coco/bbox_AR10"] == pytest.approx(100)


@pytest.mark.parametrize(
    ("second_image", "neg", "not_exhaustive", "ap", "reason"),
    [
        ([], {}, {}, 100, "cat is neither present in nor absent from image 2: the box there is not judged"),
        ([], {2: ["cat"]}, {}, 50, "cat is known to be absent from image 2: the box there is wrong, above the right one"),
        ([("cat", FAR)], {}, {}, 200 / 3, "cat is present and complete in image 2: wrong, right, right"),
        ([("cat", FAR)], {}, {2: ["cat"]}, 100, "not every cat of image 2 has a box: one more is not judged"),
    ],
)
def test_lvis__federated(tmp_path, second_image, neg, not_exhaustive, ap, reason):
    path = write_lvis(tmp_path / "a.json", {1: [("cat", BOX)], 2: second_image}, CLASSES, neg=neg, not_exhaustive=not_exhaustive)
    second = sample(2, [BOX, FAR], [0.9, 0.7], [CAT, CAT]) if second_image else sample(2, [BOX], [0.9], [CAT])
    got = evaluate(LvisMetric(ann_file=path), [sample(1, [BOX], [0.8], [CAT]), second], NAMES)
    assert got["lvis/bbox_AP"] == pytest.approx(ap, abs=1e-9), reason


def crowded(tmp_path):
    """Return a file with one cat, and 300 dogs (not judged) that outrank the right cat."""
    path = write_lvis(tmp_path / "a.json", {1: [("cat", BOX)]}, CLASSES)
    return path, sample(1, [FAR] * 300 + [BOX], [0.9] * 300 + [0.1], [DOG] * 300 + [CAT])


@pytest.mark.parametrize(
    ("options", "ap", "cap"),
    [({}, 0, "300 per image"), ({"max_dets": 301}, 100, "301 per image"), ({"fixed_ap": True}, 100, "no cap per image, 10,000 per class")],
)
def test_lvis__300_of_an_image_count_over_all_classes_but_fixed_ap_has_no_cap(tmp_path, options, ap, cap):
    path, crowd = crowded(tmp_path)
    metric = LvisMetric(ann_file=path, **options)
    assert evaluate(metric, [crowd], NAMES)["lvis/bbox_AP"] == pytest.approx(ap)
    assert metric.protocol["detections"] == cap and metric.protocol["most_predicted_in_an_image"] == 301
    assert metric.protocol["ap"] == ("fixed AP" if "fixed_ap" in options else "AP")


def test_lvis__fixed_ap_with_a_cap_per_image_raises():
    with pytest.raises(ValueError, match="max_dets must be left out"):
        LvisMetric(fixed_ap=True, max_dets=300)


def test_coco__cap_is_per_class(tmp_path):
    path, crowd = crowded(tmp_path)
    assert evaluate(CocoMetric(ann_file=path), [crowd], NAMES)["coco/bbox_AP"] == pytest.approx(100)


def test_lvis__fixed_ap_keeps_the_best_of_each_class_over_all_images(tmp_path, monkeypatch):
    monkeypatch.setattr(detection, "FIXED_AP_PER_CLASS", 2)
    path = write_lvis(tmp_path / "a.json", {i: [("cat", BOX)] for i in (1, 2, 3)}, CLASSES)
    samples = [sample(i, [BOX], [s], [CAT]) for i, s in ((1, 0.3), (2, 0.9), (3, 0.5))]
    metric = LvisMetric(ann_file=path, fixed_ap=True)
    got = evaluate(metric, samples, NAMES)
    assert got["lvis/bbox_AR"] == pytest.approx(200 / 3)
    assert got["lvis/bbox_AP"] == pytest.approx(100 * 67 / 101), "precision 1 at the recalls 0, ..., .66"


def test_lvis__dropping_what_can_no_longer_count_changes_nothing(data_root, monkeypatch):
    path = data_root / "lvis_mini/annotations/lvis_v1_val.json"
    content = json.loads(path.read_text())
    names = [c["name"] for c in content["categories"]]
    samples = noisy_predictions(content, seed=3, false_per_image=60)
    monkeypatch.setattr(detection, "FIXED_AP_PER_CLASS", 20)
    whole = evaluate(LvisMetric(ann_file=path, fixed_ap=True), samples, names)
    monkeypatch.setattr(detection, "_PRUNE_ABOVE", 500)
    metric = LvisMetric(ann_file=path, fixed_ap=True)
    pruned = evaluate(metric, samples, names)
    assert metric._prune_at > 500 and metric._held < sum(len(s["pred_instances"]["scores"]) for s in samples)
    assert pruned == pytest.approx(whole, nan_ok=True, abs=0)


@pytest.mark.parametrize("order", [1, -1])
def test_lvis__dropping_keeps_equal_scores(tmp_path, monkeypatch, order):
    monkeypatch.setattr(detection, "FIXED_AP_PER_CLASS", 2)
    monkeypatch.setattr(detection, "_PRUNE_ABOVE", 3)
    path = write_lvis(tmp_path / "a.json", {i: [("cat", BOX)] for i in range(1, 6)}, CLASSES)
    samples = [sample(i, [BOX if i < 3 else FAR], [0.5], [CAT]) for i in range(1, 6)][::order]
    got = evaluate(LvisMetric(ann_file=path, fixed_ap=True), samples, NAMES)
    assert got["lvis/bbox_AR"] == pytest.approx(40), "the first two of the file"


@pytest.mark.parametrize("metric_type", [LvisMetric, CocoMetric])
def test_metric__order_of_images_and_of_classes_does_not_matter(data_root, metric_type):
    content = json.loads((data_root / "lvis_mini/annotations/lvis_v1_val.json").read_text())
    names = [c["name"] for c in content["categories"]]
    samples = noisy_predictions(content, seed=1, false_per_image=20)
    metric = metric_type(ann_file="lvis_mini/annotations/lvis_v1_val.json", data_root=data_root)
    expected = evaluate(metric, samples, names)
    assert 5 < expected[f"{metric.prefix}/bbox_AP"] < 95
    assert evaluate(metric, samples[::-1], names) == pytest.approx(expected, nan_ok=True, abs=0)
    order = np.random.default_rng(0).permutation(len(names))
    place = torch.from_numpy(np.argsort(order))
    moved = [s | {"pred_instances": s["pred_instances"] | {"labels": place[s["pred_instances"]["labels"]]}} for s in samples]
    assert evaluate(metric, moved, [names[k] for k in order]) == pytest.approx(expected, nan_ok=True, abs=1e-9)


@pytest.mark.parametrize(
    ("metric_type", "ann_file"),
    [(LvisMetric, "lvis_mini/annotations/lvis_v1_val.json"), (CocoMetric, "coco_mini/annotations/instances_val2017.json")],
)
def test_metric__truth_as_predictions_gives_100_and_none_gives_0(data_root, metric_type, ann_file):
    content = json.loads((data_root / ann_file).read_text())
    names = [c["name"] for c in content["categories"]]
    metric = metric_type(ann_file=ann_file, data_root=data_root)
    full = evaluate(metric, truth_as_predictions(content), names)
    assert full[f"{metric.prefix}/bbox_AP"] == pytest.approx(100, abs=1e-6)
    assert metric.protocol["images"] == metric.protocol["images_in_file"] == 50
    assert sum(not math.isnan(v) for v in metric.per_class_ap.values()) == metric.protocol["classes_with_truth"] > 40
    none = evaluate(metric, [sample(i["id"]) for i in content["images"]], names)
    assert {v for v in none.values() if not math.isnan(v)} == {0.0}
    assert {k for k, v in none.items() if math.isnan(v)} == {k for k, v in full.items() if math.isnan(v)}


def second_evaluator(path, samples, category_ids, federated: bool, max_dets: list[int]):
    """Return precision, recall of faster-coco-eval; for LVIS the caller's predictions must be at most 300 per image."""
    from faster_coco_eval import COCO, COCOeval_faster

    truth = COCO(str(path))
    rows = [
        {"image_id": s["img_id"], "category_id": category_ids[k], "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score}
        for s in samples
        for (x1, y1, x2, y2), score, k in zip(*(s["pred_instances"][f].tolist() for f in ("bboxes", "scores", "labels")))
    ]
    evaluator = COCOeval_faster(truth, truth.loadRes(rows), "bbox", lvis_style=federated, print_function=lambda *_: None)
    evaluator.params.maxDets = max_dets
    evaluator.evaluate()
    evaluator.accumulate()
    return evaluator.eval["precision"], evaluator.eval["recall"]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    ("metric_type", "ann_file", "max_dets"),
    [
        (LvisMetric, "lvis_mini/annotations/lvis_v1_val.json", [300]),
        (CocoMetric, "coco_mini/annotations/instances_val2017.json", [1, 10, 100]),
    ],
)
def test_metric__noise_gives_the_same_with_a_second_evaluator(data_root, metric_type, ann_file, max_dets, seed):
    content = json.loads((data_root / ann_file).read_text())
    samples = noisy_predictions(content, seed=seed, false_per_image=30)
    metric = metric_type(ann_file=ann_file, data_root=data_root)
    got = evaluate(metric, samples, [c["name"] for c in content["categories"]])
    ids = [c["id"] for c in content["categories"]]
    precision, recall = second_evaluator(data_root / ann_file, samples, ids, metric_type is LvisMetric, max_dets)

    def mean(values):
        return 100 * values[values > -1].mean() if (values > -1).any() else math.nan

    prefix = f"{metric.prefix}/bbox_"
    expected = {"AP": mean(precision[:, :, :, 0, -1]), "AP50": mean(precision[0, :, :, 0, -1]), "AP75": mean(precision[5, :, :, 0, -1])}
    expected |= {f"AP{a}": mean(precision[:, :, :, n, -1]) for n, a in ((1, "s"), (2, "m"), (3, "l"))}
    expected |= {f"AR{a}": mean(recall[:, :, n, -1]) for n, a in ((1, "s"), (2, "m"), (3, "l"))}
    if metric_type is LvisMetric:
        groups = np.array([c["frequency"] for c in content["categories"]])
        expected |= {f"AP{g}": mean(precision[:, :, groups == g, 0, -1]) for g in "rcf"}
    else:
        expected |= {f"AR{d}": mean(recall[:, :, 0, m]) for m, d in enumerate(max_dets)}
    assert {n: got[prefix + n] for n in expected} == pytest.approx(expected, nan_ok=True, abs=1e-6)
    assert 5 < expected["AP"] < 95


def test_metric__only_the_asked_classes_are_evaluated(tmp_path):
    path = write_lvis(tmp_path / "a.json", {1: [("cat", BOX), ("dog", FAR)]}, CLASSES)
    metric = LvisMetric(ann_file=path)
    assert evaluate(metric, [sample(1, [BOX], [0.5], [0])], ["cat"])["lvis/bbox_AP"] == pytest.approx(100)
    assert (metric.protocol["classes"], metric.protocol["classes_in_file"], metric.protocol["classes_with_truth"]) == (1, 3, 1)
    assert list(metric.per_class_ap) == ["cat"]


def test_metric__missing_images_raise_unless_partial(tmp_path):
    path = write_lvis(tmp_path / "a.json", {i: [("cat", BOX)] for i in (1, 2, 3)}, CLASSES)
    seen = [sample(1, [BOX], [0.5], [CAT]), sample(3)]
    with pytest.raises(ValueError, match=r"cover all 3 images .* 1 have none \(ids \[2\]\)"):
        evaluate(LvisMetric(ann_file=path), seen, NAMES)
    metric = LvisMetric(ann_file=path, allow_partial=True)
    assert evaluate(metric, seen, NAMES)["lvis/bbox_AR"] == pytest.approx(50), "one of the two processed images is found"
    assert (metric.protocol["images"], metric.protocol["images_in_file"]) == (2, 3)


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (sample(99), ValueError, "image 99 must be one of the 1 images"),
        (sample(None), ValueError, "img_id must be an integer"),
        (sample(1, [BOX], [math.nan], [CAT]), ValueError, "must be finite"),
        (sample(1, [BOX], [0.5], [3]), ValueError, r"labels must lie in 0\.\.2, got 3\.\.3"),
        (sample(1, [BOX], [0.5, 0.4], [CAT]), ValueError, "must have shapes"),
        ({"img_id": 1, "pred_instances": {"bboxes": [BOX], "scores": [0.5], "labels": [0.7]}}, ValueError, "labels integers, got .*float64"),
        ({"img_id": 1, "pred_instances": {"bboxes": [BOX], "scores": ["0.5"], "labels": [0]}}, ValueError, "image 1: bboxes and scores must be numbers"),
        ({"img_id": 1, "pred_instances": {"bboxes": [BOX], "scores": [0.5], "labels": [2**32]}}, ValueError, r"labels must lie in 0\.\.2"),
        ({"img_id": 1, "pred_instances": {"bboxes": BOX, "scores": 0.5, "labels": 0}}, ValueError, "must have shapes"),
        ({"img_id": 1, "pred_instances": {"bboxes": []}}, ValueError, "must have bboxes, scores, labels"),
    ],
)
def test_metric__wrong_predictions_raise_at_once(tmp_path, bad, error, message):
    metric = LvisMetric(ann_file=write_lvis(tmp_path / "a.json", {1: []}, CLASSES))
    metric.dataset_meta = {"classes": NAMES}
    with pytest.raises(error, match=message):
        metric.process(None, [bad])


def test_metric__an_image_twice_or_none_at_all_raises(tmp_path):
    path = write_lvis(tmp_path / "a.json", {1: [("cat", BOX)]}, CLASSES)
    with pytest.raises(ValueError, match=r"processed once, got 2 records of 1 images, again: \[1\]"):
        evaluate(LvisMetric(ann_file=path), [sample(1), sample(1)], NAMES)
    with pytest.raises(ValueError, match="got none for the 1 images"):
        evaluate(LvisMetric(ann_file=path), [], NAMES)


@pytest.mark.parametrize(("key", "field"), [("images", "image_id"), ("categories", "category_id")])
def test_metric__ids_are_what_the_file_says_or_an_error(tmp_path, key, field):
    """Neighbours of 2**53 are one number as floats: detections would belong to another image, and the AP be 0."""
    for offset in (-2, 1):
        path = write_lvis(tmp_path / "a.json", {1: [("cat", (10, 10, 50, 50))], 2: []}, [{"name": "cat", "frequency": "f"}])
        content = json.loads(path.read_text())
        content[key][0]["id"] = content["annotations"][0][field] = large = 2**53 + offset
        path.write_text(json.dumps(content))
        samples = [sample(content["images"][0]["id"], [(10, 10, 50, 50)], [0.9], [0]), sample(2)]
        if offset < 0:
            assert evaluate(CocoMetric(ann_file=path), samples, ["cat"])["coco/bbox_AP"] == pytest.approx(100)
        else:
            with pytest.raises(ValueError, match=f"ids of {key} must be integers of at most 53 bits .*got {large}; number them anew"):
                evaluate(CocoMetric(ann_file=path), samples, ["cat"])


def test_metric__wrong_set_up_raises_with_the_first_batch(tmp_path):
    path = write_lvis(tmp_path / "a.json", {1: []}, CLASSES)
    cases = [
        (LvisMetric(ann_file=path), {"classes": ["cat", "dgo"]}, KeyError, r"1 of 2 are not: 'dgo' \(near 'dog'\)"),
        (LvisMetric(ann_file=path), {}, ValueError, "pass class_names"),
        (LvisMetric(ann_file=path), {"classes": ["cat", "cat"]}, ValueError, "different names"),
        (LvisMetric(), {"classes": NAMES}, ValueError, "pass ann_file"),
        (LvisMetric(ann_file=tmp_path / "none.json"), {"classes": NAMES}, FileNotFoundError, "none.json does not exist"),
    ]
    for metric, meta, error, message in cases:
        metric.dataset_meta = meta
        with pytest.raises(error, match=message):
            metric.process(None, [sample(1)])


def test_metric__broken_file_is_named(tmp_path):
    good = write_lvis(tmp_path / "a.json", {1: []}, CLASSES).read_text()
    content = json.loads(good)
    del content["images"][0]["neg_category_ids"]
    no_list = "must have neg_category_ids in LVIS v1 form"
    for text, message in ((good[:-5], "cut short"), ("[]", "list 'images'"), (json.dumps(content), no_list)):
        (tmp_path / "b.json").write_text(text)
        with pytest.raises(ValueError, match=f"b.json.*{message}"):
            evaluate(LvisMetric(ann_file=tmp_path / "b.json"), [sample(1)], NAMES)


def test_metric__through_mmengines_evaluator_with_the_datasets_file_and_conditions(tmp_path):
    path = write_lvis(tmp_path / "a.json", {1: [("cat", BOX)]}, CLASSES)
    evaluator = Evaluator([METRICS.build({"type": "LvisMetric"}), METRICS.build({"type": "CocoMetric"})])
    evaluator.dataset_meta = {"classes": NAMES, "ann_file": path, "prompt": "descriptions"}
    evaluator.metrics[0].conditions["classes_per_chunk"] = 8
    element = BaseDataElement(metainfo={"img_id": 1, "ori_shape": (200, 200)})
    element.pred_instances = InstanceData(bboxes=torch.tensor([BOX]).float(), scores=torch.tensor([0.5]).half(), labels=torch.tensor([CAT]))
    evaluator.process([element])
    got = evaluator.evaluate(1)
    assert got["lvis/bbox_AP"] == pytest.approx(100) and got["coco/bbox_AP"] == pytest.approx(100)
    protocol = evaluator.metrics[0].protocol
    assert (protocol["prompt"], protocol["classes_per_chunk"], protocol["annotations"]) == ("descriptions", 8, "a.json")
    assert len(protocol["ann_sha256"]) == 12 and evaluator.metrics[1].protocol["classes_per_chunk"] == "not stated"


def test_iou__by_hand():
    boxes = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30], [3, 3, 3, 9]])
    assert iou_xyxy(boxes[:1], boxes)[0] == pytest.approx([1, 1 / 3, 0, 0])
    assert iou_xyxy(boxes[3:], boxes[3:]) == 0, "an empty box overlaps nothing, not even itself"
    assert iou_xyxy(boxes[:0], boxes).shape == (0, 4)


def test_top_per_class__the_best_of_each_and_the_first_of_equals():
    scores, labels = np.array([0.1, 0.5, 0.5, 0.9, 0.5, 0.2]), np.array([0, 1, 1, 1, 0, 2])
    assert top_per_class(scores, labels, 1).tolist() == [3, 4, 5]
    assert top_per_class(scores, labels, 2).tolist() == [0, 1, 3, 4, 5]
    assert top_per_class(scores[:0], labels[:0], 2).tolist() == []
    for order in itertools.permutations(range(3)):
        assert top_per_class(np.zeros(3), np.array(order), 1).tolist() == [0, 1, 2]
