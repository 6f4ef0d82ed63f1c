"""Answers to questions: type and answer both count; every question counts, with phrases or without."""
import json

import pytest
from PIL import Image

from ovdense.data.grounding import QuestionDetection
from ovdense.evaluation.answers import AnswerMetric

TRUTH = [{"type": 0, "obj": 2}, {"type": 2, "rel": 40}, {"type": 2, "rel": 7}, None]


@pytest.fixture
def path(tmp_path):
    images = []
    for n, answers in enumerate(TRUTH):
        Image.new("RGB", (20, 20)).save(tmp_path / f"{n}.png")
        images.append({"id": n, "file_name": f"{n}.png", "height": 20, "width": 20, "caption": "is it red?"} | ({"answers": answers} if answers else {}))
    path = tmp_path / "questions.json"
    path.write_text(json.dumps({"images": images, "annotations": [{"id": 1, "image_id": 1, "bbox": [1, 1, 5, 5], "tokens_positive": [[3, 5]]}]}))
    return path


def measured(path, answers):
    metric = AnswerMetric(ann_file=str(path), class_names=["phrase 1"])
    metric.process(None, [{"img_id": n, "answers": a} for n, a in answers.items()])
    return metric.evaluate(3), metric


def test_accuracy__of_types_and_of_answers_of_the_right_type(path):
    found, metric = measured(path, {0: TRUTH[0], 1: {"type": 2, "rel": 41}, 2: {"type": 1, "attr": 7}})
    assert found == pytest.approx({"answers/total": 100 / 3, "answers/type": 200 / 3, "answers/obj": 100, "answers/rel": 0})
    assert metric.protocol["questions"] == 3


def test_accuracy__is_whole_for_the_truth_and_needs_all_questions(path):
    assert measured(path, {n: a for n, a in enumerate(TRUTH) if a})[0]["answers/total"] == 100
    with pytest.raises(ValueError, match="image"):
        measured(path, {0: TRUTH[0]})


def test_samples__without_answers_and_broken_files_are_told(path, tmp_path):
    with pytest.raises(ValueError, match="answer heads"):
        measured(path, {0: None})
    content = json.loads(path.read_text())
    for wrong, said in (({"type": 0}, "its head"), ({"type": 0, "obj": "2"}, "its head"), (5, "its head")):
        content["images"][0]["answers"] = wrong
        (tmp_path / "w.json").write_text(json.dumps(content))
        with pytest.raises(ValueError, match=said):
            measured(tmp_path / "w.json", {0: TRUTH[0]})
    for image in content["images"]:
        image.pop("answers", None)
    (tmp_path / "w.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="--answers"):
        measured(tmp_path / "w.json", {0: TRUTH[0]})
    with pytest.raises(ValueError, match="--answers"):
        QuestionDetection(ann_file=str(tmp_path / "w.json"), image_prefix=str(tmp_path))


def test_questions__without_phrases_are_asked_too(path):
    dataset = QuestionDetection(ann_file=str(path), image_prefix=str(path.parent))
    assert len(dataset) == 3 and [len(dataset.phrases_of_image(n)) for n in range(3)] == [0, 1, 0]
