"""Referring expressions and PhraseCut: by hand, against a plain second implementation of the published rules, and what is refused."""
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torchvision.ops import generalized_box_iou

from ovdense.evaluation.average_precision import giou_xyxy, iou_xyxy
from ovdense.evaluation.masks import encode_masks, encode_segmentation, pack, union_mask, unpack
from ovdense.evaluation.phrase_cut import PhraseCutMetric, draw_polygons
from ovdense.evaluation.referring import ReferringMetric, is_exact, mask_scores
from tests.evaluation.metric_samples import evaluate, sample

NAMES = ["the expression"]
H, W = 60, 80
BOX, HALF, FAR = (10, 10, 30, 30), (10, 10, 30, 20), (50, 40, 70, 55)


def square(box) -> list[list[float]]:
    x1, y1, x2, y2 = box
    return [[x1, y1, x2, y1, x2, y2, x1, y2]]


def write(tmp_path, boxes_of_image: dict, groups: dict | None = None, **image_fields):
    """Write an MDETR file: one expression an image, `boxes_of_image` xyxy."""
    images = [
        {"id": i, "file_name": "a.jpg", "height": H, "width": W, "caption": "the cat", "dataset_name": (groups or {}).get(i, "refcoco"), **image_fields}
        for i in boxes_of_image
    ]
    annotations = [
        {"id": n, "image_id": i, "category_id": 1, "bbox": [b[0], b[1], b[2] - b[0], b[3] - b[1]], "tokens_positive": [[0, 7]], "segmentation": square(b)}
        for n, (i, b) in enumerate((i, b) for i, found in boxes_of_image.items() for b in found)
    ]
    path = tmp_path / "refs.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "object"}]}))
    return path


def with_masks(s: dict, masks) -> dict:
    return s | {"pred_instances": s["pred_instances"] | {"masks": torch.as_tensor(np.array(masks, dtype=bool).reshape(-1, H, W))}}


