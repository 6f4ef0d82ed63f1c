"""Small annotation files, predictions and noise for the tests of metrics."""
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch


def sample(img_id: object, boxes: Sequence = (), scores: Sequence[float] = (), labels: Sequence[int] = ()) -> dict:
    """Return one data sample as MMEngine's evaluator hands it to a metric."""
    instances = {
        "bboxes": torch.tensor(np.array(boxes, dtype=np.float32).reshape(-1, 4)),
        "scores": torch.tensor(list(scores), dtype=torch.float32),
        "labels": torch.tensor(list(labels), dtype=torch.int64),
    }
    return {"img_id": img_id, "ori_shape": (200, 200), "pred_instances": instances}


Objects = dict[int, list[tuple[str, Sequence[float]]]]


def write_lvis(path: Path, objects: Objects, categories: list[dict], **lists: dict[int, list[str]]) -> Path:
    """Write an LVIS file: per image id its (category name, xyxy box); `neg` and `not_exhaustive`: names per image id."""
    id_of = {c["name"]: n for n, c in enumerate(categories, 1)}
    annotations = [
        {"image_id": i, "category_id": id_of[name], "bbox": [b[0], b[1], b[2] - b[0], b[3] - b[1]], "area": (b[2] - b[0]) * (b[3] - b[1])}
        for i, named in objects.items()
        for name, b in named
    ]
    images = [
        {
            "id": i,
            "height": 200,
            "width": 200,
            "neg_category_ids": [id_of[n] for n in lists.get("neg", {}).get(i, ())],
            "not_exhaustive_category_ids": [id_of[n] for n in lists.get("not_exhaustive", {}).get(i, ())],
        }
        for i in objects
    ]
    content = {
        "images": images,
        "annotations": [{"id": n, **a} for n, a in enumerate(annotations)],
        "categories": [{"id": id_of[c["name"]], **c} for c in categories],
    }
    path.write_text(json.dumps(content))
    return path


def evaluate(metric, samples: Sequence[dict], classes: Sequence[str]) -> dict[str, float]:
    """Return what `metric` gives for `samples` of one data set."""
    metric.dataset_meta = {"classes": tuple(classes)}
    for s in samples:
        metric.process(None, [s])
    return metric.evaluate(len(samples))


def truth_as_predictions(content: dict) -> list[dict]:
    """Return the boxes of a COCO or LVIS file (no crowds) as predictions; label k is its k-th category."""
    label = {c["id"]: k for k, c in enumerate(content["categories"])}
    of_image: dict[int, list[dict]] = {i["id"]: [] for i in content["images"]}
    for a in content["annotations"]:
        if not a.get("iscrowd"):
            of_image[a["image_id"]].append(a)
    return [
        sample(
            i,
            [(x, y, x + w, y + h) for x, y, w, h in (a["bbox"] for a in found)],
            [1.0] * len(found),
            [label[a["category_id"]] for a in found],
        )
        for i, found in of_image.items()
    ]


def noisy_predictions(content: dict, seed: int, false_per_image: int) -> list[dict]:
    """Return moved, repeated, mislabelled true boxes and random ones; scores of two decimals, so that many are equal."""
    rng = np.random.default_rng(seed)
    used = sorted({a["category_id"] for a in content["annotations"]})
    label = {c["id"]: k for k, c in enumerate(content["categories"])}
    out = []
    for image in content["images"]:
        rows = []
        for a in content["annotations"]:
            if a["image_id"] == image["id"]:
                x, y, w, h = a["bbox"]
                for _ in range(rng.integers(0, 3)):
                    dx, dy, dw, dh = rng.normal(0, 0.08, 4) * (w, h, w, h)
                    k = a["category_id"] if rng.random() < 0.85 else rng.choice(used)
                    rows.append(((x + dx, y + dy, x + w + dw, y + h + dh), rng.random(), label[k]))
        for _ in range(false_per_image):
            x, y, w, h = rng.random(4) * (image["width"], image["height"], 150, 150)
            k = label[rng.choice(used)] if rng.random() < 0.7 else rng.integers(len(label))
            rows.append(((x, y, x + w + 1, y + h + 1), 0.7 * rng.random(), k))
        boxes, scores, labels = zip(*rows)
        out.append(sample(image["id"], boxes, np.round(scores, 2), labels))
    return out
