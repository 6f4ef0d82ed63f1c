"""OmniLabel: the file, its label spaces, and the numbers against hand computation and a plain second implementation."""
import copy
import json
import math

import numpy as np
import pytest
from PIL import Image

from ovdense.compat.described import class_name_of
from ovdense.compat.omnilabel import read_omnilabel
from ovdense.data.described import OmniLabelDetection
from ovdense.evaluation.omnilabel import GROUPS, OmniLabelMetric, harmonic_mean
from ovdense.evaluation.report import format_table
from tests.evaluation.metric_samples import evaluate, sample
from tests.evaluation.pooled_reference import THRESHOLDS, average_precision, mean_ap

TEXTS = {
    11: ("Person", "object_category", [1, 2]),
    12: ("Chair", "object_category", [1]),
    21: ("red chair", "object_description", [1]),  # short, describes something
    22: ("the chair that nobody sits on", "object_description", [1]),  # middle, describes nothing
    23: ("a person who is holding a cup of hot tea", "object_description", [2]),  # long, describes something
}
NAMES = [t for t, _, _ in TEXTS.values()]
PERSON, CHAIR, RED, NOBODY, TEA = range(5)
LEFT, RIGHT = (0, 0, 50, 50), (100, 100, 150, 150)


def small() -> dict:
    """Return two images: a chair (red) at LEFT of image 1, persons at RIGHT of both; the one of image 2 holds a cup."""
    return {
        "images": [{"id": i, "file_name": f"set/{i}.png"} for i in (2, 1)],
        "descriptions": [{"id": i, "text": t, "image_ids": images, "anno_info": {"type": kind}} for i, (t, kind, images) in TEXTS.items()],
        "annotations": [
            {"id": 0, "image_id": 1, "bbox": [0, 0, 50, 50], "description_ids": [12, 21]},
            {"id": 1, "image_id": 1, "bbox": [100, 100, 50, 50], "description_ids": [11]},
            {"id": 2, "image_id": 2, "bbox": [100, 100, 50, 50], "description_ids": [11, 23]},
        ],
    }


def write(path, content) -> str:
    path.write_text(json.dumps(content))
    return str(path)


def numbers(tmp_path, samples, content=None, names=NAMES) -> tuple[dict[str, float], OmniLabelMetric]:
    metric = OmniLabelMetric(ann_file=write(tmp_path / "ann.json", content or small()))
    got = evaluate(metric, samples, names)
    return {k.removeprefix("omnilabel/"): v for k, v in got.items()}, metric


ALL_FOUND = [
    sample(1, [LEFT, LEFT, RIGHT], [0.9, 0.8, 0.7], [CHAIR, RED, PERSON]),
    sample(2, [RIGHT, RIGHT], [0.6, 0.5], [PERSON, TEA]),
]


def test_metric__everything_found(tmp_path):
    got, metric = numbers(tmp_path, ALL_FOUND)
    # the official harmonic mean adds 1e-5 to the sum of the two: 2 / 2.00001
    assert got["AP"] == pytest.approx(100 * 2 / 2.00001, abs=1e-9)
    aps = [got[f"AP_{g.name}"] for g in GROUPS]
    assert aps == pytest.approx([100, 100, 100, 100, math.nan, 100], nan_ok=True)
    assert [got[f"boxes_{g.name}"] for g in GROUPS] == [3, 2, 2, 1, 0, 1] and got["boxes"] == 5
    assert metric.protocol["asked_pairs"] == 6 and metric.protocol["detections"] == "100 per image and description"


def test_metric__a_description_of_nothing_costs_only_where_it_is_ranked(tmp_path):
    wrong = [sample(1, [LEFT, LEFT, RIGHT, LEFT], [0.9, 0.6, 0.7, 0.7], [CHAIR, RED, PERSON, NOBODY]), ALL_FOUND[1]]
    got, _ = numbers(tmp_path, wrong)
    # descriptions by score: NOBODY .7 wrong, RED .6 right, TEA .5 right: precision is at most 2/3 at every recall
    assert got["AP_descr"] == pytest.approx(100 * 2 / 3)
    assert [got[f"AP_{n}"] for n in ("descr-pos", "descr-S", "categ")] == pytest.approx([100] * 3)
    assert math.isnan(got["AP_descr-M"]), "a group without a box to find"
    assert got["AP"] == pytest.approx(100 * 2 * (2 / 3) / (2 / 3 + 1), abs=1e-3)


def test_metric__the_ranking_goes_across_descriptions(tmp_path):
    """A sure mistake for one category lowers the AP of all: no mean over categories is taken."""
    wrong = [sample(1, [LEFT, RIGHT, LEFT], [0.9, 0.7, 0.95], [CHAIR, PERSON, PERSON]), sample(2, [RIGHT], [0.6], [PERSON])]
    got, _ = numbers(tmp_path, wrong)
    assert got["AP_categ"] == pytest.approx(75)
    assert got["AP_descr"] == 0 and got["AP"] == 0 and got["AR_descr"] == 0 and got["AR_categ"] == 100 and got["AR"] == 0


