"""D3: its files, scenarios and kinds, against hand computation and a plain second implementation."""
import copy
import json
import math
import os
import pickle

import numpy as np
import pytest
from PIL import Image

from ovdense.compat.d3 import read_d3, read_d3_info
from ovdense.data.described import D3Detection
from ovdense.evaluation.d3 import D3Metric, num_words
from ovdense.evaluation.report import format_table
from tests.evaluation.metric_samples import evaluate, sample
from tests.evaluation.pooled_reference import THRESHOLDS, average_precision, mean_ap

# (text, of a group, speaks of an absence): ids from 1
SENTENCES = [
    ("a dog", 1, False),
    ("dog not led by a rope outside", 1, True),
    ("the person who holds a very long rope in hand", 2, False),
    ("hat that is not blue", 2, True),
]
NAMES = [t for t, _, _ in SENTENCES]
DOG, FREE, ROPE, HAT = range(4)
GROUP_OF_IMAGE = {0: 1, 5: 1, 7: 2}
LEFT, RIGHT = (0, 0, 50, 50), (100, 100, 150, 150)
OBJECTS = [(0, 1, LEFT), (0, 2, LEFT), (5, 1, RIGHT), (7, 3, LEFT), (7, 4, RIGHT)]
OUTER = (7, 1, RIGHT)  # a dog in an image of the other group


def content(objects=OBJECTS, sentences=SENTENCES, images=GROUP_OF_IMAGE) -> dict:
    """Return the COCO file: objects are (image id, sentence id, xyxy box); annotation ids begin with 0, as published."""
    annotations = [
        {"id": n, "image_id": i, "category_id": s, "bbox": [b[0], b[1], b[2] - b[0], b[3] - b[1]], "area": (b[2] - b[0]) * (b[3] - b[1]), "iscrowd": 0}
        for n, (i, s, b) in enumerate(objects)
    ]
    categories = [{"id": n, "name": t} for n, (t, _, _) in enumerate(sentences, 1)]
    return {"images": [{"id": i, "file_name": f"g/{i}.jpg", "height": 160, "width": 200} for i in images], "categories": categories, "annotations": annotations}


def write_info(folder, sentences=SENTENCES, images=GROUP_OF_IMAGE) -> None:
    """Write the three pickles with the toolkit's keys, some numbers as numpy's."""
    folder.mkdir(exist_ok=True)
    groups = {g: {"id": g, "inner_sent_id": [np.int64(n) for n, s in enumerate(sentences, 1) if s[1] == g], "outer_sent_id": [], "img_id": []} for g in
              {s[1] for s in sentences}}  # fmt: skip
    parts = {
        "sentences": {n: {"id": n, "is_negative": neg, "raw_sent": t, "group_id": [g]} for n, (t, g, neg) in enumerate(sentences, 1)},
        "images": {i: {"id": i, "group_id": np.int64(g), "file_name": f"{i}.jpg"} for i, g in images.items()},
        "groups": groups,
    }
    for name, part in parts.items():
        (folder / f"{name}.pkl").write_bytes(pickle.dumps(part))


def numbers(tmp_path, samples, scenario="intra", objects=OBJECTS, names=NAMES) -> tuple[dict[str, float], D3Metric]:
    write_info(tmp_path / "d3_pkl")
    (tmp_path / "full.json").write_text(json.dumps(content(objects)))
    metric = D3Metric(ann_file="full.json", data_root=tmp_path, scenario=scenario)
    got = evaluate(metric, samples, names)
    return {k.removeprefix(f"d3_{scenario}/"): v for k, v in got.items()}, metric


def found(*extra: tuple[int, tuple, float, int]) -> list[dict]:
    """Return predictions that find all of OBJECTS at .5, and `extra` (image id, box, score, label)."""
    rows = [(i, b, 0.5, s - 1) for i, s, b in OBJECTS] + list(extra)
    return [sample(i, *zip(*[r[1:] for r in rows if r[0] == i])) for i in GROUP_OF_IMAGE]


