"""The fast engine equals the official tools: real annotations with ties, crowds, ignored and empty ones; random small cases; files they read back."""
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ovdense.evaluation import average_precision
from ovdense.evaluation.detection import CocoMetric, LvisMetric
from ovdense.evaluation.ground_truth import load_ground_truth
from ovdense.evaluation.masks import encode_masks
from tests.evaluation.metric_samples import evaluate
from tests.evaluation.random_sets import data_sample, fixture_of, jittered, official_numbers, write

FILES = {LvisMetric: "lvis_mini/annotations/lvis_v1_{}.json", CocoMetric: "coco_mini/annotations/instances_{}2017.json"}


def compare_with_official(tmp_path, metric_type, content, samples, masks: bool) -> dict[str, float]:
    """Assert that the metric, with each engine, gives what the official tool gives that reads its results file; return the numbers."""
    federated = metric_type is LvisMetric
    path = write(tmp_path / "ann.json", content)
    names = [c["name"] for c in content["categories"]]
    kinds = ("bbox", "segm") if masks else ("bbox",)
    metric = metric_type(ann_file=path, iou_types=kinds, results_file=tmp_path / "found.json")
    got = evaluate(metric, samples, names)
    for kind in kinds:
        file = tmp_path / (f"found.{kind}.json" if masks else "found.json")
        official = official_numbers(path, file, kind, federated=federated, cap=300)
        ours = {name: got[f"{metric.prefix}/{kind}_{name}"] for name in official}
        assert ours == pytest.approx(official, abs=1e-6, nan_ok=True)
    slow = metric_type(ann_file=path, iou_types=kinds, backend=metric_type.reference)
    assert evaluate(slow, samples, names) == pytest.approx(got, abs=1e-6, nan_ok=True)
    assert slow.protocol["evaluator"].startswith(metric_type.reference) and slow.per_class_ap == pytest.approx(metric.per_class_ap, abs=1e-6, nan_ok=True)
    return got


@pytest.mark.parametrize("metric_type", [LvisMetric, CocoMetric])
def test_official__real_annotations_with_noise(data_root, tmp_path, metric_type):
    content = json.loads((data_root / FILES[metric_type].format("val")).read_text())
    content = fixture_of(content, 12, seed=1, federated=metric_type is LvisMetric)
    samples = jittered(content, seed=2, false_per_image=8, masks=True)
    got = compare_with_official(tmp_path, metric_type, content, samples, masks=True)
    prefix = metric_type.default_prefix
    assert 5 < got[f"{prefix}/bbox_AP"] < 95 and 5 < got[f"{prefix}/segm_AP"] < 95


@pytest.mark.slow
@pytest.mark.parametrize("metric_type", [LvisMetric, CocoMetric])
def test_official__100_real_images_with_ties_crowds_ignored_and_empty_ones(data_root, tmp_path, metric_type):
    content = json.loads((data_root / FILES[metric_type].format("train")).read_text())
    content = fixture_of(content, 100, seed=0, federated=metric_type is LvisMetric)
    samples = jittered(content, seed=0, false_per_image=20, masks=True)
    scores = np.concatenate([s["pred_instances"]["scores"].numpy() for s in samples])
    filled = {a["image_id"] for a in content["annotations"]}
    assert len(content["images"]) == 100 > len(filled) and len(np.unique(scores)) < 12 < len(scores)
    assert any(not len(s["pred_instances"]["scores"]) for s in samples)
    assert any(a.get("iscrowd") or a.get("ignore") for a in content["annotations"])
    compare_with_official(tmp_path, metric_type, content, samples, masks=True)


@pytest.mark.parametrize("cap", [300, -1])
def test_official__fixed_ap_is_lvis_without_a_cap(data_root, tmp_path, cap):
    """More than 300 detections in an image: AP cuts them to 300 as lvis does, fixed AP takes all as lvis with max_dets=-1."""
    content = fixture_of(json.loads((data_root / FILES[LvisMetric].format("val")).read_text()), 3, seed=0, federated=True)
    samples = jittered(content, seed=5, false_per_image=400, masks=False)
    path, names = write(tmp_path / "ann.json", content), [c["name"] for c in content["categories"]]
    metric = LvisMetric(ann_file=path, fixed_ap=cap < 0, results_file=tmp_path / "found.json")
    got = evaluate(metric, samples, names)
    official = official_numbers(path, tmp_path / "found.json", "bbox", federated=True, cap=cap)
    assert {n: got[f"lvis/bbox_{n}"] for n in official} == pytest.approx(official, abs=1e-6, nan_ok=True)
    assert metric.protocol["most_predicted_in_an_image"] > 300