def mask_of(box) -> np.ndarray:
    mask = np.zeros((H, W), dtype=bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    return mask


def numbers(metric, samples) -> dict[str, float]:
    return {k.partition("/")[2]: v for k, v in evaluate(metric, samples, NAMES).items()}


def test_giou__by_hand_and_never_above_iou():
    a, b = np.array([[0, 0, 10, 10]]), np.array([[0, 0, 10, 10], [0, 0, 10, 5], [20, 0, 30, 10], [5, 5, 15, 15]])
    # hulls 100, 100, 300, 225; unions 100, 100, 200, 175
    assert giou_xyxy(a, b)[0] == pytest.approx([1, 0.5, -100 / 300, 25 / 175 - 50 / 225])
    boxes = np.random.default_rng(0).random((50, 2, 2)) * 40
    xyxy = np.concatenate([boxes.min(1), boxes.max(1)], axis=1)
    torchvision = generalized_box_iou(torch.from_numpy(xyxy), torch.from_numpy(xyxy)).numpy()
    assert giou_xyxy(xyxy, xyxy) == pytest.approx(torchvision, abs=1e-9)
    assert (giou_xyxy(xyxy, xyxy) <= iou_xyxy(xyxy, xyxy) + 1e-12).all()
    empty = np.array([[3, 3, 3, 9]])
    assert np.isfinite(giou_xyxy(empty, empty)).all()


def test_referring__iou_and_giou_are_two_protocols(tmp_path):
    shifted = (10, 10, 50, 30)
    path = write(tmp_path, {1: [BOX]})
    got = numbers(ReferringMetric(ann_file=path), [sample(1, [shifted], [0.9], [0])])
    assert got["P@1"] == 100 and got["P@1_giou"] == 100, "a larger box around has the same GIoU"
    beside = (20, 15, 40, 35)
    got = numbers(ReferringMetric(ann_file=write(tmp_path, {1: [(10, 10, 40, 40)]})), [sample(1, [beside], [0.9], [0])])
    assert got["P@1"] == 0 == got["P@1_giou"]
    diagonal = (13, 14, 33, 34)
    got = numbers(ReferringMetric(ann_file=write(tmp_path, {1: [BOX]})), [sample(1, [diagonal], [0.9], [0])])
    inter, union, hull = 17 * 16, 800 - 17 * 16, 23 * 24
    assert inter / union > 0.5 > inter / union - (hull - union) / hull
    assert got["P@1"] == 100 and got["P@1_giou"] == 0


def test_referring__the_best_k_by_score_whatever_the_label_and_by_data_set(tmp_path):
    path = write(tmp_path, {1: [BOX], 2: [BOX], 3: [BOX]}, groups={1: "refcoco", 2: "refcoco+", 3: "refcoco+"})
    metric = ReferringMetric(ann_file=path, class_names=["a", "b"])
    samples = [sample(1, [FAR, BOX], [0.2, 0.9], [1, 0]), sample(2, [FAR] * 4 + [BOX], [0.9, 0.8, 0.7, 0.6, 0.5], [0] * 5), sample(3)]
    got = numbers(metric, samples)
    assert [got[f"P@{k}"] for k in (1, 5, 10)] == pytest.approx([100 / 3, 200 / 3, 200 / 3])
    assert (got["P@1_refcoco"], got["P@1_refcoco+"], got["P@5_refcoco+"], got["expressions_refcoco+"]) == (100, 0, 50, 2)
    assert metric.protocol["without_a_detection"] == 1 and "N-acc" not in got and metric.protocol["score_thr"] == "none"


def test_referring__absent_and_several_targets(tmp_path):
    path = write(tmp_path, {1: [BOX], 2: [], 3: [BOX, FAR], 4: []})
    content = json.loads(path.read_text())
    content["annotations"].append({"id": 99, "image_id": 4, "category_id": -1, "bbox": [0, 0, 0, 0], "tokens_positive": []})  # as gRefCOCO writes it
    path.write_text(json.dumps(content))
    samples = [
        sample(1, [BOX, FAR], [0.9, 0.3], [0, 0]),  # exact: the second is below the threshold
        sample(2, [BOX], [0.6], [0]),  # nothing there, nothing answered
        sample(3, [BOX, FAR, BOX], [0.9, 0.8, 0.75], [0, 0, 0]),  # one answer too many
        sample(4, [BOX], [0.7], [0]),  # nothing there, but answered
    ]
    metric = ReferringMetric(ann_file=path)
    got = numbers(metric, samples)
    assert (got["F1"], got["N-acc"], got["false_positives"], got["T-acc"]) == (50, 50, 50, 100)
    assert got["P@1"] == 100 and metric.protocol["expressions_absent"] == 2 and metric.protocol["score_thr"] == 0.7
    assert numbers(ReferringMetric(ann_file=path, score_thr=0.95), samples)["T-acc"] == 0
    none_absent = numbers(ReferringMetric(ann_file=write(tmp_path, {3: [BOX, FAR]})), [samples[2]])
    assert math.isnan(none_absent["N-acc"])


def test_referring__things_named_on_the_way_are_not_meant(tmp_path):
    """CLEVR-Ref+ has boxes of all that an expression names, and says which are final."""
    path = write(tmp_path, {1: [BOX, FAR]})
    content = json.loads(path.read_text())
    for annotation, final in zip(content["annotations"], (0, 1)):
        annotation["isfinal"] = final
    path.write_text(json.dumps(content))
    assert numbers(ReferringMetric(ann_file=path), [sample(1, [BOX, FAR], [0.9, 0.8], [0, 0])])["P@1"] == 0
    assert numbers(ReferringMetric(ann_file=path), [sample(1, [FAR, BOX], [0.9, 0.8], [0, 0])])["P@1"] == 100


def published_f1(answers, targets, measure) -> float:
    """gRefCOCO's rule written out plainly."""
    if not len(targets) or not len(answers):
        return float(len(targets) == len(answers))
    table, hits = measure(answers, targets), 0
    for _ in range(min(table.shape)):
        if table.max() < 0.5:
            break
        i, j = np.argwhere(table == table.max())[0]
        hits += 1
        table[i, :] = table[:, j] = 0.0
    return 2 * hits / (len(answers) + len(targets))


def test_is_exact__equals_the_published_rule():
    rng = np.random.default_rng(2)
    seen = set()
    for _ in range(400):
        targets = rng.integers(0, 3, (rng.integers(0, 4), 4)) * 20.0
        targets[:, 2:] = targets[:, :2] + 10
        answers = np.concatenate([targets, targets])[rng.permutation(2 * len(targets))[: rng.integers(0, 4)]] + rng.normal(0, 1, (1, 4))
        for measure in (iou_xyxy, giou_xyxy):
            exact = is_exact(measure(answers, targets))
            assert exact == (published_f1(answers, targets, measure) >= 1)
            seen.add(exact)
    assert seen == {True, False}


def test_referring__masks_of_the_best(tmp_path):
    path = write(tmp_path, {1: [BOX], 2: [BOX]})
    samples = [with_masks(sample(1, [FAR, BOX], [0.2, 0.9], [0, 0]), [mask_of(FAR), mask_of(HALF)]), with_masks(sample(2), [])]
    got = numbers(ReferringMetric(ann_file=path, masks=True), samples)
    assert got["segm_mIoU"] == pytest.approx(25) and got["segm_cIoU"] == pytest.approx(100 * 200 / 800)
    assert mask_scores(np.array([[0, 0]]))["segm_mIoU"] == 0 and math.isnan(mask_scores(np.array([[0, 0]]))["segm_cIoU"])


@pytest.mark.parametrize(
    ("prediction", "message"),
    [
        (sample(1, [BOX], [0.5], [0]), "pred_instances must have masks to be measured"),
        (with_masks(sample(1, [BOX], [0.5], [0]), [mask_of(BOX)] * 2), r"masks must have the shape \(1, 60, 80\) of the file, got \(2, 60, 80\)"),
        (sample(9), "image 9 must be one of the 1 images"),
    ],
)
def test_referring__wrong_predictions_raise(tmp_path, prediction, message):
    with pytest.raises(ValueError, match=message):
        evaluate(ReferringMetric(ann_file=write(tmp_path, {1: [BOX]}), masks=True), [prediction], NAMES)


def test_referring__a_mask_of_scores_and_a_missing_segmentation_raise(tmp_path):
    path = write(tmp_path, {1: [BOX]})
    soft = sample(1, [BOX], [0.5], [0])
    soft["pred_instances"]["masks"] = torch.rand(1, H, W)
    with pytest.raises(ValueError, match="masks must be bool, got float32; threshold the scores first"):
        evaluate(ReferringMetric(ann_file=path, masks=True), [soft], NAMES)
    content = json.loads(path.read_text())
    del content["annotations"][0]["segmentation"]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="annotations, entry 0: segmentation must be polygons, or an RLE"):
        evaluate(ReferringMetric(ann_file=path, masks=True), [sample(1)], NAMES)