def test_metric__everything_found(tmp_path):
    got, metric = numbers(tmp_path, found())
    assert [got[f"AP{k}"] for k in ("", "50", "_pres", "_abs", "_short", "_middle", "_long", "_very-long")] == pytest.approx([100] * 8)
    assert [got[f"descriptions{k}"] for k in ("", "_pres", "_abs", "_short", "_middle", "_long", "_very-long")] == [4, 2, 2, 1, 1, 1, 1]
    assert metric.protocol["scenario"] == "intra" and metric.protocol["boxes_of_other_groups"] == 0
    assert metric.per_class_ap == pytest.approx(dict.fromkeys(NAMES, 100.0))


def test_metric__intra_leaves_out_what_inter_counts(tmp_path):
    """A surer "dog" in an image of the other scenario: nothing within scenarios, a false positive among all."""
    samples = found((7, LEFT, 0.9, DOG))
    got, metric = numbers(tmp_path, samples)
    assert got["AP"] == pytest.approx(100) and metric.protocol["unasked_detections_left_out"] == 1
    got, metric = numbers(tmp_path, samples, "inter")
    # a dog: wrong, right, right -> precision 1/2, then 2/3: 2/3 at every recall
    assert metric.per_class_ap["a dog"] == pytest.approx(100 * 2 / 3)
    assert got["AP"] == pytest.approx((300 + 100 * 2 / 3) / 4)
    assert got["AP_pres"] == pytest.approx((100 + 100 * 2 / 3) / 2) and got["AP_abs"] == pytest.approx(100)
    assert got["AP_short"] == pytest.approx(100 * 2 / 3) and got["AP_middle"] == pytest.approx(100)


def test_metric__boxes_of_other_groups_count_in_inter_only(tmp_path):
    got, _ = numbers(tmp_path, found(), objects=[*OBJECTS, OUTER])
    assert got["AP"] == pytest.approx(100), "as with the file whose boxes are of the image's own group"
    got, metric = numbers(tmp_path, found(), "inter", objects=[*OBJECTS, OUTER])
    # two of three dogs: precision 1 up to recall 2/3, that is at 67 of 101 recalls
    assert metric.per_class_ap["a dog"] == pytest.approx(100 * 67 / 101) and metric.protocol["boxes_of_other_groups"] == 1


def test_metric__both_scenarios_side_by_side(tmp_path):
    write_info(tmp_path / "d3_pkl")
    (tmp_path / "full.json").write_text(json.dumps(content()))
    metrics = [D3Metric(ann_file="full.json", data_root=tmp_path, scenario=s) for s in ("intra", "inter")]
    got = {k: v for m in metrics for k, v in evaluate(m, found(), NAMES).items()}
    assert {k.partition("/")[0] for k in got} == {"d3_intra", "d3_inter"}
    assert "very-long" in format_table(got, metrics[0].protocol, width=140)


def test_metric__descriptions_without_a_box_are_in_no_mean(tmp_path):
    got, _ = numbers(tmp_path, found(), objects=[o for o in OBJECTS if o[1] != 4])
    assert got["AP"] == pytest.approx(100) and got["descriptions"] == 3 and got["descriptions_abs"] == 1
    assert math.isnan(got["AP_middle"]) and got["descriptions_middle"] == 0


def test_metric__no_detection(tmp_path):
    got, _ = numbers(tmp_path, [sample(i) for i in GROUP_OF_IMAGE])
    assert got["AP"] == got["AP_abs"] == 0