# ---- random small cases

SIZE = 12
PLACE = st.sampled_from([0, 1, 6])  # few places and sizes, so that boxes meet
BOX = st.tuples(PLACE, PLACE, st.sampled_from([4, 5, 4, 5, 0]), st.sampled_from([4, 5]))  # width 0: area 0, an empty mask
CLASS = st.sampled_from([0, 0, 0, 1, 2])
OBJECT = st.tuples(BOX, CLASS, st.sampled_from([False, False, False, True]))  # box, class, crowd or ignored
FOUND = st.tuples(BOX, CLASS, st.sampled_from([0.1, 0.5, 0.9]), st.booleans())  # box, class, score, its mask without a corner
CLASS_LIST = st.lists(st.integers(1, 3), max_size=2, unique=True)
IMAGE = st.tuples(st.lists(OBJECT, max_size=5), st.lists(FOUND, min_size=1, max_size=8), CLASS_LIST, CLASS_LIST)

def rectangle(box, cut: bool = False) -> np.ndarray:
    x, y, w, h = box
    mask = np.zeros((SIZE, SIZE), dtype=bool)
    mask[y : y + h, x : x + w] = True
    if cut:
        mask[y, x] = False
    return mask


def small_set(images) -> tuple[dict, list[dict]]:
    """Return the file and the data samples of a drawn case; areas are spread over COCO's three sizes."""
    categories = [{"id": k, "name": n, "frequency": f} for k, n, f in ((1, "a", "r"), (2, "b", "c"), (3, "c", "f"))]
    content, samples = {"images": [], "annotations": [], "categories": categories}, []
    for i, (objects, found, negative, not_exhaustive) in enumerate(images, 1):
        content["images"].append({"id": i, "height": SIZE, "width": SIZE, "neg_category_ids": negative, "not_exhaustive_category_ids": not_exhaustive})
        for (x, y, w, h), k, marked in objects:
            polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
            content["annotations"].append({
                "id": len(content["annotations"]) + 1, "image_id": i, "category_id": k + 1, "bbox": [x, y, w, h], "area": (w * h) * 40,
                "segmentation": [polygon], "iscrowd": int(marked), "ignore": int(marked),
            })  # fmt: skip
            if marked:  # pycocotools reads a crowd's run lengths
                flat = rectangle((x, y, w, h)).ravel(order="F").astype(int)
                runs = np.diff(np.flatnonzero(np.r_[True, np.diff(flat) != 0, True]))
                content["annotations"][-1]["segmentation"] = {"size": [SIZE, SIZE], "counts": ([0] if flat[0] else []) + runs.tolist()}
        rows = [((x, y, x + w, y + h), s, k) for (x, y, w, h), k, s, _ in found]
        samples.append(data_sample(i, rows, [rectangle(b, cut) for b, _, _, cut in found], (SIZE, SIZE)))
    return content, samples


@pytest.mark.parametrize("cases", [20, pytest.param(200, marks=pytest.mark.slow)])
@pytest.mark.parametrize("metric_type", [LvisMetric, CocoMetric])
def test_official__random_small_cases(tmp_path, metric_type, cases):
    seen = []

    @settings(max_examples=cases, deadline=None, derandomize=True, database=None)
    @given(st.lists(IMAGE, min_size=1, max_size=3))
    def check(images):
        content, samples = small_set(images)
        path = write(tmp_path / "ann.json", content)
        fast, slow = (evaluate(metric_type(ann_file=path, iou_types=("bbox", "segm"), backend=b), samples, "abc") for b in ("hotcoco", metric_type.reference))
        assert fast == pytest.approx(slow, abs=1e-6, nan_ok=True)
        seen.append(fast[f"{metric_type.default_prefix}/segm_AP"])

    check()
    assert len(seen) >= cases and len({v for v in seen if not math.isnan(v)}) > cases / 5, "the cases must differ, or their equality says nothing"


