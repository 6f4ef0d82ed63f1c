"""Recall at k of phrases: by hand, against a plain second implementation, and with Flickr30k Entities' own files."""
import json
import math

import numpy as np
import pytest

from ovdense.evaluation.grounding import NEVER, PhraseGroundingMetric, first_hit, merged_box, recalls
from ovdense.evaluation.report import format_table
from tests.evaluation.metric_samples import evaluate, sample

CAPTION = "A man and a man watch two dogs ."
MAN, OTHER, DOGS = range(3)
SPANS = [(0, 5), (10, 15), (22, 30)]
FAR = (0, 0, 1, 1)
MAN_AT, OTHER_AT, DOG_AT, SECOND_DOG_AT = (10, 10, 30, 50), (40, 10, 60, 50), (100, 100, 120, 120), (140, 100, 160, 120)
NAMES = ["phrase 1", "phrase 2", "phrase 3"]


def xywh(box) -> list[float]:
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]


def small() -> dict:
    """Return one caption of three phrases, the last with two boxes, one of which also shows the second man; and one without any."""
    spans = [[list(s)] for s in SPANS]
    of_box = [(MAN_AT, [SPANS[MAN]]), (OTHER_AT, [SPANS[OTHER]]), (DOG_AT, [SPANS[DOGS]]), (SECOND_DOG_AT, [SPANS[OTHER], SPANS[DOGS]])]
    common = dict(file_name="12.jpg", height="200", width="200", original_img_id=12)  # MDETR wrote sizes as text
    return {
        "images": [
            {"id": 5, "caption": CAPTION, "sentence_id": 0, "tokens_positive_eval": spans, **common},
            {"id": 6, "caption": "Nobody .", "sentence_id": 1, "tokens_positive_eval": [], **common},
            {"id": 7, "caption": "two dogs", "sentence_id": 2, "tokens_positive_eval": [[[0, 8]]], **common},
        ],
        "annotations": [{"id": n, "image_id": 5, "bbox": xywh(b), "tokens_positive": [list(s) for s in held]} for n, (b, held) in enumerate(of_box)]
        + [{"id": 9, "image_id": 7, "bbox": xywh(DOG_AT), "tokens_positive": [[0, 8]]}],
    }


def numbers(tmp_path, samples, content=None, **arguments) -> tuple[dict[str, float], PhraseGroundingMetric]:
    path = tmp_path / "ann.json"
    path.write_text(json.dumps(content or small()))
    metric = PhraseGroundingMetric(ann_file=str(path), **arguments)
    return {k.removeprefix("grounding/"): v for k, v in evaluate(metric, samples, NAMES).items()}, metric


DOGS_OF_7 = sample(7, [DOG_AT], [0.5], [0])


def test_metric__hand_case(tmp_path):
    # the man first; the other man at place 6 (rank by score, whatever the order); the dogs by one of the two
    boxes = [OTHER_AT, MAN_AT] + [FAR] * 5 + [SECOND_DOG_AT]
    found = sample(5, boxes, [0.1, 0.9] + [0.8] * 5 + [0.2], [OTHER, MAN] + [OTHER] * 5 + [DOGS])
    got, metric = numbers(tmp_path, [found, DOGS_OF_7])
    assert got["phrases"] == 4
    assert [got[f"R@{k}"] for k in (1, 5, 10)] == [75, 75, 100] and got["upper_bound"] == 100
    # merged: the dogs' box is 100..160 wide, one dog is a third of it; the other man's is far larger than he is
    assert [got[f"R@{k}_merged"] for k in (1, 5, 10)] == [50, 50, 50] and got["upper_bound_merged"] == 50
    assert metric.protocol["images"] == 2 and metric.protocol["classes"] == "the phrases of each caption"
    assert metric.protocol["phrases_without_a_detection"] == 0 and "overlap by 0.95" in metric.protocol["truth"]
    assert "merged" in format_table({f"grounding/{k}": v for k, v in got.items()}, metric.protocol)