@pytest.mark.parametrize("scenario", ["intra", "inter"])
@pytest.mark.parametrize("seed", range(2))
def test_metric__random_equals_a_plain_second_implementation(tmp_path, scenario, seed):
    rng = np.random.default_rng(seed)
    sentences = [(" ".join(["word"] * int(rng.integers(1, 13))) + f" {n}", int(rng.integers(1, 4)), bool(rng.random() < 0.3)) for n in range(15)]
    images = {i: int(rng.integers(1, 4)) for i in range(10)}
    objects, samples = [], []
    for i in images:
        rows = []
        for _ in range(8):
            x, y, w, h = rng.integers(4, 80, 4).tolist()
            s = int(rng.integers(1, 16))
            objects.append((i, s, (x, y, x + w, y + h)))
            for _ in range(int(rng.integers(0, 3))):
                dx, dy = rng.integers(-3, 4, 2).tolist()
                rows.append(((x + dx, y + dy, x + w + dx, y + h), round(float(rng.random()), 1), s - 1 if rng.random() < 0.8 else int(rng.integers(15))))
        samples.append(sample(i, *zip(*rows)) if rows else sample(i))
    write_info(tmp_path / "info", sentences, images)
    (tmp_path / "full.json").write_text(json.dumps(content(objects, sentences, images)))
    metric = D3Metric(ann_file=tmp_path / "full.json", info=tmp_path / "info", scenario=scenario)
    got = {k.partition("/")[2]: v for k, v in evaluate(metric, samples, [s[0] for s in sentences]).items()}
    ap_of, ap50_of = {}, {}
    for n, (text, group, _) in enumerate(sentences):
        entries = []
        for s in samples:
            if scenario == "intra" and images[s["img_id"]] != group:
                continue
            p = s["pred_instances"]
            detections = [
                ((b[0], b[1], b[2] - b[0], b[3] - b[1]), v) for b, v, k in zip(p["bboxes"].tolist(), p["scores"].tolist(), p["labels"].tolist()) if k == n
            ]
            entries.append((detections, [(b[0], b[1], b[2] - b[0], b[3] - b[1]) for i, s2, b in objects if i == s["img_id"] and s2 == n + 1]))
        ap_of[text], ap50_of[text] = mean_ap(entries), average_precision(entries, THRESHOLDS[0])[0]
    assert metric.per_class_ap == pytest.approx({t: 100 * v for t, v in ap_of.items()}, abs=1e-9, nan_ok=True)

    def mean(values, chosen):
        known = [values[t] for t, g, neg in sentences if chosen(t, neg) and not math.isnan(values[t])]
        return 100 * float(np.mean(known)) if known else math.nan

    length = {"short": (1, 3), "middle": (4, 6), "long": (7, 9), "very-long": (10, 99)}
    for name, (low, high) in length.items():
        assert got[f"AP_{name}"] == pytest.approx(mean(ap_of, lambda t, _: low <= len(t.split()) <= high), nan_ok=True), name  # noqa: B023
    for name, kind in (("pres", False), ("abs", True)):
        assert got[f"AP_{name}"] == pytest.approx(mean(ap_of, lambda _, neg: neg is kind), nan_ok=True)  # noqa: B023
    assert got["AP"] == pytest.approx(mean(ap_of, lambda *_: True)) and got["AP50"] == pytest.approx(mean(ap50_of, lambda *_: True))


def test_num_words__counts_blanks_as_the_official_script_does():
    assert [num_words(t) for t in ("dog", "a  dog", "dog led by ropes")] == [1, 3, 4]