FULL, FLAT = (1, 1, 4, 4), (6, 6, 0, 4)


@pytest.mark.parametrize(("kind", "truth", "found", "why"), [
    ("bbox", [FULL], [(FLAT, 0.9), (FULL, 0.8)], "a box without area is no detection"),
    ("segm", [FULL], [(FLAT, 0.9), (FULL, 0.8)], "nor is an empty mask"),
    ("bbox", [FULL, FLAT], [(FULL, 0.8)], "an object of area 0 is not to be found"),
    ("segm", [FULL, FLAT], [(FULL, 0.8)], "nor is its mask"),
])  # fmt: skip
def test_lvis__what_has_no_area_is_not_evaluated(tmp_path, kind, truth, found, why):
    content, samples = small_set([([(b, 0, False) for b in truth], [(b, 0, s, False) for b, s in found], [], [])])
    content["annotations"].append({**content["annotations"][0], "id": 9, "category_id": 2, "area": 0})  # class b: no object that counts
    samples[0]["pred_instances"]["labels"] = torch.zeros(len(found), dtype=torch.int64)
    path = write(tmp_path / "ann.json", content)
    metric = LvisMetric(ann_file=path, iou_types=kind, results_file=tmp_path / "found.json")
    got = evaluate(metric, samples, "abc")
    assert got[f"lvis/{kind}_AP"] == pytest.approx(100), why
    assert [metric.per_class[name]["objects"] for name in "abc"] == [1, 0, 0]
    file = tmp_path / ("found.json" if kind == "bbox" else "found.segm.json")
    official = official_numbers(path, file, kind, federated=True, cap=300)
    assert {n: got[f"lvis/{kind}_{n}"] for n in official} == pytest.approx(official, abs=1e-6, nan_ok=True)


def test_lvis__a_class_whose_only_object_has_no_area_is_not_judged(tmp_path):
    content, samples = small_set([([(FULL, 0, False), (FLAT, 1, False)], [(FULL, 1, 0.9, False)], [], [])])
    metric = LvisMetric(ann_file=write(tmp_path / "ann.json", content))
    metric.dataset_meta = {"classes": ("a", "b", "c")}
    metric.process(None, samples)
    assert not len(metric.results[0]["scores"]), "neither present nor known to be absent: it counts neither for nor against"


# ---- what is refused, and files


