"""mIoU and its family: by hand, equal to mmseg's, with and without background, seen and unseen, merged classes, and what is refused."""
import math

import numpy as np
import pytest
import torch
from mmengine.evaluator import Evaluator
from mmengine.structures import BaseDataElement, PixelData

from ovdense.compat.mmcv_ext import install
from ovdense.evaluation.segmentation import SemanticMetric, class_scores, confusion_matrix, harmonic_mean, summary
from ovdense.registry import METRICS
from ovdense.text.class_maps import load_class_map

ABC = ("a", "b", "c")


def sample(image_id, truth, predicted, **other) -> dict:
    truth, predicted = (torch.as_tensor(np.array(x)) for x in (truth, predicted))
    return {"img_id": image_id, "ori_shape": tuple(truth.shape), "gt_sem_seg": {"data": truth[None]}, "pred_sem_seg": {"data": predicted[None]}, **other}


def evaluate(metric, samples, classes=ABC):
    metric.dataset_meta = {"classes": classes}
    for s in samples:
        metric.process(None, [s])
    return {k.removeprefix("semantic/"): v for k, v in metric.evaluate(len(samples)).items()}


def random_samples(rng, num_classes, images=4, ignored=0.1, unused=()):
    """Return samples of uneven sizes: truth with ignored pixels, predictions that are right about half of the time."""
    allowed = np.array([k for k in range(num_classes) if k not in unused])
    out = []
    for i in range(images):
        h, w = rng.integers(1, 40, 2)
        truth = rng.choice(allowed, (h, w))
        predicted = np.where(rng.random((h, w)) < 0.5, truth, rng.choice(allowed, (h, w)))
        out.append(sample(i, np.where(rng.random((h, w)) < ignored, 255, truth), predicted))
    return out


def test_semantic__by_hand():
    # truth a a a b | b c ?, predicted a a b b | a c c: a 2 of 3 + 1, b 1 of 2 + 1, c 1 of 1
    samples = [sample(1, [[0, 0, 0, 1]], [[0, 0, 1, 1]]), sample(2, [[1, 2, 255]], [[0, 2, 2]])]
    metric = SemanticMetric()
    got = evaluate(metric, samples)
    assert got["mIoU"] == pytest.approx(100 * (2 / 4 + 1 / 3 + 1) / 3)
    assert got["mAcc"] == pytest.approx(100 * (2 / 3 + 1 / 2 + 1) / 3)
    assert got["aAcc"] == pytest.approx(100 * 4 / 6)
    assert got["fwIoU"] == pytest.approx(100 * (3 / 6 * 2 / 4 + 2 / 6 * 1 / 3 + 1 / 6 * 1))
    assert metric.per_class["b"] == pytest.approx({"IoU": 100 / 3, "Acc": 50, "share": 100 / 3})
    assert metric.confusion_KK.tolist() == [[2, 1, 0], [1, 1, 0], [0, 0, 1]]


def test_semantic__absent_classes_are_left_out_but_predicted_ones_are_0():
    assert evaluate(SemanticMetric(), [sample(1, [[0, 0]], [[0, 0]])])["mIoU"] == 100, "b and c occur nowhere"
    got = evaluate(SemanticMetric(), [sample(1, [[0, 0]], [[0, 1]])])
    assert got["mIoU"] == 25 and got["mAcc"] == 50, "b is predicted and absent: IoU 0, no accuracy"
    nothing = evaluate(SemanticMetric(), [sample(1, [[255, 255]], [[0, 1]])])
    assert all(math.isnan(v) for v in nothing.values())


def mmseg_numbers(samples, num_classes) -> dict[str, float]:
    """Return what mmseg's IoUMetric gives, before it rounds to two decimals."""
    install()
    from mmseg.evaluation.metrics import IoUMetric

    areas = [IoUMetric.intersect_and_union(s["pred_sem_seg"]["data"][0], s["gt_sem_seg"]["data"][0], num_classes, 255) for s in samples]
    found = IoUMetric.total_area_to_metrics(*(sum(a) for a in zip(*areas)), ["mIoU"])
    return {"mIoU": 100 * np.nanmean(found["IoU"]), "mAcc": 100 * np.nanmean(found["Acc"]), "aAcc": 100 * float(found["aAcc"])}


@pytest.mark.parametrize("num_classes", [1, 2, 7, 171])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_semantic__equals_mmseg(num_classes, seed):
    rng = np.random.default_rng(seed)
    samples = random_samples(rng, num_classes, unused=(1,) if num_classes > 2 else ())
    got = evaluate(SemanticMetric(), samples, tuple(f"c{k}" for k in range(num_classes)))
    assert {k: got[k] for k in ("mIoU", "mAcc", "aAcc")} == pytest.approx(mmseg_numbers(samples, num_classes), rel=1e-5)


