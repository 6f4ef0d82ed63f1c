"""Parity with the published code from token logits to detections and to LVIS's lists, for inputs that a formula makes."""
import json

import numpy as np
import pytest
import torch

from ovdense.evaluation.average_precision import top_per_class
from ovdense.heads.anchors import decode_deltas, grid_anchors
from ovdense.heads.decode import select_detections
from ovdense.heads.similarity import pool_tokens
from tests.golden import matching_seed, rnd, seeds_of

STRIDES = (8, 16, 32, 64, 128)
IMAGE_HW = (256, 320)
SIZES = tuple((-(-IMAGE_HW[0] // s), -(-IMAGE_HW[1] // s)) for s in STRIDES)


@pytest.fixture(scope="module")
def cases(golden_root):
    folder = golden_root / "desco" / "score_aggregation"
    about, expected = json.loads((folder / "cases.json").read_text()), dict(np.load(folder / "outputs.npz"))

    def error(seed):
        return np.abs(aggregated(about["aggregate_alone"], 6, "mean", seed) - expected["od.MEAN"]).max()

    return about, expected, matching_seed(seeds_of(golden_root, "desco", "score_aggregation"), error)


def phrases(positive_map, num_classes):
    """Return (K, 256) bool from {1-based label: tokens}; labels that are not there have no token."""
    tokens_KL = torch.zeros(num_classes, 256, dtype=torch.bool)
    for label, tokens in positive_map.items():
        tokens_KL[int(label) - 1, tokens] = True
    return tokens_KL


def aggregated(case, num_classes, how, seed):
    score = rnd("agg.logits", case["shape"], 2.0, seed=seed).sigmoid()
    return pool_tokens(score, phrases(case["positive_map"], num_classes), how).numpy()


@pytest.mark.parametrize(("name", "num_classes", "how"), [
    ("od.MEAN", 6, "mean"), ("od.MAX", 6, "max"), ("mdetr_v2.MEAN", 12, "mean"), ("mdetr_v2.MAX", 12, "max"), ("mdetr_v2.POWER", 12, "power"),
])
def test_pool_tokens__equals_the_published_code(cases, name, num_classes, how):
    about, expected, seed = cases
    assert np.abs(aggregated(about["aggregate_alone"], num_classes, how, seed) - expected[name]).max() < 1e-5


def detections(key, batch, shift, positive_map, how, max_dets, seed):
    """Return for each image boxes as the release counts pixels (x2 = x1 + width - 1), scores and 1-based labels."""
    counts = [h * w for h, w in SIZES]
    num_classes = max(int(label) for label in positive_map)
    logit = torch.cat([rnd(f"{key}.logits.{i}", (batch, n, 256), 2.0, shift, seed) for i, n in enumerate(counts)], 1)
    delta = torch.cat([rnd(f"{key}.reg.{i}", (batch, 4, *size), seed=seed).flatten(2) for i, size in enumerate(SIZES)], 2).transpose(1, 2)
    centerness = torch.cat([rnd(f"{key}.ctr.{i}", (batch, 1, *size), seed=seed).flatten(1) for i, size in enumerate(SIZES)], 1)
    score = pool_tokens(logit.sigmoid(), phrases(positive_map, num_classes), how)
    boxes = decode_deltas(delta, grid_anchors(SIZES, STRIDES))
    found = []
    for b in range(batch):
        box, value, label = select_detections(score[b], centerness[b].sigmoid(), boxes[b], counts, IMAGE_HW, max_dets=max_dets, published=True)
        found.append((box.numpy() - [0, 0, 1, 1], value.numpy(), label.numpy() + 1))
    return found


def assert_same_detections(ours, boxes, scores, labels):
    """Compare as sets: sorted by score, then label and place."""
    def in_order(box, score, label):
        order = np.lexsort((np.round(box[:, 1]), np.round(box[:, 0]), label, -np.round(score, 4)))
        return box[order], score[order], label[order]

    (box, score, label), (want_box, want_score, want_label) = in_order(*ours), in_order(boxes, scores, labels)
    assert len(score) == len(want_score)
    assert np.abs(score - want_score).max() < 1e-4
    assert (label == want_label).all()
    assert np.abs(box - want_box).max() < 1e-2


@pytest.mark.parametrize("name", ["post_MEAN", "post_MAX", "post_many_candidates"])
def test_select_detections__equals_the_published_code(cases, name):
    about, expected, seed = cases
    case = about[name]
    found = detections(case["random_key"], case["batch"], case["logit_shift"], case["positive_map"], case["score_agg"].lower(),
                       case["detections_per_img"], seed)
    for b, ours in enumerate(found):
        assert_same_detections(ours, *(expected[f"{name}.{b}.{part}"] for part in ("boxes", "scores", "labels")))


def test_lvis_merge__equals_the_published_code(cases):
    about, expected, seed = cases
    case = about["lvis_chunks"]
    grow = np.array(case["original_size_wh"] * 2) / (case["network_size_wh"] * 2)
    all_boxes, all_scores, all_labels, all_images = [], [], [], []
    for image, image_id in enumerate(case["image_ids"]):
        for chunk, positive_map in enumerate(case["positive_maps"]):
            key = f"lvis.img{image}.chunk{chunk}"
            local = {str(n + 1): positive_map[str(c)] for n, c in enumerate(case["chunks"][chunk])}
            [(box, score, label)] = detections(key.replace("img", "").replace("chunk", ""), 1, case["logit_shift"], local, "mean",
                                               case["detections_per_img"], seed)
            label = np.array(case["chunks"][chunk])[label - 1]
            assert_same_detections((box, score, label), *(expected[f"{key}.0.{part}"] for part in ("boxes", "scores", "labels")))
            all_boxes.append(box * grow)
            all_scores.append(score)
            all_labels.append(label)
            all_images.append(np.full(len(score), image_id))
    boxes, scores, labels, images = (np.concatenate(part) for part in (all_boxes, all_scores, all_labels, all_images))
    keep = top_per_class(scores, labels, case["topk_per_category"])
    for category, wanted in case["by_category"].items():
        rows = keep[labels[keep] == int(category)]
        rows = rows[np.argsort(-scores[rows], kind="stable")]
        assert [int(i) for i in images[rows]] == [w["image_id"] for w in wanted]
        assert scores[rows] == pytest.approx([w["score"] for w in wanted], abs=1e-4)
        xywh = np.concatenate([boxes[rows, :2], boxes[rows, 2:] - boxes[rows, :2]], axis=1)
        assert np.abs(xywh - [w["bbox"] for w in wanted]).max() < 2e-2
