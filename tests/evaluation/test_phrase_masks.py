"""Masks of phrases: the best answer of each phrase against all that it means."""
import json

import numpy as np
import pytest
import torch

from ovdense.evaluation.phrase_masks import PhraseMaskMetric, mask_figures


def square(x, y, side):
    return [[x, y, x + side, y, x + side, y + side, x, y + side]]


def sample(masks, scores, labels, image_id=1):
    boxes = torch.zeros(len(scores), 4)
    return {"img_id": image_id, "pred_instances": {"bboxes": boxes, "scores": torch.tensor(scores), "labels": torch.tensor(labels), "masks": masks}}


@pytest.fixture
def metric(tmp_path):
    image = {"id": 1, "file_name": "1.png", "height": 20, "width": 20, "caption": "two cats and a dog", "tokens_positive_eval": [[[0, 8]], [[13, 18]]]}
    things = [([0, 0, 4, 4], [[0, 8]]), ([10, 0, 4, 4], [[0, 8]]), ([0, 10, 4, 4], [[13, 18]])]
    annotations = [{"id": n, "image_id": 1, "bbox": b, "tokens_positive": s, "segmentation": square(b[0], b[1], 4)} for n, (b, s) in enumerate(things)]
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"images": [image], "annotations": annotations}))
    return PhraseMaskMetric(ann_file=str(path), class_names=["phrase 1", "phrase 2"])


def test_metric__the_best_mask_of_a_phrase_against_the_union_of_its_things(metric):
    masks = torch.zeros(3, 20, 20, dtype=torch.bool)
    masks[0, 0:4, 0:4] = True  # one of the two cats: half of them
    masks[1] = True
    masks[2, 10:14, 0:4] = True
    metric.process(None, [sample(masks, [0.9, 0.5, 0.3], [0, 0, 1])])
    found = metric.evaluate(1)
    assert found["phrase_masks/mIoU"] == pytest.approx(75) and found["phrase_masks/P@0.7"] == 50
    assert found["phrase_masks/cIoU"] == pytest.approx(100 * 32 / 48)


def test_metric__a_phrase_without_an_answer_counts_as_missed(metric):
    metric.process(None, [sample(torch.zeros(0, 20, 20, dtype=torch.bool), [], [])])
    assert metric.evaluate(1)["phrase_masks/mIoU"] == 0


def test_figures__without_a_phrase_are_nan():
    assert all(np.isnan(v) for v in mask_figures(np.zeros((0, 2))).values())
