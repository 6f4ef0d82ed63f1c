"""Tables and files of results."""
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from ovdense.evaluation.report import format_number, format_table, write_predictions, write_report
from ovdense.structures import Results

METRICS = {f"lvis/bbox_{n}": v for n, v in {"AP": 34.62, "APr": math.nan, "APc": 0.0, "APf": 100.0}.items()}
PROTOCOL = {"images": 5000, "classes_per_chunk": 8, "ap": "fixed AP", "ann_sha256": "0123456789ab"}


def test_format_table__numbers_protocol_and_a_dash_for_nan():
    text = format_table(METRICS | {"description/pairs": 1200}, PROTOCOL)
    for part in ("lvis", "APr", "34.6", "100.0", " - ", "1,200", "classes per chunk", "5,000", "fixed AP", "0123456789ab"):
        assert part in text
    assert max(map(len, text.splitlines())) <= 100
    assert format_table({}, {}) == ""


def test_format_table__lvis_in_two_lines_that_are_whole():
    names = "AP AP50 AP75 APs APm APl APr APc APf AR ARs ARm ARl".split()
    lines = format_table({f"lvis/bbox_{n}": 100.0 for n in names}, {}).splitlines()
    headers = [line.replace("┃", "").split() for line in lines if line.startswith("┃")]
    assert headers == [names[:9], names[9:]]
    assert [line.count("100.0") for line in lines if line.startswith("│")] == [9, 4]


def test_format_table__groups_are_rows():
    named = {"pair_accuracy": 87.25, "pairs": 30, "ties": 3.0,
             "pair_accuracy_left_right": math.nan, "pairs_left_right": 0, "pair_accuracy_size": 50.0, "pairs_size": 9}  # fmt: skip
    lines = format_table({f"description/{k}": v for k, v in named.items()} | {"voc/mAP": 1.0, "voc/mAP_11point": 2.0}, {}).splitlines()
    cells = [[c.strip() for c in line.strip("┃│").replace("┃", "│").split("│")] for line in lines if line[0] in "┃│"]
    assert cells == [["group", "pair accuracy", "pairs", "ties"], ["all", "87.2", "30", "3.0"], ["left_right", "-", "0", ""], ["size", "50.0", "9", ""],
                     ["mAP", "mAP_11point"], ["1.0", "2.0"]]  # fmt: skip


@pytest.mark.parametrize(("value", "text"), [(math.nan, "-"), (0.0, "0.0"), (99.96, "100.0"), (1234, "1,234")])
def test_format_number(value, text):
    assert format_number(value) == text


def test_write_report__nan_is_null_and_the_file_is_whole(tmp_path):
    path = write_report(tmp_path / "new" / "result.json", METRICS, PROTOCOL, {"cat": 50.0, "dog": math.nan})
    content = json.loads(path.read_text())
    assert content["metrics"]["lvis/bbox_APr"] is None and content["metrics"]["lvis/bbox_AP"] == 34.62
    assert content["protocol"] == PROTOCOL and content["per_class"] == {"cat": 50.0, "dog": None}
    assert [p.name for p in path.parent.iterdir()] == ["result.json"]


def result(image_id: int, n: int) -> Results:
    return Results(
        boxes_xyxy=torch.tensor([[1.0, 2.0, 11.0, 22.0]]).repeat(n, 1),
        scores=torch.full((n,), 0.5),
        labels=torch.ones(n, dtype=torch.int64),
        names=("cat", "dog"),
        size_hw=(30, 40),
        image_id=image_id,
    )


def test_write_predictions__coco_form(tmp_path):
    rows = json.loads(write_predictions([result(3, 1), result(4, 0)], tmp_path / "p.json").read_text())
    assert rows == [{"image_id": 3, "category_id": 1, "category_name": "dog", "bbox": [1.0, 2.0, 10.0, 20.0], "score": 0.5}]
    rows = json.loads(write_predictions([result(3, 1)], tmp_path / "p.json", {"dog": 18}).read_text())
    assert rows[0]["category_id"] == 18
    with pytest.raises(KeyError, match="1 are missing: \\['dog'\\]"):
        write_predictions([result(3, 1)], tmp_path / "p.json", {"cat": 17})


def test_write_predictions__numbers_are_the_same_in_float32(tmp_path):
    """Scores that differ in the last bit stay apart, or the order of detections, and AP with it, would be another one."""
    near = np.nextafter(np.float32(0.5), np.float32([0, 1]))
    scores = np.sort(np.concatenate([near, np.random.default_rng(0).random(200, dtype=np.float32) ** 4]))[::-1].copy()
    boxes = np.random.default_rng(1).random((len(scores), 4), dtype=np.float32) * np.float32([90, 700, 0, 0]) + np.float32([0, 0, 90, 1400])
    found = replace(result(3, len(scores)), boxes_xyxy=torch.from_numpy(boxes), scores=torch.from_numpy(scores))
    rows = json.loads(write_predictions([found], tmp_path / "p.json").read_text())
    assert np.array_equal(np.array([r["score"] for r in rows], dtype=np.float32), scores)
    assert len({r["score"] for r in rows}) == len(np.unique(scores))
    xywh = np.array([r["bbox"] for r in rows], dtype=np.float32)
    wanted = np.concatenate([boxes[:, :2], (boxes[:, 2:].astype(np.float64) - boxes[:, :2]).astype(np.float32)], axis=1)
    assert np.array_equal(xywh, wanted) and max(len(str(v)) for r in rows for v in r["bbox"]) <= 12