# ---- PhraseCut


def refer_file(tmp_path, instances_of_task: dict):
    path = tmp_path / "refer_test.json"
    path.write_text(json.dumps([{"task_id": t, "image_id": 1, "phrase": "cats", "Polygons": p} for t, p in instances_of_task.items()]))
    return path


def test_phrase_cut__by_hand(tmp_path):
    path = write(tmp_path, {1: [BOX], 2: [BOX, FAR], 3: [BOX]})
    samples = [
        with_masks(sample(1, [BOX, FAR], [0.9, 0.7], [0, 0]), [mask_of(HALF), mask_of(FAR)]),  # 0.7 is not above 0.7
        with_masks(sample(2, [BOX, FAR], [0.9, 0.8], [0, 0]), [mask_of(BOX), mask_of(FAR)]),
        with_masks(sample(3, [BOX], [0.1], [0]), [mask_of(BOX)]),
    ]
    metric = PhraseCutMetric(ann_file=path)
    got = numbers(metric, samples)
    assert got["mIoU"] == pytest.approx(100 * (0.5 + 1 + 0) / 3) and got["phrases"] == 3
    assert got["cIoU"] == pytest.approx(100 * (200 + 700 + 0) / (400 + 700 + 400))
    assert got["P@0.5"] == pytest.approx(100 / 3), "an IoU of 0.5 is not above 0.5"
    assert (got["mIoU_multi"], got["mIoU_single"], got["phrases_many"]) == (100, 25, 0) and math.isnan(got["mIoU_many"])
    assert (got["phrases_middle"], got["phrases_small"]) == (3, 0)
    assert metric.protocol["phrases_without_an_answer"] == 1 and "as one" in metric.protocol["truth"]