def test_metric__labels_of_other_phrases_do_not_count_and_missing_ones_are_not_found(tmp_path):
    got, metric = numbers(tmp_path, [sample(5, [MAN_AT, OTHER_AT], [0.9, 0.8], [OTHER, MAN]), sample(7)])
    assert got["R@10"] == got["upper_bound"] == 0 and metric.protocol["phrases_without_a_detection"] == 2


@pytest.mark.parametrize(("width", "found"), [(20, 1), (19.9, 0)])
def test_metric__an_overlap_of_exactly_half_is_enough(tmp_path, width, found):
    content = small()
    content["annotations"][-1]["bbox"] = [100, 100, 40, 20]
    got, _ = numbers(tmp_path, [sample(5), sample(7, [(100, 100, 100 + width, 120)], [0.5], [0])], content)
    assert got["R@1"] == 100 * found / 4


def test_metric__without_listed_phrases_the_boxes_spans_are_the_phrases(tmp_path):
    content = small()
    for image in content["images"]:
        del image["tokens_positive_eval"]
    # the fourth box speaks of two phrases together: a phrase of its own, and a box of each of the two
    metric_names = [*NAMES, "phrase 4"]
    path = tmp_path / "ann.json"
    path.write_text(json.dumps(content))
    metric = PhraseGroundingMetric(ann_file=str(path))
    got = evaluate(metric, [sample(5, [SECOND_DOG_AT] * 3, [0.9] * 3, [1, 2, 3]), DOGS_OF_7], metric_names)
    assert got["grounding/phrases"] == 5 and got["grounding/R@1"] == 80


@pytest.mark.parametrize("form", ["odvg.jsonl", "train_odvg.json", "spans.json"])
def test_metric__reads_every_form_that_the_data_set_reads(tmp_path, form):
    """What can be trained on can be measured; mmdet's converters write ODVG's lines to .json."""
    size = {"height": 200, "width": 200}
    path = tmp_path / form
    if "odvg" in form:
        regions = [{"phrase": "two dogs", "bbox": [list(DOG_AT), list(SECOND_DOG_AT)]}, {"phrase": "a man", "bbox": list(MAN_AT)}]
        path.write_text("\n".join(json.dumps({"filename": "12.jpg", **size, "grounding": {"caption": "two dogs and a man", "regions": regions}}) for _ in "12"))
    else:
        phrases = [{"spans": [[0, 8]], "boxes": [xywh(DOG_AT), xywh(SECOND_DOG_AT)]}, {"spans": [[13, 18]], "boxes": [xywh(MAN_AT)]}]
        path.write_text(json.dumps({"images": [{"id": n, "file_name": "12.jpg", **size, "caption": "two dogs and a man", "phrases": phrases} for n in (1, 2)]}))
    metric = PhraseGroundingMetric(ann_file=str(path))
    got = evaluate(metric, [sample(1, [SECOND_DOG_AT, FAR], [0.9, 0.8], [0, 1]), sample(2, [FAR, MAN_AT], [0.9, 0.8], [0, 1])], NAMES[:2])
    assert (got["grounding/phrases"], got["grounding/R@1"]) == (4, 50) and len(metric.protocol["ann_sha256"]) == 12


def plain(truth, ranked, merge) -> list[float]:
    """Return R@1, R@5, R@10 and the upper bound of phrases: `truth` and `ranked` (best first) are lists of boxes of each."""
    hits = {k: 0 for k in (1, 5, 10, None)}
    for boxes, given in zip(truth, ranked):
        if merge:
            boxes = [(min(b[0] for b in boxes), min(b[1] for b in boxes), max(b[2] for b in boxes), max(b[3] for b in boxes))]
        for k in hits:
            best = 0.0
            for p in given[:k]:
                for t in boxes:
                    w, h = min(p[2], t[2]) - max(p[0], t[0]), min(p[3], t[3]) - max(p[1], t[1])
                    inter = w * h if w > 0 and h > 0 else 0.0
                    best = max(best, inter / ((p[2] - p[0]) * (p[3] - p[1]) + (t[2] - t[0]) * (t[3] - t[1]) - inter))
            hits[k] += best >= 0.5
    return [100 * n / len(truth) for n in hits.values()]