def test_metric__half_of_the_overlaps(tmp_path):
    # IoU 2/3 for the red chair: right at .50 .55 .60 .65, wrong above; then recall 1/2 (51 of 101 recalls) by TEA at precision 1/2
    moved = [sample(1, [LEFT, (10, 0, 60, 50), RIGHT], [0.9, 0.8, 0.7], [CHAIR, RED, PERSON]), ALL_FOUND[1]]
    got, _ = numbers(tmp_path, moved)
    assert got["AP_descr"] == pytest.approx(100 * (4 + 6 * 0.5 * 51 / 101) / 10)
    assert got["AP50_descr"] == 100 and got["AP75_descr"] == pytest.approx(100 * 0.5 * 51 / 101) and got["AR_descr"] == pytest.approx(70)


def test_metric__what_an_image_is_not_asked_for_is_left_out(tmp_path):
    noise = [sample(1, [RIGHT] * 4, [1.0] * 4, [TEA] * 4), sample(2, [LEFT] * 3, [1.0] * 3, [CHAIR, RED, NOBODY])]
    both = [
        sample(i, np.concatenate([a["pred_instances"][k] for a in (f, n)]) if (k := "bboxes") else (), *(
            np.concatenate([a["pred_instances"][k] for a in (f, n)]) for k in ("scores", "labels")))
        for i, f, n in zip((1, 2), ALL_FOUND, noise)
    ]  # fmt: skip
    got, metric = numbers(tmp_path, both)
    assert got == pytest.approx(numbers(tmp_path, ALL_FOUND)[0], nan_ok=True)
    assert metric.protocol["unasked_detections_left_out"] == 7


def test_metric__a_hundred_of_each_description_count(tmp_path):
    """Person: 100 wrong ones before the right one; the right chair is not pushed out by them."""
    boxes, labels = [LEFT] * 100 + [RIGHT, LEFT], [PERSON] * 101 + [CHAIR]
    got, _ = numbers(tmp_path, [sample(1, boxes, np.linspace(1, 0.5, 102), labels), sample(2)])
    assert got["AR_categ"] == pytest.approx(100 / 3)


def test_metric__crowds_are_neither_found_nor_missed(tmp_path):
    content = small()
    content["annotations"][1]["iscrowd"] = 1
    got, _ = numbers(tmp_path, [sample(1, [LEFT, (100, 100, 120, 120)], [0.5, 0.9], [CHAIR, PERSON]), ALL_FOUND[1]], content)
    assert got["AP_categ"] == 100 and got["boxes_categ"] == 2


def test_metric__no_detection_and_one_side_without_boxes(tmp_path):
    got, _ = numbers(tmp_path, [sample(1), sample(2)])
    assert got["AP"] == got["AP_categ"] == got["AP_descr"] == 0
    content = small()
    for a in content["annotations"]:
        a["description_ids"] = [d for d in a["description_ids"] if d < 20]
    got, _ = numbers(tmp_path, ALL_FOUND, content)
    assert math.isnan(got["AP"]) and math.isnan(got["AP_descr"]) and got["AP_categ"] == 100


def test_metric__two_descriptions_of_the_same_words_are_one_class(tmp_path):
    content = small()
    content["descriptions"].append({"id": 31, "text": "Red  Chair.", "image_ids": [2], "anno_info": {"type": "object_description"}})
    got, _ = numbers(tmp_path, [ALL_FOUND[0], sample(2, [RIGHT, RIGHT, LEFT], [0.6, 0.5, 0.95], [PERSON, TEA, RED])], content)
    assert got["AP_descr-pos"] == 100 and got["AP_descr"] == pytest.approx(100 * 2 / 3), "wrong in image 2, right in image 1"


