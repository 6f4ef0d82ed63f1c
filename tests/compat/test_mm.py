"""Results to mmdet's samples and back."""
import pytest
import torch

from ovdense.compat.mm import from_det_data_sample, to_data_sample, to_det_data_sample
from ovdense.structures import ImageTarget, Results


def _results(n: int = 3) -> Results:
    boxes = torch.tensor([[1.0, 2, 30, 40], [0, 0, 5, 6], [7, 8, 9, 10]])[:n]
    return Results(
        boxes_xyxy=boxes, scores=torch.tensor([0.9, 0.5, 0.1])[:n], labels=torch.tensor([1, 0, 1])[:n],
        names=("cat", "dog"), size_hw=(48, 64), image_id=17,
    )


@pytest.mark.parametrize("n", [3, 1, 0])
def test_round_trip__gives_the_same_results(n):
    results = _results(n)
    sample = to_det_data_sample(results)
    assert type(sample).__name__ == "DetDataSample"
    assert (sample.img_id, sample.ori_shape) == (17, (48, 64))
    assert torch.equal(sample.pred_instances.bboxes, results.boxes_xyxy) and len(sample.pred_instances) == n
    back = from_det_data_sample(sample, results.names)
    assert (back.names, back.size_hw, back.image_id) == (results.names, results.size_hw, 17)
    for field in ("boxes_xyxy", "scores", "labels"):
        assert torch.equal(getattr(back, field), getattr(results, field))


def test_from_sample__sorts_and_takes_box_objects_and_three_sizes():
    from mmdet.structures.bbox import HorizontalBoxes

    sample = to_det_data_sample(_results())
    sample.set_metainfo(dict(ori_shape=(48, 64, 3)))
    instances = sample.pred_instances[torch.tensor([2, 0, 1])]
    instances.bboxes = HorizontalBoxes(instances.bboxes)
    sample.pred_instances = instances
    back = from_det_data_sample(sample, ["cat", "dog"])
    assert torch.equal(back.boxes_xyxy, _results().boxes_xyxy) and back.scores.tolist() == _results().scores.tolist()
    assert back.size_hw == (48, 64) and back.names == ("cat", "dog")


def test_from_sample__says_what_is_missing():
    from mmdet.structures import DetDataSample

    with pytest.raises(ValueError, match="must hold pred_instances"):
        from_det_data_sample(DetDataSample(metainfo=dict(img_id=1, ori_shape=(4, 4))), ["cat"])
    sample = DetDataSample()
    sample.pred_instances = to_det_data_sample(_results()).pred_instances
    with pytest.raises(ValueError, match="'img_id'"):
        from_det_data_sample(sample, ["cat", "dog"])
    with pytest.raises(ValueError, match="labels must be below 1, got 1"):
        from_det_data_sample(to_det_data_sample(_results()), ["cat"])
    del sample.pred_instances.scores
    sample.set_metainfo(dict(img_id=1, ori_shape=(4, 4)))
    with pytest.raises(ValueError, match="must hold bboxes, scores and labels"):
        from_det_data_sample(sample, ["cat", "dog"])


def test_sample__is_read_by_an_mmengine_metric():
    sample = to_det_data_sample(_results()).to_dict()
    assert {"img_id", "ori_shape", "pred_instances"} <= set(sample)
    assert set(sample["pred_instances"]) == {"bboxes", "scores", "labels"}


def test_label_map__becomes_a_seg_data_sample():
    label = torch.arange(6).reshape(2, 3) % 2
    target = ImageTarget(image_id=5, file_name="a", size_hw=(4, 6), original_size_hw=(2, 3), boxes_xyxy=torch.zeros(0, 4),
                         labels=torch.zeros(0, dtype=torch.int64), label_map_HW=label + 1)
    sample = to_data_sample(Results.of_label_map(label, ("a", "b"), 5), target)
    assert type(sample).__name__ == "SegDataSample" and sample.img_id == 5 and sample.ori_shape == (2, 3)
    assert torch.equal(sample.pred_sem_seg.data, label[None]) and torch.equal(sample.gt_sem_seg.data, label[None] + 1)


def test_label_map__a_target_at_the_inputs_size_cannot_be_measured_on():
    target = ImageTarget(image_id=5, file_name="a", size_hw=(4, 6), original_size_hw=(2, 3), boxes_xyxy=torch.zeros(0, 4),
                         labels=torch.zeros(0, dtype=torch.int64), label_map_HW=torch.zeros(4, 6, dtype=torch.int64))
    with pytest.raises(ValueError, match="LoadLabelMap after the resize"):
        to_data_sample(Results.of_label_map(torch.zeros(2, 3, dtype=torch.int64), ("a",)), target)


def test_masks__go_there_and_back():
    found = Results(boxes_xyxy=torch.tensor([[0.0, 0, 1, 1], [0, 0, 2, 2]]), scores=torch.tensor([0.9, 0.5]), labels=torch.tensor([0, 0]), names=("a",),
                    size_hw=(2, 2), masks_NHW=torch.tensor([[[1, 0], [0, 0]], [[1, 1], [1, 1]]], dtype=torch.bool))
    back = from_det_data_sample(to_data_sample(found), ("a",))
    assert torch.equal(back.masks_NHW, found.masks_NHW)
