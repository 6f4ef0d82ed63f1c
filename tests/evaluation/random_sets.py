"""Data sets and detections for comparing evaluators: real annotations with noise added, and small random ones."""
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ovdense.evaluation.masks import encode_segmentation, union_mask


def fixture_of(content: dict, num_images: int, seed: int, *, federated: bool) -> dict:
    """Return `num_images` images of a real file with some annotations made crowds (COCO) or ignored (LVIS) or of area 0, and some images emptied."""
    rng = np.random.default_rng(seed)
    images = content["images"][:num_images]
    emptied = {i["id"] for i in images if rng.random() < 0.1}
    kept = {i["id"] for i in images} - emptied
    annotations = []
    for n, a in enumerate((a for a in content["annotations"] if a["image_id"] in kept), 1):
        marked = {"ignore": int(rng.random() < 0.1)} if federated else {"iscrowd": int(a.get("iscrowd") or rng.random() < 0.05)}
        annotations.append({**a, "id": n, **marked, "area": a["area"] if rng.random() < 0.95 else 0})
    return {"images": images, "annotations": annotations, "categories": content["categories"]}


def jittered(content: dict, seed: int, false_per_image: int, *, masks: bool) -> list[dict]:
    """Return data samples: true objects moved, repeated, mislabelled and flattened, wrong ones, none in the last image; scores of one decimal: many ties."""
    rng = np.random.default_rng(seed)
    used = sorted({a["category_id"] for a in content["annotations"]})
    label = {c["id"]: k for k, c in enumerate(content["categories"])}
    of_image: dict[int, list[dict]] = {}
    for a in content["annotations"]:
        of_image.setdefault(a["image_id"], []).append(a)
    out = []
    for image in content["images"]:
        h, w = image["height"], image["width"]
        rows, found = [], []
        silent = image is content["images"][-1]
        for a in () if silent else of_image.get(image["id"], []):
            truth = union_mask([encode_segmentation(a["segmentation"], (h, w), "truth")], (h, w)) if masks else None
            for _ in range(rng.integers(0, 3)):
                x, y, bw, bh = a["bbox"]
                dx, dy = (rng.normal(0, 0.06, 2) * (bw, bh)).tolist()
                k = label[a["category_id"]] if rng.random() < 0.85 else label[int(rng.choice(used))]
                flat = rng.random() < 0.05
                width = 0 if flat else bw * rng.uniform(0.9, 1.1)
                rows.append(((x + dx, y + dy, x + dx + width, y + dy + bh), round(rng.random(), 1), k))
                found.append(np.roll(truth, (int(dy), int(dx)), (0, 1)) & (not flat) if masks else None)
        for _ in range(0 if silent else false_per_image):
            x, y, bw, bh = rng.random(4) * (w - 20, h - 20, 120, 120)
            k = label[int(rng.choice(used))] if rng.random() < 0.7 else int(rng.integers(len(label)))
            rows.append(((x, y, x + bw + 1, y + bh + 1), round(0.7 * rng.random(), 1), k))
            box = np.zeros((h, w), dtype=bool)
            box[int(y) : int(y + bh) + 1, int(x) : int(x + bw) + 1] = True
            found.append(box)
        out.append(data_sample(image["id"], rows, found if masks else None, (h, w)))
    return out


def data_sample(image_id: int, rows: Sequence, masks: Sequence[np.ndarray] | None, size_hw: tuple[int, int]) -> dict:
    """Return one data sample of (xyxy, score, label) rows and their masks."""
    boxes, scores, labels = ([r[n] for r in rows] for n in range(3))
    instances = {
        "bboxes": torch.tensor(np.array(boxes, dtype=np.float32).reshape(-1, 4)),
        "scores": torch.tensor(np.array(scores, dtype=np.float32)),
        "labels": torch.tensor(np.array(labels, dtype=np.int64)),
    }
    if masks is not None:
        instances["masks"] = torch.from_numpy(np.array(masks, dtype=bool).reshape(-1, *size_hw))
    return {"img_id": image_id, "ori_shape": size_hw, "pred_instances": instances}


def official_numbers(ann_file: Path, results_file: Path, kind: str, *, federated: bool, cap: int) -> dict[str, float]:
    """Return what the official tool prints, in percent and nan for its -1, reading both files itself. `cap`: LVIS's per image, -1 for none."""
    if federated:
        from ovdense.evaluation.reference import import_lvis

        lvis = import_lvis()
        truth = lvis.LVIS(str(ann_file))
        evaluator = lvis.LVISEval(truth, lvis.LVISResults(truth, str(results_file), max_dets=cap), kind)
        evaluator.run()
        named = {name.partition("@")[0]: value for name, value in evaluator.get_results().items()}
    else:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        truth = COCO(str(ann_file))
        evaluator = COCOeval(truth, truth.loadRes(str(results_file)), kind)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
        named = dict(zip("AP AP50 AP75 APs APm APl AR1 AR10 AR100 ARs ARm ARl".split(), evaluator.stats))
    return {name: float("nan") if value == -1 else 100 * float(value) for name, value in named.items()}


def write(path: Path, content: dict) -> Path:
    path.write_text(json.dumps(content))
    return path