def random_case(seed: int) -> tuple[dict, list[dict]]:
    """Return a file of 12 images with overlapping label spaces, and predictions with many equal scores."""
    rng = np.random.default_rng(seed)
    words = "a red dog with some very long black tail on grass".split()
    descriptions = [
        {"id": 100 + n, "text": f"thing{n} " + " ".join(words[: n % 11]), "image_ids": sorted(rng.choice(12, size=5, replace=False).tolist()),
         "anno_info": {"type": "object_category" if n % 3 == 0 else "object_description"}}
        for n in range(24)
    ]  # fmt: skip
    annotations = []
    for i in range(12):
        space = [d["id"] for d in descriptions if i in d["image_ids"]]
        for _ in range(int(rng.integers(0, 6))):
            if space:
                picked = rng.choice(space, size=min(len(space), int(rng.integers(1, 4))), replace=False).tolist()
                annotations.append({"id": len(annotations), "image_id": i, "bbox": rng.integers(5, 90, 4).tolist(), "description_ids": picked})
    samples = []
    for i in range(12):
        boxes, labels = [], []
        for a in (a for a in annotations if a["image_id"] == i):
            x, y, w, h = np.array(a["bbox"]) + rng.integers(-3, 4, 4)
            for d in a["description_ids"] * int(rng.integers(0, 3)):
                boxes.append((x, y, x + w, y + h))
                labels.append(d - 100 if rng.random() < 0.8 else int(rng.integers(24)))
        for _ in range(10):
            x, y, w, h = rng.integers(5, 90, 4)
            boxes.append((x, y, x + w, y + h))
            labels.append(int(rng.integers(24)))
        samples.append(sample(i, boxes, np.round(rng.random(len(boxes)), 1), labels))
    return {"images": [{"id": i, "file_name": f"{i}.png"} for i in range(12)], "descriptions": descriptions, "annotations": annotations}, samples


@pytest.mark.parametrize("seed", range(4))
def test_metric__random_equals_a_plain_second_implementation(tmp_path, seed):
    content, samples = random_case(seed)
    got, _ = numbers(tmp_path, samples, content, [class_name_of(d["text"]) for d in content["descriptions"]])
    entries = {g.name: [] for g in GROUPS}
    for s in samples:
        found = s["pred_instances"]
        for d in (d for d in content["descriptions"] if s["img_id"] in d["image_ids"]):
            boxes = [a["bbox"] for a in content["annotations"] if a["image_id"] == s["img_id"] and d["id"] in a["description_ids"]]
            detections = [
                ((b[0], b[1], b[2] - b[0], b[3] - b[1]), score)
                for b, score, k in zip(found["bboxes"].tolist(), found["scores"].tolist(), found["labels"].tolist())
                if k == d["id"] - 100
            ]
            length = len(d["text"].split(" "))
            if d["anno_info"]["type"] == "object_category":
                names = ["categ"]
            else:
                names = ["descr"] + ["descr-pos"] * bool(boxes) + ["descr-S" if length < 4 else "descr-M" if length < 9 else "descr-L"]
            for name in names:
                entries[name].append((detections, boxes))
    for name, chosen in entries.items():
        assert got[f"AP_{name}"] == pytest.approx(100 * mean_ap(chosen), abs=1e-9, nan_ok=True), name
        assert got[f"boxes_{name}"] == sum(len(b) for _, b in chosen)
    assert got["AR_descr"] == pytest.approx(100 * np.mean([average_precision(entries["descr"], t)[1] for t in THRESHOLDS]))
    a, b = (mean_ap(entries[n]) for n in ("categ", "descr"))
    assert 0 < got["AP"] == pytest.approx(100 * 2 * a * b / (a + b + 1e-5))


def test_harmonic_mean__zero_and_unknown():
    assert harmonic_mean(0.0, 0.0) == 0 and harmonic_mean(0.0, 50.0) == 0 and math.isnan(harmonic_mean(math.nan, 50.0))


def test_metric__the_table_has_a_row_for_each_group(tmp_path):
    metric = OmniLabelMetric(ann_file=write(tmp_path / "ann.json", small()))
    text = format_table(evaluate(metric, ALL_FOUND, NAMES), metric.protocol)
    rows = [line.replace("│", "").split() for line in text.splitlines() if line.startswith("│")]
    assert [r[0] for r in rows] == ["all", *(g.name for g in GROUPS)]
    assert rows[1] == ["categ", "100.0", "100.0", "100.0", "100.0", "3"] and rows[5] == ["descr-M", "-", "-", "-", "-", "0"]


BROKEN = [
    (lambda c: c.pop("descriptions"), "must have the list 'descriptions'", "a list is missing"),
    (lambda c: c["descriptions"][1].pop("image_ids"), r"descriptions, entry 1 \(id 12\).*image_ids is missing", "a key is missing"),
    (lambda c: c["descriptions"][0].update(text=7), "entry 0 .*text is of the wrong type", "a value of the wrong type"),
    (lambda c: c["descriptions"][2]["anno_info"].update(type="caption"), "description 21: anno_info.type must be one of object_category", "an unknown kind"),
    (lambda c: c["descriptions"][2].update(text=" ( ) "), "description 21: the text must hold a word", "nothing to ask for"),
    (lambda c: c["descriptions"][1].update(id=11), "ids must be unique, 11", "the same id twice"),
    (lambda c: c["annotations"][2].update(image_id=9), "annotation 2: image_id 9 is not among", "an unknown image"),
    (lambda c: c["annotations"][0].update(description_ids=[99]), "annotation 0: description_ids names 99", "an unknown description"),
    (lambda c: c["annotations"][1].update(bbox=[1, 2, 3]), "annotation 1: bbox must be four finite numbers", "no box"),
]