def test_info__a_pickle_cannot_run_code(tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/ran",)

    write_info(tmp_path)
    (tmp_path / "groups.pkl").write_bytes(pickle.dumps({1: {"inner_sent_id": [1], "x": Bomb()}}))
    with pytest.raises(ValueError, match="groups.pkl: must be a pickle of plain values: it holds .*system"):
        read_d3_info(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_info__errors_name_file_and_entry(tmp_path):
    with pytest.raises(FileNotFoundError, match="sentences.pkl does not exist"):
        read_d3_info(tmp_path)
    for name, part, message in (
        ("groups", {1: {"id": 1}, 2: {"inner_sent_id": []}}, "groups.pkl: entry 1: must have inner_sent_id"),
        ("groups", {1: {"inner_sent_id": []}}, "images.pkl: entry 7: group_id 2 is not among"),
        ("groups", {1: {"inner_sent_id": [9]}, 2: {"inner_sent_id": []}}, "groups.pkl: entry 1: inner_sent_id names 9"),
        ("sentences", [1, 2], "sentences.pkl: must be a dict"),
        ("images", {0: {}}, "images.pkl: entry 0: must have group_id"),
    ):
        write_info(tmp_path)
        (tmp_path / f"{name}.pkl").write_bytes(pickle.dumps(part))
        with pytest.raises(ValueError, match=message):
            read_d3_info(tmp_path)
    write_info(tmp_path)
    (tmp_path / "images.pkl").write_bytes((tmp_path / "images.pkl").read_bytes()[:20])
    with pytest.raises(ValueError, match="images.pkl: must be a pickle"):
        read_d3_info(tmp_path)


BROKEN = [
    (lambda c: c.pop("categories"), "must have the list 'categories'", "a list is missing"),
    (lambda c: c["categories"][1].pop("name"), r"categories, entry 1 \(id 2\): must have .*name is missing", "a key is missing"),
    (lambda c: c["annotations"][2].update(category_id=9), "annotation 2: category_id 9 is not among the 4 descriptions", "an unknown description"),
    (lambda c: c["annotations"][2].update(image_id=9), "annotation 2: image_id 9 is not among the 3 images", "an unknown image"),
    (lambda c: c["annotations"][0].update(bbox=[1, 2, 3, float("nan")]), "annotation 0: bbox must be four finite numbers", "no box"),
    (lambda c: c["images"][1].update(id=0), "images: ids must be unique, 0", "the same image twice"),
]


@pytest.mark.parametrize(("change", "message", "reason"), BROKEN, ids=[r for *_, r in BROKEN])
def test_read__errors_name_file_and_entry(tmp_path, change, message, reason):
    broken = copy.deepcopy(content())
    change(broken)
    path = tmp_path / "broken.json"
    path.write_text(json.dumps(broken))
    with pytest.raises(ValueError, match=message) as error:
        read_d3(path)
    assert str(path) in str(error.value)


def test_metric__wrong_set_ups_are_errors(tmp_path):
    with pytest.raises(ValueError, match="scenario must be one of intra, inter, got 'both'"):
        D3Metric(scenario="both")
    with pytest.raises(ValueError, match="each of its 4 descriptions must be a class, 1 are not, such as 'a dog'"):
        numbers(tmp_path, found(), names=NAMES[1:])
    write_info(tmp_path / "d3_pkl", sentences=SENTENCES[:3])
    with pytest.raises(ValueError, match="sentences.pkl: must have every description of .*full.json, 1 are missing, such as 4"):
        evaluate(D3Metric(ann_file="full.json", data_root=tmp_path), found(), NAMES)
    write_info(tmp_path / "d3_pkl", images={0: 1, 5: 1})
    with pytest.raises(ValueError, match="images.pkl: must have every image of .*full.json, 1 are missing, such as 7"):
        evaluate(D3Metric(ann_file="full.json", data_root=tmp_path), found(), NAMES)


@pytest.mark.parametrize("scenario", ["intra", "inter"])
def test_dataset__asks_for_the_group_or_for_all(tmp_path, scenario):
    write_info(tmp_path / "d3_pkl")
    (tmp_path / "full.json").write_text(json.dumps(content([*OBJECTS, OUTER])))
    for i in GROUP_OF_IMAGE:
        path = tmp_path / "d3_images" / "g" / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (200, 160)).save(path)
    data = D3Detection(ann_file="full.json", image_prefix="d3_images", data_root=str(tmp_path), scenario=scenario)
    assert data.vocabulary.names == tuple(NAMES) and data.metainfo["category_ids"] == (1, 2, 3, 4)
    assert data.asked_of_image(7).tolist() == ([ROPE, HAT] if scenario == "intra" else [DOG, FREE, ROPE, HAT])
    last = [i for i in range(len(data)) if data.image_info(i)["image_id"] == 7][0]
    assert sorted(data.annotations(last)["labels"].tolist()) == ([ROPE, HAT] if scenario == "intra" else [DOG, ROPE, HAT])
    metric = D3Metric(data_root=tmp_path, scenario=scenario)
    metric.dataset_meta = data.metainfo
    for s in found():
        metric.process(None, [s])
    assert metric.evaluate(3)[f"d3_{scenario}/AP_abs"] == pytest.approx(100)
