"""The full-size configs from published files to a number, with a small network in their place: three steps of training, then the test."""
import json
import math
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.runner import Runner
from PIL import Image

from ovdense.data import grounding_builders as builders
from ovdense.data.transforms import LoadImage, PackDetection, ResizeShortestEdge
from ovdense.structures import ClassEntry
from ovdense.text.encoders import BertTextEncoder
from ovdense.vision.backbones import TimmBackbone

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
SIZE = {"height": 70, "width": 90}
OUTLINE = [[10, 10, 40, 10, 40, 50]]


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Return a data root with four photos, and what the builders make of a few lines of each published file."""
    root, rng = tmp_path_factory.mktemp("published"), np.random.default_rng(0)
    names = [f"coco/train2014/COCO_train2014_{n:012d}.jpg" for n in range(4)] + [f"coco/train2017/{n:012d}.jpg" for n in range(4)]
    for name in names + [f"vg/images/{n}.jpg" for n in range(4)]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (70, 90, 3), dtype=np.uint8)).save(root / name)
    files = {}
    coco = {"images": [{"id": n, "file_name": Path(names[n]).name, **SIZE} for n in range(4)],
            "annotations": [{"id": n, "image_id": n, "bbox": [10, 10, 30, 40], "segmentation": OUTLINE} for n in range(4)]}
    for split in ("train", "testA"):
        refs = [{"image_id": n, "ann_id": n, "split": split, "sentences": [{"sent": "leftmost dog"}, {"sent": "the man on the right "}]} for n in range(4)]
        files[f"finetune_refcoco_{split}"] = builders.referring_expressions(refs, coco, split)
    refer = [{"task_id": f"{n}__0", "image_id": n, "phrase": "red car", "instance_boxes": [[10, 10, 30, 40]] * bool(n),
              "Polygons": [[[[10, 10], [40, 10], [40, 50]]]] * bool(n)} for n in range(4)]  # the first means nothing
    files |= dict.fromkeys(("finetune_phrasecut_train", "finetune_phrasecut_test"),
                           builders.phrase_cut(refer, [{"image_id": n, **SIZE} for n in range(4)]))
    questions = {f"q{n}": {"imageId": str(n), "question": "Is the car red?", "answer": "yes", "types": {"semantic": "attr"},
                           "semantic": [{"operation": "select", "argument": "car (1)"}], "annotations": {"question": {}, "answer": {}}} for n in range(4)}
    graphs = {str(n): {**SIZE, "objects": {"1": {"x": 5, "y": 5, "w": 30, "h": 30}}} for n in range(4)}
    known = {"answer_attr": {"unknown": 0, "yes": 4}}
    files |= dict.fromkeys(("gqa_questions_train", "gqa_questions_val"), builders.gqa(questions, graphs, known))
    files["gqa_questions_testdev"] = builders.gqa(questions, None, known, size_of=lambda image: (70, 90))
    labels = {"neg_category_ids": [2], "not_exhaustive_category_ids": []}
    lvis = {"images": [{"id": n, "coco_url": f"http://x/{names[4 + n][5:]}", **labels, **SIZE} for n in range(4)],
            "categories": [{"id": k, "name": name, "frequency": f, "synonyms": [name], "image_count": 4} for k, name, f in
                           ((1, "bow_(weapon)", "f"), (2, "hot_dog", "r"))],
            "annotations": [{"id": n + 1, "image_id": n, "category_id": 1, "bbox": [10, 10, 30, 40], "area": 1200, "segmentation": OUTLINE} for n in range(4)]}
    files |= {"lvis_v1_minival": lvis, "finetune_lvis10_train": builders.lvis_modulation(lvis, clean=lambda name: ClassEntry(name=name).noun)}
    (root / "mdetr_annotations").mkdir()
    for name, content in files.items():
        (root / "mdetr_annotations" / f"{name}.json").write_text(json.dumps(content))
    return root


def small(name, work_dir):
    """Return a config with the network, the images and the length of a test."""
    cfg = Config.fromfile(str(CONFIGS / f"mdetr_{name}.py"))
    strides = (4, 8, 16, 32) if cfg.model.get("masks") else (32,)
    cfg.model.backbone = dict(type=TimmBackbone, name="resnet18", out_strides=strides, norm_frozen=True)
    cfg.model.text_encoder = dict(type=BertTextEncoder, weights=None, frozen=False,
                                  config=dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32))
    cfg.model.transformer = dict(width=128, num_heads=8, encoder_layers=1, decoder_layers=2, ffn_width=32, num_slots=6)
    cfg.load_from, cfg.work_dir, cfg.experiment_name, cfg.train_cfg.max_iters = None, str(work_dir), f"published_{name}", 3
    for loader in (cfg.train_dataloader, cfg.test_dataloader):
        loader.num_workers, loader.persistent_workers = 0, False
        for dataset in loader.dataset.get("datasets", [loader.dataset]):
            dataset.transforms = [dict(type=LoadImage), dict(type=ResizeShortestEdge, short_sides=(64,), max_size=96), dict(type=PackDetection)]
    return cfg


COUNTED = {"refcoco_r101": ("referring/expressions", 8), "phrasecut_r101": ("grounding/phrases", 3), "phrasecut_masks_r101": ("phrasecut/phrases", 4),
           "gqa_r101": ("answers/total", None), "lvis_r101": ("lvis/bbox_AP", None)}


@pytest.mark.slow
@pytest.mark.parametrize("name", COUNTED)
def test_config__trains_and_measures_what_the_builders_make(published, name, tmp_path, monkeypatch):
    monkeypatch.setenv("OVDENSE_DATA", str(published))
    runner = Runner.from_cfg(small(name, tmp_path))
    runner.train()
    assert runner.iter == 3 and not math.isnan(float(runner.message_hub.get_scalar("train/loss").current()))
    found, (key, count) = runner.test(), COUNTED[name]
    assert found[key] == count if count is not None else 0 <= found[key] <= 100
