"""Losses and matching against numbers worked out by hand."""
import math

import pytest
import torch

from ovdense.losses import UNMATCHED, atss_assign, centerness_target, giou, giou_loss, token_focal_loss


def test_focal__one_positive_one_negative_by_hand():
    logit = torch.tensor([[[0.0, math.log(3.0)]]])
    target, valid = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[True, True]])
    # positive at p = 1/2: .25 * (1/2)^2 * ln 2; negative at p = 3/4: .75 * (3/4)^2 * ln 4
    want = 0.25 * 0.25 * math.log(2) + 0.75 * 0.5625 * math.log(4)
    assert token_focal_loss(logit, target, valid).item() == pytest.approx(want, rel=1e-6)


def test_focal__padding_counts_nothing_and_extremes_stay_finite():
    logit = torch.tensor([[[60.0, -60.0, 7.0]]], requires_grad=True)
    target, valid = torch.tensor([[[0.0, 1.0, 1.0]]]), torch.tensor([[True, True, False]])
    loss = token_focal_loss(logit, target, valid)
    loss.backward()
    assert loss.item() == pytest.approx(0.75 * 60 + 0.25 * 60, rel=1e-5)
    assert torch.isfinite(logit.grad).all() and logit.grad[0, 0, 2] == 0


@pytest.mark.parametrize(
    "box, target, want",
    [
        ([0, 0, 2, 2], [0, 0, 2, 2], 1.0),  # the same
        ([0, 0, 2, 2], [1, 0, 3, 2], 2 / 6 - 0 / 6),  # half over each other, the hull is the union
        ([0, 0, 1, 1], [2, 0, 3, 1], 0 - 1 / 3),  # apart: a third of the hull is empty
        ([2, 2, 0, 0], [0, 0, 2, 2], -0.0),  # inverted: a flat box in the corner, nothing shared, hull = target
    ],
)
def test_giou__by_hand(box, target, want):
    assert giou(torch.tensor([box]).float(), torch.tensor([target]).float()).item() == pytest.approx(want, abs=1e-5)


def test_giou_loss__inset_narrows_both_boxes():
    box, target, weight = torch.tensor([[0.0, 0.0, 3.0, 3.0]]), torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([2.0])
    assert giou_loss(box, target, weight).item() == pytest.approx(2 * (1 - 4 / 9), rel=1e-5)
    assert giou_loss(box, target, weight, inset=1.0).item() == pytest.approx(2 * (1 - 1 / 4), rel=1e-5)


def test_centerness__centre_is_one_and_off_centre_by_hand():
    points = torch.tensor([[5.0, 5.0], [2.0, 5.0]])
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0]] * 2)
    assert centerness_target(points, boxes).tolist() == pytest.approx([1.0, math.sqrt(2 / 8)])


def _grid(side=8, stride=8.0, scale=2.0):
    centre = (torch.arange(side) + 0.5) * stride
    y, x = torch.meshgrid(centre, centre, indexing="ij")
    points = torch.stack([x, y], -1).reshape(-1, 2)
    return torch.cat([points - stride * scale / 2, points + stride * scale / 2], -1)


def test_atss__no_boxes_matches_nothing():
    assert (atss_assign(_grid(), [64], torch.zeros(0, 4)) == UNMATCHED).all()


def test_atss__an_anchor_equal_to_the_box_matches_and_outside_ones_never():
    anchors = _grid()
    match = atss_assign(anchors, [64], anchors[[27]])
    assert match[27] == 0
    points = (anchors[:, :2] + anchors[:, 2:]) / 2
    inside = ((points > anchors[27, :2]) & (points < anchors[27, 2:])).all(1)
    assert not (match[~inside] != UNMATCHED).any()


def test_atss__an_anchor_of_two_boxes_takes_the_larger_overlap_and_order_does_not_matter():
    anchors = _grid()
    boxes = torch.stack([anchors[27], anchors[27] + torch.tensor([3.0, 0.0, 3.0, 0.0])])
    match, swapped = atss_assign(anchors, [64], boxes), atss_assign(anchors, [64], boxes.flip(0))
    assert match[27] == 0
    assert torch.equal(torch.where(match == UNMATCHED, match, 1 - match), swapped)
