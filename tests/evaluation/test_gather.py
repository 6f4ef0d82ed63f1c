"""Records through files, and two gloo processes that give exactly the numbers of one."""
import json
import os
from pathlib import Path

import numpy as np
import pytest
from torch import distributed

from ovdense.evaluation.detection import CocoMetric, LvisMetric
from ovdense.evaluation.gather import in_order, read_records, write_records
from ovdense.evaluation.segmentation import SemanticMetric
from tests.evaluation.random_sets import jittered
from tests.evaluation.test_segmentation_metric import random_samples
from tests.ranks import call_on_ranks


def measure_a_share(folder: str, ann: str, shares: str, broken: str) -> None:
    """Measure this rank's images by each metric, and write the numbers; `shares[k]` says whose image k is, without other ranks all are this one's."""
    os.chdir(folder)
    rank, world = distributed.get_rank(), distributed.get_world_size()
    content = json.loads(Path(ann).read_text())
    names = [c["name"] for c in content["categories"]]
    boxes = jittered(content, seed=3, false_per_image=30, masks=True)
    labels = random_samples(np.random.default_rng(1), 5, images=len(boxes))
    runs = [(LvisMetric(ann_file=ann, iou_types=("bbox", "segm")), boxes, names), (LvisMetric(ann_file=ann, fixed_ap=True), boxes, names),
            (CocoMetric(ann_file=ann), boxes, names), (SemanticMetric(), labels, tuple("abcde"))]  # fmt: skip
    out = {}
    for n, (metric, samples, classes) in enumerate(runs):
        metric.dataset_meta = {"classes": classes}
        mine = [s for s, owner in zip(samples, json.loads(shares)) if world == 1 or owner == rank]
        for s in mine[:-1] if broken == "missing" and world > 1 else mine:
            metric.process(None, [s])
        try:
            numbers = metric.evaluate(len(samples))
        except Exception as error:  # noqa: BLE001  (the test looks at it)
            numbers = {"error": f"{type(error).__name__}: {error}"}
        out[str(n)] = {k: repr(v) for k, v in numbers.items()}
        out[f"protocol{n}"] = metric.protocol.get("most_predicted_in_an_image")
    Path(f"out{rank}.json").write_text(json.dumps(out))


def run(folder: Path, ann: Path, world: int, shares: list[int], broken: str = "") -> list[dict]:
    folder.mkdir()
    call_on_ranks(measure_a_share, str(folder), str(ann), json.dumps(shares), broken, folder=folder, world=world)
    assert not list(folder.glob(".gather_*")), "the shared folder must be gone"
    return [json.loads((folder / f"out{r}.json").read_text()) for r in range(world)]


@pytest.fixture(scope="module")
def small_file(data_root, tmp_path_factory) -> Path:
    content = json.loads((data_root / "lvis_mini/annotations/lvis_v1_val.json").read_text())
    kept = content["images"][:7]
    ids = {i["id"] for i in kept}
    path = tmp_path_factory.mktemp("ann") / "ann.json"
    path.write_text(json.dumps(content | {"images": kept, "annotations": [a for a in content["annotations"] if a["image_id"] in ids]}))
    return path


@pytest.mark.slow
def test_two_processes__give_exactly_the_numbers_of_one(small_file, tmp_path):
    single = run(tmp_path / "one", small_file, 1, [0] * 7)[0]
    assert float(single["0"]["lvis/bbox_AP"]) > 5 and float(single["0"]["lvis/segm_AP"]) > 5 and float(single["3"]["semantic/mIoU"]) > 5
    for name, shares in {"turns": [0, 1] * 3 + [0], "uneven": [0, 1, 1, 1, 1, 1, 1], "empty": [1] * 7}.items():
        for rank, got in enumerate(run(tmp_path / name, small_file, 2, shares)):
            assert {k: v for k, v in got.items() if k.isdigit()} == {k: v for k, v in single.items() if k.isdigit()}, (name, rank)
    ends = run(tmp_path / "missing", small_file, 2, [0, 1] * 3 + [0], "missing")
    assert "ValueError: predictions must cover all 7 images" in ends[0]["0"]["error"]
    assert "RuntimeError: the main process could not compute the metric: ValueError: predictions must cover" in ends[1]["0"]["error"]


def test_records__come_back_as_they_were(tmp_path):
    rng = np.random.default_rng(0)
    records = [
        {"image_id": i, "boxes": rng.random((n, 4)).astype(np.float32), "labels": np.arange(n, dtype=np.int32), "wide": np.zeros((2, n), dtype=np.int64)}
        for i, n in enumerate((3, 0, 1, 0))
    ]
    write_records(tmp_path / "r.npz", records)
    back = read_records(tmp_path / "r.npz")
    assert [sorted(r) for r in back] == [sorted(r) for r in records]
    for a, b in zip(records, back):
        assert a["image_id"] == b["image_id"] and isinstance(b["image_id"], int)
        for key in ("boxes", "labels", "wide"):
            assert (a[key] == b[key]).all() and a[key].dtype == b[key].dtype and a[key].shape == b[key].shape
    write_records(tmp_path / "none.npz", [])
    assert read_records(tmp_path / "none.npz") == []


def test_records__a_file_of_objects_is_refused(tmp_path):
    np.savez(tmp_path / "r.npz", count=np.array(1), **{"scalars/a": np.array([{"run": "me"}], dtype=object)})
    with pytest.raises(ValueError, match="allow_pickle"):
        read_records(tmp_path / "r.npz")


def test_in_order__is_the_data_sets_and_what_was_padded_goes():
    a, b, c = ([{"n": n} for n in part] for part in ((0, 3, 6), (1, 4, 7), (2, 5)))
    assert [r["n"] for r in in_order([a, b, c], 8)] == list(range(8))
    padded = [{"n": n} for n in (2, 5, 0)]  # the sampler fills the last turn from the front
    assert [r["n"] for r in in_order([a, b, padded], 8)] == list(range(8))
    assert in_order([[], []], 3) == [] and [r["n"] for r in in_order([[], a], 9)] == [0, 3, 6]