def test_semantic__through_mmengine_equals_mmsegs_metric():
    install()
    from mmseg.evaluation.metrics import IoUMetric

    samples = random_samples(np.random.default_rng(5), 5)
    evaluator = Evaluator([METRICS.build({"type": "SemanticMetric"}), IoUMetric(prefix="mmseg")])
    evaluator.dataset_meta = {"classes": tuple("abcde")}
    for s in samples:
        element = BaseDataElement(metainfo={"img_id": s["img_id"], "ori_shape": s["ori_shape"]})
        element.pred_sem_seg, element.gt_sem_seg = (PixelData(data=s[f]["data"]) for f in ("pred_sem_seg", "gt_sem_seg"))
        evaluator.process([element])
    got = evaluator.evaluate(len(samples))
    for name in ("mIoU", "mAcc", "aAcc"):
        assert round(got[f"semantic/{name}"], 2) == pytest.approx(got[f"mmseg/{name}"], abs=0.011)


def test_semantic__counts_beyond_float32():
    """mmseg sums areas in float32, which loses single pixels above 2**24; counts here are exact."""
    confusion = np.array([[2**26, 1], [0, 1]])
    assert summary(confusion)["aAcc"] == 100 * (2**26 + 1) / (2**26 + 2)
    assert class_scores(confusion)["Acc"][0] < 100


def test_semantic__invariances():
    rng = np.random.default_rng(3)
    samples = random_samples(rng, 6, images=6)
    names = tuple("abcdef")
    whole = evaluate(SemanticMetric(), samples, names)
    assert evaluate(SemanticMetric(), samples[::-1], names) == whole
    order = rng.permutation(6)
    place = np.argsort(order)

    def moved(x):
        return torch.from_numpy(np.where(x.numpy() == 255, 255, place[np.minimum(x.numpy(), 5)]))

    shuffled = [s | {f: {"data": moved(s[f]["data"])} for f in ("gt_sem_seg", "pred_sem_seg")} for s in samples]
    assert evaluate(SemanticMetric(), shuffled, tuple(names[k] for k in order)) == pytest.approx(whole, abs=1e-9)
    metric = SemanticMetric()
    metric.dataset_meta = {"classes": names}
    metric.process(None, samples)
    assert {k.removeprefix("semantic/"): v for k, v in metric.evaluate(len(samples)).items()} == whole, "one batch or many"


def test_semantic__background_three_ways():
    names = ("background", "cat")
    samples = [sample(1, [[0, 0, 0, 1, 1]], [[0, 0, 1, 1, 0]])]
    counted, not_averaged, ignored = (evaluate(SemanticMetric(background=b), samples, names) for b in ("counted", "not averaged", "ignored"))
    assert counted["mIoU"] == pytest.approx(100 * (2 / 4 + 1 / 3) / 2)
    assert not_averaged["mIoU"] == pytest.approx(100 / 3), "the cat on background costs"
    assert ignored["mIoU"] == pytest.approx(50), "the cat on background does not count, the missed one does"
    assert ignored["aAcc"] == pytest.approx(50) and not_averaged["aAcc"] == pytest.approx(60)
    with pytest.raises(ValueError, match="needs a class 'background'"):
        evaluate(SemanticMetric(background="ignored"), [sample(1, [[0]], [[0]])], ("a", "b"))
    with pytest.raises(ValueError, match="background must be one of"):
        SemanticMetric(background="left out")


def test_semantic__seen_unseen_and_harmonic_mean():
    split = {"vocabulary": ["a", "b", "c"], "unseen": ["c"]}
    metric = SemanticMetric(split=split)
    got = evaluate(metric, [sample(1, [[0, 0, 1, 2, 2]], [[0, 0, 1, 2, 1]])])
    assert got["mIoU_seen"] == pytest.approx(75) and got["mIoU_unseen"] == pytest.approx(50)
    assert got["hIoU"] == pytest.approx(60) == pytest.approx(harmonic_mean(75, 50))
    assert metric.protocol["split"] == "class split: 2 seen, 1 unseen"
    assert harmonic_mean(0.0, 0.0) == 0.0 and math.isnan(harmonic_mean(float("nan"), 3.0))
    with pytest.raises(KeyError, match="1 are not: 'c'"):
        evaluate(SemanticMetric(split=split), [sample(1, [[0]], [[0]])], ("a", "b"))


def test_semantic__merged_classes_equal_labels_merged_before():
    """COCO-Stuff's 171 to 27: merging in the metric equals an evaluation of maps that were merged by hand."""
    merge = load_class_map("coco_stuff171_to_27")
    samples = random_samples(np.random.default_rng(0), 171, images=3)
    metric = SemanticMetric(class_map="coco_stuff171_to_27")
    got = evaluate(metric, samples, merge.source.names)
    by_hand = [
        s | {f: {"data": torch.from_numpy(merge(s[f]["data"].numpy()))} for f in ("gt_sem_seg", "pred_sem_seg")} for s in samples
    ]
    assert got == evaluate(SemanticMetric(), by_hand, merge.target.names)
    assert metric.protocol["class_map"] == "coco_stuff171_to_27" and metric.protocol["classes"] == 27 and metric.protocol["classes_predicted"] == 171
    assert set(metric.per_class) == set(merge.target.names)


