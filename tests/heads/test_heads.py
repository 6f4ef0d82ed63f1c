"""Similarity, pooling, anchors and decoding: exact small cases."""
import math

import pytest
import torch

from ovdense.heads.anchors import decode_deltas, encode_deltas, grid_anchors
from ovdense.heads.decode import select_detections
from ovdense.heads.embedding_head import RowEmbeddingHead, TokenEmbeddingHead
from ovdense.heads.similarity import pool_rows, pool_tokens, row_logits, token_logits
from ovdense.structures import ClassBank


def _bank(rows, classes, num_classes):
    unit = torch.nn.functional.normalize(torch.tensor(rows, dtype=torch.float32), dim=-1)
    return ClassBank(rows_MD=unit, class_of_row_M=torch.tensor(classes), num_classes=num_classes, background_K=torch.zeros(num_classes, dtype=torch.bool))


def test_token_logits__by_hand_and_clamped():
    place, token = torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[3.0, 4.0], [1e6, 0.0]]])
    assert token_logits(place, token, torch.tensor([[0.5, 0.0]]), torch.tensor(2.0)).tolist() == [[[6.0, 50000.0]]]


@pytest.mark.parametrize("how, want", [("mean", 0.5), ("max", 0.8), ("power", math.sqrt(0.8 * 0.2))])
def test_pool_tokens__each_way_by_hand(how, want):
    score = torch.tensor([[[0.8, 0.2, 0.9]]])
    tokens = torch.tensor([[True, True, False], [False, False, False]])
    assert pool_tokens(score, tokens, how)[0, 0].tolist() == pytest.approx([want, 0.0], abs=1e-6)


def test_pool_tokens__no_classes_and_unknown_way():
    assert pool_tokens(torch.rand(1, 4, 3), torch.zeros(0, 3, dtype=torch.bool), "mean").shape == (1, 4, 0)
    with pytest.raises(ValueError, match="got 'median'"):
        pool_tokens(torch.rand(1, 4, 3), torch.zeros(1, 3, dtype=torch.bool), "median")


def test_rows__several_rows_of_a_class_pool_and_negatives_are_left_out():
    bank = _bank([[1, 0], [0, 1], [1, 0], [1, 1]], [0, 0, 1, -1], 2)
    logit = row_logits(torch.tensor([1.0, 0.0]), bank, 0.5)
    assert pool_rows(logit, bank, "max").tolist() == pytest.approx([2.0, 2.0])
    assert pool_rows(logit, bank, "mean").tolist() == pytest.approx([1.0, 2.0])


def test_row_head__permuting_the_vocabulary_permutes_the_maps():
    torch.manual_seed(0)
    rows, order = torch.randn(4, 6).tolist(), [2, 0, 3, 1]
    head, feat = RowEmbeddingHead(), torch.randn(1, 6, 3, 4)
    maps = head(feat, _bank(rows, [0, 1, 2, 3], 4)).scores()
    permuted = head(feat, _bank([rows[i] for i in order], [0, 1, 2, 3], 4)).scores()
    torch.testing.assert_close(permuted, maps[:, order])
    torch.testing.assert_close(maps.sum(1), torch.ones(1, 3, 4))


def test_row_head__widths_that_do_not_fit_are_an_error():
    with pytest.raises(ValueError, match="width 5 cannot be compared with rows of width 2"):
        RowEmbeddingHead()(torch.randn(1, 5, 2, 2), _bank([[1, 0]], [0], 1))
    head = RowEmbeddingHead(in_width=5, row_width=2, activation="sigmoid")
    assert head(torch.randn(1, 5, 2, 2), _bank([[1, 0]], [0], 1)).logit_BKHW.shape == (1, 1, 2, 2)


def test_token_head__starts_at_the_prior():
    head = TokenEmbeddingHead(4, 3, prior=0.01)
    out = head(torch.zeros(1, 2, 3), torch.randn(1, 5, 4), torch.ones(1, 5, dtype=torch.bool))
    torch.testing.assert_close(out.logit_BQL.sigmoid(), torch.full((1, 2, 5), 0.01))


def test_anchors__centres_and_sides_by_hand():
    anchors = grid_anchors([(1, 2), (1, 1)], (8, 16), scale=8.0)
    assert anchors.tolist() == [[-28, -28, 36, 36], [-20, -28, 44, 36], [-56, -56, 72, 72]]


def test_deltas__encode_and_decode_are_inverse_and_growth_is_bounded():
    anchors = grid_anchors([(2, 2)], (8,))
    boxes = torch.tensor([[1.0, 2, 30, 50], [0, 0, 5, 5], [-9, -9, 90, 80], [4, 4, 6, 90]])
    torch.testing.assert_close(decode_deltas(encode_deltas(boxes, anchors), anchors), boxes, atol=1e-4, rtol=1e-4)
    wide = decode_deltas(torch.tensor([0.0, 0, 1000, 0]), anchors[0])
    assert (wide[2] - wide[0]).item() == pytest.approx(64 * 62.5, rel=1e-4)


def test_select__threshold_before_centerness_then_nms_within_a_class():
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10], [0, 0, 10, 10], [50, 50, 60, 60]])
    scores = torch.tensor([[0.9, 0.0], [0.8, 0.0], [0.0, 0.7], [0.06, 0.04]])
    centerness = torch.tensor([1.0, 1.0, 1.0, 0.25])
    box, score, label = select_detections(scores, centerness, boxes, [2, 2], (55, 100))
    # the second box is suppressed by the first; the same box of the other class stays; 0.06 passes, then is multiplied
    assert label.tolist() == [0, 1, 0]
    assert score.tolist() == pytest.approx([math.sqrt(0.9), math.sqrt(0.7), math.sqrt(0.06 * 0.25)])
    assert box[2].tolist() == [50, 50, 60, 55]


def test_select__nothing_above_the_threshold_is_empty():
    box, score, label = select_detections(torch.zeros(3, 2), torch.ones(3), torch.rand(3, 4), [3], (10, 10))
    assert box.shape == (0, 4) and score.shape == label.shape == (0,)


def test_select__caps_per_level_and_in_all():
    n = 6
    boxes = torch.stack([torch.tensor([20.0 * i, 0, 20.0 * i + 10, 10]) for i in range(n)])
    scores = torch.linspace(0.9, 0.4, n)[:, None]
    assert len(select_detections(scores, torch.ones(n), boxes, [3, 3], (10, 200), pre_nms=2)[1]) == 4
    kept = select_detections(scores, torch.ones(n), boxes, [3, 3], (10, 200), max_dets=3)[1]
    assert kept.tolist() == pytest.approx(scores[:3, 0].sqrt().tolist())