@pytest.mark.parametrize(("change", "message", "reason"), BROKEN, ids=[r for *_, r in BROKEN])
def test_read__errors_name_file_and_entry(tmp_path, change, message, reason):
    content = copy.deepcopy(small())
    change(content)
    path = tmp_path / "broken.json"
    write(path, content)
    with pytest.raises(ValueError, match=message) as error:
        read_omnilabel(path)
    assert str(path) in str(error.value)


def test_read__a_file_that_is_cut_short(tmp_path):
    (tmp_path / "cut.json").write_text(json.dumps(small())[:80])
    with pytest.raises(ValueError, match="cut short"):
        read_omnilabel(tmp_path / "cut.json")


def test_metric__wrong_set_ups_are_errors(tmp_path):
    with pytest.raises(ValueError, match="each of its 5 descriptions must be a class, 1 are not, such as 'Person'"):
        numbers(tmp_path, ALL_FOUND, names=NAMES[1:])
    with pytest.raises(KeyError, match="Persn.*near 'Person'"):
        numbers(tmp_path, ALL_FOUND, names=["Persn", *NAMES[1:]])
    with pytest.raises(ValueError, match="test split"):
        numbers(tmp_path, ALL_FOUND, {k: v for k, v in small().items() if k != "annotations"})


@pytest.mark.parametrize(
    ("text", "name", "reason"),
    [
        ("Other Shoes", "Other Shoes", "plain"),
        ("  The  trumpets not in the middle. ", "The trumpets not in the middle", "blanks and the final stop go"),
        ("a man (on the left) with a hat", "a man, on the left, with a hat", "a bracket would end the noun"),
        ("hot_dog [cut]", "hot dog, cut", "underscores and square brackets"),
        ("what is it? (a dog)!", "what is it?, a dog!", "other punctuation stays"),
        ("(blue) car", "blue, car", "at the beginning"),
        ("()", "", "nothing"),
    ],
)
def test_class_name__keeps_every_word(text, name, reason):
    from ovdense.structures import ClassEntry

    assert class_name_of(text) == name, reason
    assert not name or ClassEntry(name=name).noun == name


def write_images(folder, content, size=(160, 200)):
    for image in content["images"]:
        path = folder / "photos" / image["file_name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((*size, 3), 90, dtype=np.uint8)).save(path)


def test_dataset__asks_each_image_for_its_own_label_space(tmp_path):
    content = small()
    write_images(tmp_path, content)
    write(tmp_path / "ann.json", content)
    data = OmniLabelDetection(ann_file="ann.json", image_prefix="photos", data_root=str(tmp_path))
    assert data.vocabulary.names == tuple(NAMES) and data.metainfo["category_ids"] == tuple(TEXTS)
    asked = {data.image_info(i)["image_id"]: [NAMES[k] for k in data.asked_labels(i)] for i in range(len(data))}
    assert asked == {1: NAMES[:4], 2: [NAMES[PERSON], NAMES[TEA]]}
    assert data.asked_of_image(2).tolist() == [PERSON, TEA]
    one = [i for i in range(2) if data.image_info(i)["image_id"] == 1][0]
    assert data.image_info(one)["size_hw"] == (160, 200), "read from the photo"
    assert data.image_info(one)["negative_labels"].tolist() == [NOBODY]
    assert sorted(data.annotations(one)["labels"].tolist()) == [PERSON, CHAIR, RED]
    with pytest.raises(KeyError, match="image 9"):
        data.asked_of_image(9)


def test_dataset__a_test_split_and_a_missing_photo(tmp_path):
    content = small()
    del content["annotations"]
    write(tmp_path / "ann.json", content)
    arguments = dict(ann_file="ann.json", image_prefix="photos", data_root=str(tmp_path))
    with pytest.raises(FileNotFoundError, match="lists the image .*set/2.png, which is missing"):
        OmniLabelDetection(**arguments)
    write_images(tmp_path, content)
    data = OmniLabelDetection(**arguments)
    assert len(data) == 2 and len(data.annotations(0)["labels"]) == 0


def test_dataset_and_metric__agree_on_the_classes(tmp_path):
    content, samples = random_case(7)
    write_images(tmp_path, content)
    path = write(tmp_path / "ann.json", content)
    data = OmniLabelDetection(ann_file=path, image_prefix=str(tmp_path / "photos"))
    metric = OmniLabelMetric()
    metric.dataset_meta = data.metainfo
    for s in samples:
        metric.process(None, [s])
    assert metric.evaluate(len(samples)) == pytest.approx(evaluate(OmniLabelMetric(ann_file=path), samples, data.vocabulary.names), nan_ok=True)
