"""Context sensitivity: numbers from records, and the tool on a tiny model."""
import json
import math

import numpy as np
import pytest
import torch
from rich.console import Console

from ovdense.evaluation.context import (
    AbsenceRecord,
    ObjectRecord,
    PlaceMatch,
    bootstrap_mean,
    context_sensitivity,
    context_table,
    match_at,
)
from tests.tiny_run import load_script, shapes, write_config

BOX = (0, 0, 10, 10)


def at(iou: float, confidence: float) -> PlaceMatch:
    return PlaceMatch(iou=iou, confidence=confidence)


RECORDS = [
    ObjectRecord(image_id=1, kept=at(0.9, 0.8), altered=at(0.7, 0.2), swapped=at(0, 0), control=at(0.9, 0.7), attribute="size"),
    ObjectRecord(image_id=1, kept=at(0.6, 0.4), altered=at(0.6, 0.6), swapped=at(0.5, 0.1), control=at(0.6, 0.5), attribute="colour"),
    ObjectRecord(image_id=2, kept=at(0, 0), altered=at(0, 0), swapped=None, control=at(0, 0), attribute="colour"),
    ObjectRecord(image_id=3, kept=at(0.5, 0.2), control=None),
]
ABSENT = [AbsenceRecord(image_id=i, way=w, best_confidence=s) for i, w, s in ((1, "altered", 0.3), (1, "altered", 0.29), (2, "swapped", 0.9))]


def report_of(objects=RECORDS, absences=ABSENT, seed=0):
    return context_sensitivity(objects, absences, threshold=0.3, generator=np.random.default_rng(seed), num_resamples=200)


def test_report__by_hand():
    report = report_of()
    assert (report.objects, report.images) == (4, 3)
    assert report.iou_kept == pytest.approx(50) and report.confidence_kept == pytest.approx(35)
    a, s, c = (report.conditions[k] for k in ("altered", "swapped", "control"))
    assert (a.objects, s.objects, c.objects) == (3, 2, 3)
    assert a.iou_change.mean == pytest.approx(100 * (-0.2 + 0 + 0) / 3) and a.confidence_change.mean == pytest.approx(100 * (-0.6 + 0.2 + 0) / 3)
    assert a.kept_first.mean == pytest.approx(50) and a.ties == pytest.approx(100 / 3), "right, wrong, a tie"
    assert s.iou_change.mean == pytest.approx(100 * (-0.9 - 0.1) / 2) and s.confidence_change.mean == pytest.approx(-55) and s.kept_first.mean == 100
    assert c.confidence_change.mean == pytest.approx(0) and c.iou == pytest.approx(50), "of the objects that have a control"
    assert report.by_attribute["colour"].kept_first.mean == pytest.approx(25) and report.by_attribute["size"].objects == 1
    assert report.false_positives["altered"].mean == 50 and report.false_positives["swapped"].mean == 100
    assert report.absent_asked == {"altered": 2, "swapped": 1}
    assert report.found.mean == 50, "two of four kept descriptions reach .3"


def test_report__intervals_repeat_with_the_generator_and_hold_the_mean():
    rng = np.random.default_rng(0)
    objects = [ObjectRecord(image_id=i, kept=at(*rng.random(2)), altered=at(*rng.random(2) / 2)) for i in rng.integers(0, 9, 40).tolist()]
    a, b, c = report_of(objects), report_of(objects), report_of(objects, seed=1)
    assert a.metrics() == pytest.approx(b.metrics(), nan_ok=True, abs=0)
    mine, its = (r.conditions["altered"].confidence_change for r in (a, c))
    assert mine.low < mine.mean < mine.high < 0 and mine.mean == its.mean and mine != its


def test_report__nothing_at_all():
    report = report_of([], [])
    assert report.objects == 0 and math.isnan(report.conditions["altered"].kept_first.mean) and math.isnan(report.false_positives["altered"].low)
    assert report.by_attribute == {}
    Console(width=150, file=open("/dev/null", "w")).print(context_table(report))


def test_report__metrics_and_table():
    report = report_of()
    named = report.metrics()
    assert named["context/altered_kept_first"] == pytest.approx(50) and named["context/altered_size_objects"] == 1
    assert named["context/absent_altered_found"] == 50 and named["context/found_low"] <= named["context/found"]
    console = Console(width=150, color_system=None)
    with console.capture() as capture:
        console.print(context_table(report))
    for part in ("kept", "altered: colour", "swapped", "control", "0.3 or more", "-13.3 [", "50.0 [50.0, 50.0]"):
        assert part in capture.get()


def test_report__bad_arguments():
    with pytest.raises(ValueError, match="threshold"):
        context_sensitivity([], [], threshold=0, generator=np.random.default_rng(0))
    with pytest.raises(ValueError, match="0..1"):
        at(1.2, 0)


@pytest.mark.parametrize(
    ("boxes", "scores", "expected", "reason"),
    [
        ([], [], (0, 0), "no detection"),
        ([(50, 50, 60, 60)], [0.9], (0, 0), "elsewhere"),
        ([(0, 0, 10, 4)], [0.9], (0, 0), "too little overlap"),
        ([(0, 0, 10, 5)], [0.9], (0.5, 0.9), "just enough"),
        ([(0, 0, 10, 6), BOX], [0.9, 0.3], (0.6, 0.9), "the surest, not the nearest"),
        ([(0, 0, 10, 6), BOX], [0.5, 0.5], (1, 0.5), "equally sure: the nearest"),
    ],
)
def test_match_at(boxes, scores, expected, reason):
    match = match_at(np.array(boxes, dtype=np.float32), np.array(scores), np.array(BOX), min_iou=0.5)
    assert (match.iou, match.confidence) == pytest.approx(expected), reason