def test_ground_truth__masks_need_segmentations_and_sizes(tmp_path):
    content, _ = small_set([([((1, 1, 4, 4), 0, False)], [], [], [])])
    del content["annotations"][0]["segmentation"]
    with pytest.raises(ValueError, match=r"annotations, entry 0 \(id 1\): segmentation must be polygons, or an RLE"):
        load_ground_truth(write(tmp_path / "a.json", content), federated=False, masks=True)
    assert load_ground_truth(write(tmp_path / "a.json", content), federated=False).annotations[0]["bbox"] == [1, 1, 4, 4]
    content, _ = small_set([([((1, 1, 4, 4), 0, False)], [], [], [])])
    del content["images"][0]["height"]
    with pytest.raises(ValueError, match="must have height and width to measure masks"):
        load_ground_truth(write(tmp_path / "a.json", content), federated=False, masks=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["annotations"][0].update(image_id=77), r"each image_id must be an id of images, 1 are not: entry 0 \(id 1\) has 77"),
        (lambda c: c["annotations"][0].update(category_id=77), "each category_id must be an id of categories, 1 are not: entry 0"),
        (lambda c: c["annotations"][0].pop("image_id"), r"annotations, entry 0 \(id 1\): must have image_id in COCO form"),
        (lambda c: c["images"].append(c["images"][0]), "images: ids must be unique, 1 are there twice"),
        (lambda c: c["categories"].append({**c["categories"][0], "name": "d"}), "categories: ids must be unique"),
        (lambda c: c["categories"][0].pop("id"), r"categories, entry 0 \(id None\): must have id"),
        (lambda c: c["annotations"].append(3), r"annotations, entry 1 \(id None\): must have image_id, .*got 3"),
        (lambda c: c["annotations"].append(None), r"annotations, entry 1 .*must have image_id, .*got None"),
        (lambda c: c["images"].append("id"), r"images, entry 1 .*must have id"),
        (lambda c: c["annotations"][0].update(image_id=[1]), r"each image_id must be an id of images, 1 are not: .*\(id 1\) has \[1\]"),
        (lambda c: c["annotations"][0].update(image_id="1"), "has '1'"),
        (lambda c: c["annotations"][0].update(category_id=1.0), "each category_id must be an id of categories, .* has 1.0"),
        (lambda c: c["categories"][0].update(name=["cat"]), r"category 1: name must be non-empty text, got \['cat'\]"),
        (lambda c: c["annotations"][0].update(area=None), r"annotations, entry 0 \(id 1\): area must be a finite number .*got None"),
        (lambda c: c["annotations"][0].update(area="big"), "area must be a finite number .*got 'big'"),
        (lambda c: c["annotations"][0].update(area=-1), "area must be .*at least 0.*got -1"),
        (lambda c: c["annotations"][0].update(area=math.inf), "area must be a finite number .*got inf"),
        (lambda c: c["annotations"][0].update(iscrowd="0"), "iscrowd must be 0 or 1, got '0'"),
        (lambda c: c["annotations"][0].update(iscrowd=None), "iscrowd must be 0 or 1, got None"),
        (lambda c: c["annotations"][0].update(ignore=2), "ignore must be 0 or 1, got 2"),
        (lambda c: c["annotations"][0].update(bbox=[1, math.nan, 2, 2]), r"bbox must be four finite numbers .*got \[1, nan, 2, 2\]"),
        (lambda c: c["annotations"][0].update(bbox=[1, 2, 3]), r"bbox must be four finite numbers .*got \[1, 2, 3\]"),
        (lambda c: c["annotations"][0].update(bbox=[1, 2, 3, "4"]), "bbox must be four finite numbers"),
        (lambda c: c["annotations"][0].update(bbox="abcd"), "bbox must be four finite numbers .*got 'abcd'"),
        (lambda c: c["annotations"][0].update(bbox=[[1], [2], [3], [4]]), "bbox must be four finite numbers"),
        (lambda c: c["annotations"][0].update(bbox=[1, 2, 3, 10**400]), "bbox must be four finite numbers"),
    ],
)
def test_ground_truth__missing_and_unknown_ids_are_named(tmp_path, change, message):
    content, _ = small_set([([((1, 1, 4, 4), 0, False)], [], [], [])])
    change(content)
    with pytest.raises(ValueError, match=message):
        load_ground_truth(write(tmp_path / "a.json", content), federated=False)


@pytest.mark.parametrize("ids", [None, 3, "12", [1.5], ["1"]])
def test_ground_truth__lists_of_categories_are_lists_of_integers(tmp_path, ids):
    content, _ = small_set([([], [], [], [])])
    content["images"][0]["neg_category_ids"] = ids
    with pytest.raises(ValueError, match="a.json: image 1: neg_category_ids must be a list of integers"):
        load_ground_truth(write(tmp_path / "a.json", content), federated=True)


@pytest.mark.parametrize(("segmentation", "message"), [
    ([[1, 2, 3, 4]], "three points"), ([[1, 2, 3, "4", 5, 6]], "three points .*finite numbers"), ([[1, 2, math.nan, 4, 5, 6]], "finite numbers"),
    ([], "at least one polygon"),
    ([[1, 2, 3, 4, 5, 10**400]], "finite numbers"), ({"size": [12, 12], "counts": None}, "add up"), ({"size": [12, 12], "counts": [-5, 149]}, "add up"),
    ({"size": [12, 12], "counts": [5, 7]}, "add up to 12 x 12 pixels"), ({"size": [12, 12], "counts": "zzzz"}, "add up to 12 x 12 pixels"),
    (None, "must be polygons"),
])  # fmt: skip
def test_ground_truth__broken_segmentations_are_named(tmp_path, segmentation, message):
    content, _ = small_set([([((1, 1, 4, 4), 0, False)], [], [], [])])
    content["annotations"][0]["segmentation"] = segmentation
    with pytest.raises(ValueError, match=rf"annotations, entry 0 \(id 1\): .*{message}"):
        load_ground_truth(write(tmp_path / "a.json", content), federated=False, masks=True)


