"""A whole test on descriptions with a tiny model: every image asked for its own label space, or for everything."""
import json

import numpy as np
import pytest
import torch
from PIL import Image

from ovdense.api import load_config
from ovdense.data.described import D3Detection, OmniLabelDetection
from ovdense.data.transforms import LoadImage, PackDetection, ResizeShortestEdge
from ovdense.evaluation.d3 import D3Metric
from ovdense.evaluation.omnilabel import OmniLabelMetric
from ovdense.methods.asking import AskedTestLoop
from ovdense.methods.hooks import VocabularyHook
from ovdense.runs import build_runner
from tests.evaluation.test_d3 import content as d3_content
from tests.evaluation.test_d3 import write_info
from tests.evaluation.test_omnilabel import small
from tests.tiny_run import write_config

STEPS = [dict(type=LoadImage), dict(type=ResizeShortestEdge, short_sides=(64,), max_size=96), dict(type=PackDetection)]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Folder with OmniLabel's and D3's small files and a photo of noise for each image."""
    folder, rng = tmp_path_factory.mktemp("asked"), np.random.default_rng(0)
    (folder / "omni.json").write_text(json.dumps(small()))
    (folder / "full.json").write_text(json.dumps(d3_content()))
    write_info(folder / "d3_pkl")
    for name in [i["file_name"] for c in (small(), d3_content()) for i in c["images"]]:
        (folder / name).parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (160, 200, 3), dtype=np.uint8)).save(folder / name)
    return folder


def outcome(data, tmp_path, name, dataset, metric, loop=None, **test):
    """Return numbers, detections per image, and the metric, of a test with a model of fixed random weights."""
    cfg = load_config(write_config(tmp_path, name))
    cfg.work_dir = str(tmp_path / "work")
    cfg.model.test = dict(score_thr=0.0, max_dets=None, chunk_batch=4) | test
    cfg.test_dataloader.dataset = dict(type=dataset, data_root=str(data), transforms=STEPS, image_prefix="", **metric.pop("same"))
    cfg.test_dataloader.batch_size = 1
    cfg.test_evaluator = dict(data_root=str(data), **metric)
    if loop is not None:
        cfg.test_cfg = dict(type=loop)
        cfg.custom_hooks = [h for h in cfg.custom_hooks if h["type"] is not VocabularyHook]
    torch.manual_seed(0)
    runner = build_runner(cfg)
    kept = {}
    evaluator = runner.test_loop.evaluator
    process = evaluator.process

    def spy(data_samples, data_batch):
        kept.update({s.img_id: s.pred_instances for s in data_samples})
        process(data_samples=data_samples, data_batch=data_batch)

    evaluator.process = spy
    return runner.test(), kept, evaluator.metrics[0]


def test_loop__with_one_text_a_caption_asking_less_changes_no_number(data, tmp_path):
    omni = dict(type=OmniLabelMetric)
    everything, all_found, _ = outcome(data, tmp_path / "a", "every", OmniLabelDetection, omni | {"same": dict(ann_file="omni.json")}, max_classes=1)
    own, found, metric = outcome(data, tmp_path / "b", "own", OmniLabelDetection, omni | {"same": dict(ann_file="omni.json")}, AskedTestLoop, max_classes=1)
    assert own == pytest.approx(everything, nan_ok=True)
    asked = {1: [0, 1, 2, 3], 2: [0, 4]}
    for image_id, labels in asked.items():
        assert sorted(found[image_id].labels.unique().tolist()) == labels, "labels of the data set, and no other"
        mine = torch.isin(all_found[image_id].labels, torch.tensor(labels))
        torch.testing.assert_close(found[image_id].scores, all_found[image_id].scores[mine])
    assert metric.protocol["asked_together"] == "the image's own descriptions" and metric.protocol["unasked_detections_left_out"] == 0
    assert metric.protocol["classes"] == 5 and "chunks" not in metric.protocol


def test_loop__with_several_texts_a_caption_it_is_another_question(data, tmp_path):
    def scores(name, loop=None):
        return outcome(data, tmp_path / name, name, OmniLabelDetection, dict(type=OmniLabelMetric, same=dict(ann_file="omni.json")), loop)[1][2]

    every, own = scores("together"), scores("apart", AskedTestLoop)
    assert own.scores.max() != pytest.approx(every.scores[torch.isin(every.labels, torch.tensor([0, 4]))].max().item(), abs=1e-6)


def test_loop__d3_within_scenarios(data, tmp_path):
    metric = dict(type=D3Metric, scenario="intra", same=dict(ann_file="full.json", scenario="intra"))
    got, found, made = outcome(data, tmp_path, "d3", D3Detection, metric, AskedTestLoop, max_classes=1)
    assert set(found[7].labels.tolist()) == {2, 3} and set(found[0].labels.tolist()) == {0, 1}
    assert "d3_intra/AP_abs" in got and made.protocol["scenario"] == "intra"


def test_loop__an_image_that_is_asked_for_nothing(data, tmp_path):
    content = small()
    content["images"].append({"id": 3, "file_name": "set/1.png"})
    path = data / "third.json"
    path.write_text(json.dumps(content))
    _, found, _ = outcome(data, tmp_path, "nothing", OmniLabelDetection, dict(type=OmniLabelMetric, same=dict(ann_file="third.json")), AskedTestLoop)
    assert len(found[3]) == 0 and len(found[1]) > 0


def test_loop__wrong_set_ups_are_errors(data, tmp_path):
    cfg = load_config(write_config(tmp_path, "wrong"))
    cfg.work_dir, cfg.test_cfg = str(tmp_path), dict(type=AskedTestLoop)
    cfg.test_dataloader.dataset = dict(type=OmniLabelDetection, ann_file="omni.json", image_prefix="", data_root=str(data), transforms=STEPS)
    cfg.test_evaluator = dict(type=OmniLabelMetric)
    with pytest.raises(ValueError, match="batch_size must be 1"):
        build_runner(cfg).test()