@pytest.mark.parametrize("seed", range(4))
def test_metric__random_cases_equal_a_plain_reference(tmp_path, seed):
    rng = np.random.default_rng(seed)
    content, samples, truth, ranked = {"images": [], "annotations": []}, [], [], []
    for i in range(12):
        count = int(rng.integers(1, 4))
        spans = [[2 * k, 2 * k + 1] for k in range(count)]
        asked = {"caption": "a b c", "tokens_positive_eval": [[s] for s in spans]}
        content["images"].append({"id": i, "file_name": f"{i}.jpg", "height": 90, "width": 90, **asked})
        of_phrase = [rng.integers(0, 40, (rng.integers(1, 4), 2)) for _ in spans]
        of_phrase = [np.concatenate([b, b + rng.integers(10, 50, b.shape)], axis=1) for b in of_phrase]
        truth += [b.tolist() for b in of_phrase]
        content["annotations"] += [
            {"image_id": i, "bbox": xywh(b), "tokens_positive": [s]} for s, boxes in zip(spans, of_phrase) for b in boxes.tolist()
        ]
        n = int(rng.integers(0, 40))
        corner = rng.integers(0, 40, (n, 2))
        boxes, labels = np.concatenate([corner, corner + rng.integers(10, 50, (n, 2))], axis=1), rng.integers(0, count, n)
        scores = rng.permutation(n) / 64
        ranked += [boxes[np.argsort(-scores)][labels[np.argsort(-scores)] == k].tolist() for k in range(count)]
        samples.append(sample(i, boxes, scores, labels))
    got, _ = numbers(tmp_path, [samples[n] for n in rng.permutation(12)], content)
    for ending, merge in (("", False), ("_merged", True)):
        assert [got[f"{name}{ending}"] for name in ("R@1", "R@5", "R@10", "upper_bound")] == pytest.approx(plain(truth, ranked, merge))
    assert 0 < got["R@1"] < got["R@10"] <= got["upper_bound"] < 100


def write_entities(folder):
    """Write the photo of `small` as Flickr30k Entities has it: the dogs' first box twice, nearly the same, which MDETR writes once."""
    (folder / "Sentences").mkdir(parents=True)
    (folder / "Annotations").mkdir()
    lines = [
        "[/EN#1/people A man] and [/EN#2/people a man] watch [/EN#3/animals/other two dogs] .",
        "[/EN#0/notvisual Nobody] .",
        "[/EN#3/animals/other two dogs]",
    ]
    (folder / "Sentences" / "12.txt").write_text("\n".join(lines) + "\n")
    things = [((1,), MAN_AT), ((2,), OTHER_AT), ((3,), DOG_AT), ((3,), (100, 100, 120, 121)), ((2, 3), SECOND_DOG_AT)]
    objects = ["<object><name>4</name><scene>1</scene><nobndbox>1</nobndbox></object>"]
    for ids, box in things:
        sides = "".join(f"<{side}>{v}</{side}>" for side, v in zip(("xmin", "ymin", "xmax", "ymax"), box))
        objects.append("<object>" + "".join(f"<name>{i}</name>" for i in ids) + f"<bndbox>{sides}</bndbox></object>")
    (folder / "Annotations" / "12.xml").write_text(f"<annotation><filename>12.jpg</filename>{''.join(objects)}</annotation>")
    return folder


def test_metric__published_files_give_the_boxes_and_the_types(tmp_path):
    folder = write_entities(tmp_path / "entities")
    found = sample(5, [MAN_AT, FAR, DOG_AT], [0.9, 0.8, 0.7], [MAN, OTHER, DOGS])
    # 100..120 x 100..141.5 overlaps the dog as MDETR has it by 20/41.5, and the box that it left out, 21 high, by 21/41.5
    tall = sample(7, [(100, 100, 120, 141.5)], [0.5], [0])
    got, metric = numbers(tmp_path, [found, tall], entities=str(folder))
    assert got["R@1"] == 75 and numbers(tmp_path, [found, tall])[0]["R@1"] == 50
    assert (got["phrases_people"], got["R@1_people"], got["phrases_animals"], got["R@1_animals"]) == (2, 50, 2, 100)
    assert got["R@1_other"] == got["R@1_animals"] and got["R@1_merged-animals"] == 0
    assert "merged-people" in format_table({f"grounding/{k}": v for k, v in got.items()}, metric.protocol)
    assert metric.protocol["truth"] == "Flickr30k Entities" and len(metric.protocol["entities_sha256"]) == 12