def test_ground_truth__a_size_is_one(tmp_path):
    content, _ = small_set([([], [], [], [])])
    content["images"][0]["height"] = "12"
    with pytest.raises(ValueError, match="image 1: height and width must be positive integers"):
        load_ground_truth(write(tmp_path / "a.json", content), federated=False, masks=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backend": "pycocotools"}, "backend must be hotcoco or lvis, got 'pycocotools'"),
        ({"iou_types": ("bbox", "mask")}, "iou_types must be among bbox, segm"),
        ({"iou_types": ()}, "iou_types must be among"),
        ({"results_file": "found.pkl"}, "results_file must end with .json"),
        ({"split": "coco48"}, "did you mean 'coco48_17'"),
    ],
)
def test_metric__wrong_arguments(arguments, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        LvisMetric(**arguments)


def test_split__base_novel_and_all(tmp_path):
    """AP50 by hand: base classes 100 and 0, novel class 100; a class in neither counts in AP and in no group."""
    objects = [((1, 1, 4, 4), 0, False), ((6, 6, 4, 4), 1, False), ((1, 6, 4, 4), 2, False)]
    found = [((1, 1, 4, 4), 0, 0.9, False), ((1, 6, 4, 4), 2, 0.9, False)]
    content, samples = small_set([(objects, found, [], [])])
    split = {"vocabulary": ["a", "b", "c"], "seen": ["a", "b"], "unseen": ["c"]}
    metric = CocoMetric(ann_file=write(tmp_path / "a.json", content), split=split)
    got = evaluate(metric, samples, "abc")
    assert [got[f"coco/bbox_AP50_{g}"] for g in ("base", "novel", "all")] == pytest.approx([50, 100, 200 / 3])
    assert metric.protocol["split"] == "class split: 2 base, 1 novel; 3 classes asked"
    content["categories"].append({"id": 9, "name": "d", "frequency": "f"})
    content["annotations"].append({**content["annotations"][0], "id": 9, "category_id": 9})
    got = evaluate(CocoMetric(ann_file=write(tmp_path / "a.json", content), split=split), samples, "abcd")
    assert got["coco/bbox_AP50_all"] == pytest.approx(200 / 3) and got["coco/bbox_AP50"] == pytest.approx(50)
    with pytest.raises(KeyError, match="each of its 3 classes must be evaluated, 1 are not: 'c'"):
        CocoMetric(ann_file=tmp_path / "a.json", split=split, class_names=["a", "b"]).process(None, [])


def test_split__lvis_rare_classes_are_the_novel_ones(data_root):
    path = data_root / FILES[LvisMetric].format("val")
    content = json.loads(path.read_text())
    samples = jittered(content, seed=0, false_per_image=10, masks=False)
    got = evaluate(LvisMetric(ann_file=path, split="lvis866_337"), samples, [c["name"] for c in content["categories"]])
    assert got["lvis/bbox_AP_novel"] == pytest.approx(got["lvis/bbox_APr"], nan_ok=True)
    assert got["lvis/bbox_AP_all"] == pytest.approx(got["lvis/bbox_AP"])


def test_per_class__table_of_both_kinds(tmp_path):
    content, samples = small_set([([((1, 1, 4, 4), 0, False), ((1, 1, 4, 4), 1, True)], [((1, 1, 4, 4), 0, 0.9, True)], [], [])])
    metric = CocoMetric(ann_file=write(tmp_path / "a.json", content), iou_types=("bbox", "segm"))
    evaluate(metric, samples, "abc")
    expected = {"objects": 1, "bbox_AP": 100, "bbox_AP50": 100, "segm_AP": 90, "segm_AP50": 100}
    assert metric.per_class["a"] == pytest.approx(expected), "15 of 16 pixels: below .95"
    assert metric.per_class["b"]["objects"] == 0 and math.isnan(metric.per_class["b"]["bbox_AP"]), "a crowd is no object to be found"
    assert metric.per_class_ap["a"] == pytest.approx(100)


def test_metric__masks_as_run_lengths_give_the_same(tmp_path):
    content, samples = small_set([([((1, 1, 4, 4), 0, False)], [((1, 1, 4, 4), 0, 0.9, True), ((6, 1, 4, 4), 0, 0.5, False)], [], []), ([], [], [], [])])
    path = write(tmp_path / "a.json", content)
    as_runs = [s | {"pred_instances": s["pred_instances"] | {"masks": encode_masks(s["pred_instances"]["masks"].numpy())}} for s in samples]
    got = evaluate(CocoMetric(ann_file=path, iou_types="segm"), as_runs, "abc")
    assert got == pytest.approx(evaluate(CocoMetric(ann_file=path, iou_types="segm"), samples, "abc"), nan_ok=True, abs=0)
    for broken in (b"zzzz", b"", encode_masks(np.zeros((1, 5, 5), bool))[0]["counts"]):
        wrong = [{"size": [SIZE, SIZE], "counts": broken}, as_runs[0]["pred_instances"]["masks"][1]]
        with pytest.raises(ValueError, match="image 1: the run lengths of a mask must add up to 12 x 12 pixels, those of mask 0 do not"):
            evaluate(CocoMetric(ann_file=path, iou_types="segm"), [as_runs[0] | {"pred_instances": as_runs[0]["pred_instances"] | {"masks": wrong}}], "abc")
    as_runs[0]["pred_instances"]["masks"][0]["size"] = [1, 1]
    with pytest.raises(ValueError, match=r"image 1: masks as run lengths must be one .* a box, got 2 for 2 boxes, one of size \[1, 1\]"):
        evaluate(CocoMetric(ann_file=path, iou_types="segm"), as_runs, "abc")


def test_metric__no_detection_needs_no_masks_of_a_kind(tmp_path):
    content, samples = small_set([([(FULL, 0, False)], [(FULL, 0, 0.9, False)], [], []), ([(FULL, 0, False)], [], [], [])])
    samples[1]["pred_instances"]["masks"] = torch.zeros(0, SIZE, SIZE)
    assert evaluate(CocoMetric(ann_file=write(tmp_path / "a.json", content), iou_types="segm"), samples, "abc")["coco/segm_AR100"] == pytest.approx(50)


@pytest.mark.parametrize("metric_type", [LvisMetric, CocoMetric])
def test_metric__some_classes_at_a_time_give_the_same(data_root, monkeypatch, metric_type):
    path = data_root / FILES[metric_type].format("val")
    content = json.loads(path.read_text())
    names = [c["name"] for c in content["categories"]]
    samples = jittered(content, seed=4, false_per_image=12, masks=False)
    whole = evaluate(metric_type(ann_file=path), samples, names)
    monkeypatch.setattr(average_precision, "_BLOCK", 60)
    blocks = []
    one = average_precision._hotcoco
    monkeypatch.setattr(average_precision, "_hotcoco", lambda *a, **k: blocks.append(a[3]) or one(*a, **k))
    assert evaluate(metric_type(ann_file=path), samples, names) == pytest.approx(whole, nan_ok=True, abs=1e-12)
    assert len(blocks) > 4
    assert evaluate(metric_type(ann_file=path), [s | {"pred_instances": data_sample(0, [], None, (1, 1))["pred_instances"]} for s in samples], names)


def test_judged__present_or_known_to_be_absent():
    images = [{"id": 5, "neg_category_ids": [2]}, {"id": 9}]
    annotations = [{"image_id": 5, "category_id": 7}, {"image_id": 9, "category_id": 3}]
    rows = np.array([(5, 0, 0, 1, 1, 0.5, c) for c in (1, 2, 3, 7, 8)] + [(9, 0, 0, 1, 1, 0.5, c) for c in (2, 3, 7)], dtype=np.float64)
    kept = average_precision.judged_detections(images, annotations, rows)
    assert rows[kept][:, [0, 6]].tolist() == [[5, 2], [5, 7], [9, 3]]
    assert average_precision.judged_detections(images, [], rows)[0] == 1 and not len(average_precision.judged_detections([], [], rows))
