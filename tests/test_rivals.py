import torch

from ovdense.rivals import settled, with_rivals
from ovdense.structures import Results, Vocabulary
from ovdense.text.wanted import wanted_of

WANTED = wanted_of(["cat", "not: dog"])


def test_with_rivals__background_first_negatives_last():
    assert with_rivals(WANTED, wants_background=True, within=False).asked.names == ("background", "cat", "dog")
    within = with_rivals(WANTED, wants_background=False, within=True)
    assert within.asked.names == ("cat", "dog") and [e.is_background for e in within.asked] == [False, True]
    assert within.names == ("cat",)


def test_settled__a_detection_loses_its_place_to_a_better_negative_only():
    rivals = with_rivals(WANTED, wants_background=False, within=False)
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10], [20, 0, 30, 10], [20, 0, 30, 10], [40, 0, 50, 10], [40, 0, 50, 10], [44, 4, 54, 14]])
    scores, labels = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5, 0.5, 0.4]), torch.tensor([1, 0, 0, 1, 1, 0, 0])
    # beaten by a better dog; stays above a worse one; stays beside an equal one; stays where they overlap by less than half
    found = settled(Results(boxes_xyxy=boxes, scores=scores, labels=labels, names=("cat", "dog"), size_hw=(20, 60)), rivals, [False, False])
    assert found.names == ("cat",) and torch.equal(found.boxes_xyxy, boxes[[2, 5, 6]]) and found.labels.tolist() == [0, 0, 0]
    nothing = settled(Results(boxes_xyxy=boxes[:0], scores=scores[:0], labels=labels[:0], names=("cat", "dog"), size_hw=(20, 60)), rivals, [False, False])
    assert len(nothing) == 0 and nothing.names == ("cat",)


def test_settled__pixels_of_negatives_become_background():
    label = torch.tensor([[0, 1, 2]])
    with_background = with_rivals(WANTED, wants_background=True, within=False)
    found = settled(Results.of_label_map(label, with_background.asked.names), with_background, [e.is_background for e in with_background.asked])
    assert found.names == ("background", "cat") and found.label_map_HW.tolist() == [[0, 1, 0]]
    bare = with_rivals(WANTED, wants_background=False, within=False)
    found = settled(Results.of_label_map(torch.tensor([[0, 1, 0]]), bare.asked.names), bare, [False, False])
    assert found.names == ("background", "cat") and found.label_map_HW.tolist() == [[1, 0, 1]]


def test_settled__without_negatives_nothing_changes():
    rivals = with_rivals(wanted_of(Vocabulary.of(["cat"])), wants_background=False, within=False)
    results = Results.of_label_map(torch.zeros(2, 2, dtype=torch.int64), ("cat",))
    assert settled(results, rivals, [False]) is results