@pytest.mark.parametrize(("edit", "said"), [
    (lambda c, f: c["images"][0].pop("sentence_id"), "entry 5: must have sentence_id"),
    (lambda c, f: c["images"][0].update(sentence_id=2), "entry 5: the phrases must be those of sentence 2 of photo 12"),
    (lambda c, f: (f / "Annotations" / "12.xml").write_text("<annotation><object>"), "12.xml: every object must have"),
    (lambda c, f: (f / "Sentences" / "12.txt").write_text("[/EN#1/people A man"), "12.txt: a phrase must be written as"),
    (lambda c, f: (f / "Sentences" / "12.txt").unlink(), "12.txt is missing"),
])  # fmt: skip
def test_metric__published_files_that_do_not_fit_are_named(tmp_path, edit, said):
    content, folder = small(), write_entities(tmp_path / "entities")
    edit(content, folder)
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        numbers(tmp_path, [sample(5), sample(7)], content, entities=str(folder))


@pytest.mark.parametrize(("edit", "said"), [
    (lambda c: c["annotations"].pop(), "entry 7: each phrase must have a box, 'two dogs'"),
    (lambda c: c["images"][0].update(tokens_positive_eval=[[[0, 99]]]), "entry 5: tokens_positive_eval, phrase 0"),
    (lambda c: c["images"][0].update(tokens_positive_eval=3), "entry 5: tokens_positive_eval must be a list"),
    (lambda c: c["annotations"][0].update(image_id=70), "entry 0: image_id 70 is not among"),
    (lambda c: [i.update(tokens_positive_eval=[]) for i in c["images"]], "at least one phrase with a box"),
    (lambda c: c.pop("images"), "'images' is missing"),
])  # fmt: skip
def test_metric__broken_entries_are_named(tmp_path, edit, said):
    content = small()
    edit(content)
    with pytest.raises(ValueError, match=said):
        numbers(tmp_path, [sample(5)], content)


def test_metric__wrong_predictions_are_errors(tmp_path):
    with pytest.raises(ValueError, match=r"image 7: labels must lie in 0..0, the phrases of its caption, got 2"):
        numbers(tmp_path, [sample(7, [FAR], [0.5], [2])])
    with pytest.raises(ValueError, match="image 6 must be one of the 2 images"):
        numbers(tmp_path, [sample(6)])
    with pytest.raises(ValueError, match="1 have none"):
        numbers(tmp_path, [sample(5)])
    assert numbers(tmp_path, [DOGS_OF_7], allow_partial=True)[0]["R@1"] == 100
    (tmp_path / "ann.json").write_text(json.dumps(small()))
    with pytest.raises(ValueError, match="captions of 3, got 2 classes"):
        evaluate(PhraseGroundingMetric(ann_file=str(tmp_path / "ann.json")), [sample(5)], NAMES[:2])


def test_first_hit__and_what_is_merged():
    boxes = np.array([FAR, MAN_AT, OTHER_AT], dtype=np.float64)
    assert first_hit(boxes, np.array([OTHER_AT, MAN_AT], dtype=np.float64)) == 1
    assert first_hit(boxes[:0], boxes) == NEVER == first_hit(boxes[:1], boxes[1:])
    assert first_hit(boxes, np.array([(5.0, 5, 5, 5)])) == NEVER, "an empty true box is never found"
    assert merged_box(boxes[1:]).tolist() == [[10, 10, 60, 50]] and merged_box(boxes[:1]).tolist() == [list(FAR)]
    assert all(math.isnan(v) for v in recalls(np.zeros(0)).values())