@pytest.mark.parametrize(
    ("metric", "classes", "samples", "message"),
    [
        (SemanticMetric(class_map="coco_stuff171_to_27"), ABC, [sample(1, [[0]], [[0]])], "must map the 3 classes that are predicted.*it maps 171 classes"),
        (SemanticMetric(class_map="voc21_png"), ABC, [sample(1, [[0]], [[0]])], "it maps pixel values; label files are mapped by the data set"),
        (SemanticMetric(), ABC, [sample(7, [[0, 3]], [[0, 0]])], r"image 7: the truth must lie in 0\.\.2 or 255, got 0\.\.3; is it the class map"),
        (SemanticMetric(), ABC, [sample(7, [[0, 0]], [[0, 3]])], r"image 7: the prediction must lie in 0\.\.2, got 0\.\.3; give the model the vocabulary"),
        (SemanticMetric(), ABC, [sample(7, [[0, 0]], [[0, 255]])], r"the prediction must lie in 0\.\.2, got 0\.\.255"),
        (SemanticMetric(), ABC, [sample(7, [[0, 0]], [[0]])], r"must have the size of the file, \(1, 2\), got \(1, 2\) and \(1, 1\)"),
        (SemanticMetric(), ABC, [sample(7, [[0]], [[0]], ori_shape=(2, 2))], r"size of the file, \(2, 2\), got \(1, 1\)"),
        (SemanticMetric(), ABC, [sample(7, [[0]], [[0.5]])], "pred_sem_seg must be integers of shape"),
        (SemanticMetric(), ABC, [sample(None, [[0]], [[0]])], "img_id must be an integer"),
        (SemanticMetric(), ABC, [{"img_id": 1, "gt_sem_seg": {"data": torch.zeros(1, 1, 1, dtype=torch.int64)}}], "must have pred_sem_seg with 'data'"),
        (SemanticMetric(), ("a", "a"), [sample(1, [[0]], [[0]])], "different names"),
        (SemanticMetric(ignore_index=2), ABC, [sample(1, [[0]], [[0]])], "ignore_index must not be one of the 3"),
        (SemanticMetric(), ABC, [sample(1, [[0]], [[0]])] * 2, "each image must be processed once"),
        (SemanticMetric(), ABC, [], "got none"),
    ],
)  # fmt: skip
def test_semantic__wrong_input_says_why(metric, classes, samples, message):
    with pytest.raises(ValueError, match=message):
        evaluate(metric, samples, classes)


def test_semantic__merged_prediction_that_does_not_count_is_refused():
    content = {"from": list(ABC), "target": ["x"], "classes": {"a": "x", "b": "x", "c": None}}
    assert evaluate(SemanticMetric(class_map=content), [sample(1, [[0, 2]], [[1, 2]])])["mIoU"] == 100, "c is predicted where c is true, which does not count"
    with pytest.raises(ValueError, match="1 pixels are predicted as classes that class map does not count, such as 'c'"):
        evaluate(SemanticMetric(class_map=content), [sample(1, [[0, 2]], [[2, 2]])])


def test_semantic__less_than_the_data_set_raises_unless_partial():
    for partial in (False, True):
        metric = SemanticMetric(allow_partial=partial)
        metric.dataset_meta = {"classes": ABC}
        metric.process(None, [sample(1, [[0]], [[0]])])
        if partial:
            assert metric.evaluate(2)["semantic/mIoU"] == 100 and (metric.protocol["images"], metric.protocol["images_in_set"]) == (1, 2)
        else:
            with pytest.raises(ValueError, match="all 2 images must be processed, got 1"):
                metric.evaluate(2)


def test_semantic__protocol_has_what_the_number_depends_on():
    metric = SemanticMetric(background="not averaged")
    metric.dataset_meta = {"classes": ("background", "cat"), "protocol": {"split_file": "val"}}
    metric.conditions = {"prompt": "names", "templates": 80, "classes": 2, "background": "score below 0.5"}
    metric.process(None, [sample(1, [[0, 1]], [[0, 1]])])
    metric.evaluate(1)
    p = metric.protocol
    assert (p["classes"], p["background"], p["ignore_index"], p["templates"], p["prompt"], p["split_file"]) == (2, "not averaged", 255, 80, "names", "val")
    assert p["model: background"] == "score below 0.5" and "model: classes" not in p
    assert len(p["class_names_sha256"]) == 16 and p["classes_with_truth"] == 2


def test_confusion__empty_and_all_ignored():
    assert confusion_matrix(np.zeros((0, 4), dtype=np.int64), np.zeros((0, 4), dtype=np.int64), 3).tolist() == [[0] * 3] * 3
    assert confusion_matrix(np.full((2, 2), 255), np.zeros((2, 2), dtype=np.int64), 2).sum() == 0