def toolkit_iou(polygons, mask) -> float:
    """PhraseCut's iou_polygons_masks written out plainly."""
    drawn = np.zeros((H, W))
    for polygon in polygons:
        if len(polygon) >= 2:
            canvas = Image.new("L", (W, H), 0)
            ImageDraw.Draw(canvas).polygon([(int(x), int(y)) for x, y in polygon], outline=1, fill=1)
            drawn += np.array(canvas)
    both = np.logical_and(drawn > 0, mask).sum()
    return both / ((drawn > 0) | mask).sum() if both else 0.0


def test_phrase_cut__own_file_as_its_toolkit_draws(tmp_path):
    rng = np.random.default_rng(4)
    instances = {f"7__{t}": [[(rng.random((5, 2)) * (W, H)).tolist() for _ in range(rng.integers(1, 3))] for _ in range(rng.integers(1, 3))] for t in range(6)}
    path = write(tmp_path, {i: [BOX] for i in range(6)})
    content = json.loads(path.read_text())
    for image, task in zip(content["images"], instances):
        image["task_id"] = task
    for a in content["annotations"]:
        del a["segmentation"]
    path.write_text(json.dumps(content))
    masks = [rng.random((H, W)) < 0.5 for _ in range(6)]
    samples = [with_masks(sample(i, [BOX], [0.9], [0]), [m]) for i, m in enumerate(masks)]
    metric = PhraseCutMetric(ann_file=path, refer_file=refer_file(tmp_path, instances))
    got = numbers(metric, samples)
    expected = [toolkit_iou([p for instance in of for p in instance], m) for of, m in zip(instances.values(), masks)]
    assert got["mIoU"] == pytest.approx(100 * np.mean(expected)) and 5 < got["mIoU"]
    assert metric.protocol["truth"] == "PhraseCut's polygons, drawn as its toolkit does" and len(metric.protocol["refer_sha256"]) == 12
    assert got["phrases_multi"] == sum(len(of) > 1 for of in instances.values())


def test_phrase_cut__another_release_of_the_own_file_raises(tmp_path):
    path = write(tmp_path, {1: [BOX]}, task_id="7__0")
    with pytest.raises(ValueError, match="image 1 has task_id '7__0', which is not in it"):
        evaluate(PhraseCutMetric(ann_file=path, refer_file=refer_file(tmp_path, {"8__0": []})), [sample(1)], NAMES)


# ---- run lengths


def test_masks__run_lengths_are_pycocotools_own():
    from pycocotools import mask as pycocotools

    rng = np.random.default_rng(0)
    masks = rng.random((5, 31, 17)) < np.array([0, 0.1, 0.5, 0.9, 1])[:, None, None]
    rles = encode_masks(masks)
    assert rles == [{"size": [31, 17], "counts": pycocotools.encode(np.asfortranarray(m.view(np.uint8)))["counts"]} for m in masks]
    assert unpack(*pack(rles), (31, 17)) == rles and unpack(*pack([]), (31, 17)) == []
    assert (union_mask(rles[:3], (31, 17)) == masks[:3].any(0)).all() and not union_mask([], (31, 17)).any()
    polygons = [(rng.random(10) * 30).tolist(), (rng.random(8) * 17).tolist()]
    theirs = pycocotools.merge(pycocotools.frPyObjects(polygons, 31, 17))
    assert encode_segmentation(polygons, (31, 17), "a") == theirs
    assert encode_segmentation(polygons[:1], (31, 17), "a") == pycocotools.frPyObjects(polygons[:1], 31, 17)[0]
    runs = {"size": [31, 17], "counts": [3, 5, 31 * 17 - 8]}
    assert encode_segmentation(runs, (31, 17), "a") == pycocotools.frPyObjects(runs, 31, 17)
    assert encode_segmentation({"size": [31, 17], "counts": theirs["counts"].decode()}, (31, 17), "a") == theirs
    for wrong in ([], {"size": [17, 31], "counts": "a"}, None):
        with pytest.raises(ValueError, match="^annotation 7: segmentation must "):
            encode_segmentation(wrong, (31, 17), "annotation 7")


def test_draw_polygons__a_point_is_nothing_and_outlines_are_inside():
    assert not draw_polygons([[[3, 3]]], (10, 10)).any()
    assert draw_polygons([[[2, 2], [5, 2], [5, 5], [2, 5]]], (10, 10)).sum() == 16