def test_bootstrap__resamples_images_not_objects():
    """Ten objects in each of two images that are all alike: only three means are possible, where objects would give many."""
    values, images = np.repeat([0.0, 1.0], 10), np.repeat([3, 8], 10)
    got = bootstrap_mean(values, images, np.random.default_rng(0), num_resamples=500)
    assert (got.mean, got.low, got.high) == (50, 0, 100)
    apart = bootstrap_mean(values, np.arange(20), np.random.default_rng(0), num_resamples=500)
    assert 20 < apart.low < 50 < apart.high < 80


def test_bootstrap__of_a_normal_sample_is_the_textbook_interval():
    values = np.random.default_rng(5).normal(0.3, 1, 2000)
    got = bootstrap_mean(values, np.arange(2000), np.random.default_rng(0), num_resamples=2000)
    half = 100 * 1.96 * values.std() / math.sqrt(2000)
    assert got.low == pytest.approx(got.mean - half, abs=0.4) and got.high == pytest.approx(got.mean + half, abs=0.4)


def test_bootstrap__images_of_unequal_numbers_weigh_by_their_objects():
    got = bootstrap_mean(np.array([1.0, 0, 0, 0]), np.array([1, 2, 2, 2]), np.random.default_rng(0), num_resamples=300)
    assert got.mean == 25 and (got.low, got.high) == (0, 100)
    with pytest.raises(ValueError, match="level"):
        bootstrap_mean(np.ones(2), np.arange(2), np.random.default_rng(0), level=1)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A tiny model of random weights: dict(config, checkpoint, data)."""
    from ovdense.api import load_model

    folder = tmp_path_factory.mktemp("context")
    config = write_config(folder, "context")
    torch.manual_seed(0)
    torch.save({"state_dict": load_model(config, device="cpu").state_dict()}, folder / "w.pth")
    return {"config": str(config), "checkpoint": str(folder / "w.pth"), "data": str(shapes(tmp_path_factory)), "folder": folder}


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    monkeypatch.setenv("OVDENSE_DATA", "/nonexistent")


def test_tool__writes_numbers_with_their_protocol_and_repeats_itself(run, capsys):
    main = load_script("tools/context_sensitivity.py").main
    reports = []
    for name in ("a", "b"):
        out = run["folder"] / f"{name}.json"
        arguments = [run["config"], run["checkpoint"], "--data-root", run["data"], "--num-images", "3", "--num-resamples", "50", "--out", str(out)]
        assert main([*arguments, "--min-iou", "0.1", "--threshold", "0.02"]) == 0
        reports.append(json.loads(out.read_text()))
    assert reports[0] == reports[1]
    metrics, protocol = reports[0]["metrics"], reports[0]["protocol"]
    annotations = json.loads((run["folder"] / run["data"] / "annotations" / "shapes_val.json").read_text())["annotations"]
    num_objects = sum(a["image_id"] <= 3 for a in annotations)
    assert metrics["context/objects"] == num_objects == metrics["context/altered_objects"] == metrics["context/control_objects"]
    assert metrics["context/images"] == 3 and 0 < metrics["context/confidence_kept"] < 100
    assert protocol["images_in_file"] == 4 and protocol["absence_threshold"] == 0.02 and protocol["prompt"] == "descriptions"
    printed = capsys.readouterr().out
    assert "kept scores higher" in printed and "absence threshold" in printed


def test_tool__wrong_arguments(run, capsys):
    main = load_script("tools/context_sensitivity.py").main
    for extra, message in (
        (["--threshold", "0"], "--threshold and --min-iou"),
        (["--out", "a.pkl"], "--out must end with .json"),
        (["--num-images", "0"], "--num-images"),
        (["--data-root", "/nowhere"], "--data-root must be an existing folder"),
    ):
        with pytest.raises(SystemExit) as exit_info:
            main([run["config"], run["checkpoint"], *extra])
        assert exit_info.value.code == 2 and message in capsys.readouterr().err


def test_tool__a_data_set_without_descriptions(run, tmp_path, capsys):
    path = tmp_path / "plain.json"
    content = json.loads((run["folder"] / run["data"] / "annotations" / "shapes_val.json").read_text())
    content["categories"] = [{k: c[k] for k in ("id", "name", "frequency")} for c in content["categories"]]
    path.write_text(json.dumps(content))
    with pytest.raises(SystemExit):
        load_script("tools/context_sensitivity.py").main(
            [run["config"], run["checkpoint"], "--data-root", run["data"], "--cfg-options", f"test_dataloader.dataset.ann_file={path}"]
        )
    assert "must have descriptions, none of 120 has one" in capsys.readouterr().err


def test_tool__photos_in_lvis_form_with_written_descriptions(run, data_root, tmp_path):
    """Real photos whose classes have descriptions of plain text: what is altered is a part of it."""
    options = [
        "test_dataloader.dataset.ann_file=lvis_mini/annotations/lvis_v1_val.json",
        "test_dataloader.dataset.image_prefix=coco_mini/val2017",
        "test_dataloader.dataset.description_file=descriptions/lvis_v1.description.v1.json",
    ]
    out = tmp_path / "photos.json"
    arguments = ["--data-root", str(data_root), "--num-images", "2", "--num-resamples", "20", "--out", str(out)]
    assert load_script("tools/context_sensitivity.py").main([run["config"], run["checkpoint"], *arguments, "--cfg-options", *options]) == 0
    metrics = json.loads(out.read_text())["metrics"]
    assert metrics["context/images"] == 2 and 0 < metrics["context/altered_objects"] <= metrics["context/objects"]
