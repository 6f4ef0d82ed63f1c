"""The nouns that cross borders: what they hold, and what they refuse."""
import pickle
from dataclasses import replace

import pytest
import torch
from pycocotools import mask as coco_mask

from ovdense.structures import (
    ClassBank,
    ClassEntry,
    FeatureMap,
    ImageTarget,
    PhraseMap,
    Results,
    ScoreMaps,
    TokenizedText,
    TokenLogits,
    Vocabulary,
)

NOUNS = [  # name, noun, why
    ("cat", "cat", "as it is"),
    ("hot_dog", "hot dog", "underscores are blanks"),
    ("bow_(weapon)", "bow", "LVIS's qualifier is cut"),
    ("bow (weapon)", "bow", "with a blank too"),
    ("a man (in red) with a dog", "a man (in red) with a dog", "what stands inside a text is no qualifier"),
    ("monitor_(computer_equipment) computer_monitor", "monitor", "LVIS's one name that goes on behind its qualifier"),
    ("  big   cat ", "big cat", "no double blanks"),
    ("(weapon)", "(weapon)", "a qualifier alone is the name"),
    ("_", "_", "nothing but blanks would be left"),
    ("St. Bernard", "St. Bernard", "case and stops stay"),
]


@pytest.mark.parametrize(("name", "noun", "why"), NOUNS)
def test_class_entry__noun(name, noun, why):
    assert ClassEntry(name=name).noun == noun, why


WRONG_ENTRIES = [
    (dict(name=""), "non-empty string"),
    (dict(name="  "), "non-empty string"),
    (dict(name=3), "non-empty string, got 3"),
    (dict(name="cat", frequency="x"), "class 'cat': frequency must be r, c, f or None, got 'x'"),
    (dict(name="cat", synonyms=["kitty"]), "class 'cat': synonyms must be a tuple"),
    (dict(name="cat", descriptions=("furry", "")), "class 'cat': descriptions must be a tuple of non-empty strings"),
    (dict(name="cat", similar="lynx"), "class 'cat': similar must be a tuple"),
    (dict(name="cat", kind=3), "class 'cat': name and kind must be text.*got the kind 3"),
    (dict(name="cat \ud83d"), r"class 'cat .ud83d': name and kind must be text of whole characters"),  # half an emoji, as JSON can hold it
    (dict(name="cat", descriptions=("furry \ud83d",)), "class 'cat': descriptions must be .* of whole characters"),
]


@pytest.mark.parametrize(("fields", "message"), WRONG_ENTRIES)
def test_class_entry__refuses(fields, message):
    with pytest.raises(ValueError, match=message):
        ClassEntry(**fields)


def test_vocabulary__is_a_sequence_in_order():
    vocabulary = Vocabulary.of(["cat", "dog", "bow_(weapon)"])
    assert len(vocabulary) == 3 and vocabulary.names == ("cat", "dog", "bow_(weapon)")
    assert [entry.name for entry in vocabulary] == ["cat", "dog", "bow_(weapon)"] and vocabulary[-1].noun == "bow"
    assert [vocabulary.index(name) for name in vocabulary.names] == [0, 1, 2]
    assert len(Vocabulary.of(["cat"])) == 1


@pytest.mark.parametrize("other", ["cat", "Cat", "CAT", " cat "])
def test_vocabulary__names_that_clash_are_both_named(other):
    with pytest.raises(ValueError) as caught:
        Vocabulary.of(["cat", "dog", other])
    assert f"{other!r} (class 2) clashes with 'cat' (class 0)" in str(caught.value)


def test_vocabulary__equal_nouns_do_not_clash():
    assert len(Vocabulary.of(["bow_(weapon)", "bow_(ribbon)", "bow"])) == 3


def test_vocabulary__refuses_none_and_one_string():
    with pytest.raises(ValueError, match="at least one class"):
        Vocabulary(())
    with pytest.raises(ValueError, match=r"one string 'cat'; write \['cat'\]"):
        Vocabulary.of("cat")


def test_vocabulary__unknown_name_has_near_ones():
    vocabulary = Vocabulary.of(["zebra", "horse", "house"])
    with pytest.raises(KeyError, match="'hrse' is not in the vocabulary; did you mean 'horse'"):
        vocabulary.index("hrse")
    with pytest.raises(KeyError, match="the first of 3 are"):
        vocabulary.index("xylophone")
    with pytest.raises(KeyError, match="'zebr'.*'zebra'"):
        vocabulary.subset(["horse", "zebr"])


def test_vocabulary__subset_has_its_own_order():
    entries = (ClassEntry(name="cat", kind="animal"), ClassEntry(name="dog"), ClassEntry(name="cow"))
    assert Vocabulary(entries).subset(["cow", "cat"]) == Vocabulary((entries[2], entries[0]))
    with pytest.raises(ValueError, match="at least one class"):
        Vocabulary(entries).subset([])


def test_vocabulary__fingerprint_depends_on_everything_and_nothing_else():
    plain = Vocabulary.of(["cat", "dog"])
    others = [
        Vocabulary.of(["dog", "cat"]),
        Vocabulary.of(["cat"]),
        Vocabulary.of(["cat", "Dog"]),
        *(Vocabulary((ClassEntry(name="cat", **fields), ClassEntry(name="dog"))) for fields in (
            dict(kind="x"), dict(synonyms=("x",)), dict(descriptions=("x",)), dict(similar=("x",)), dict(frequency="r"), dict(is_background=True),
        )),
    ]  # fmt: skip
    assert len({v.fingerprint() for v in [plain, *others]}) == 1 + len(others)
    assert plain.fingerprint() == Vocabulary.of(["cat", "dog"]).fingerprint()


def test_vocabulary__pickles_and_hashes():
    vocabulary = Vocabulary((ClassEntry(name="cat", kind="animal", descriptions=("furry",)), ClassEntry(name="é")))
    again = pickle.loads(pickle.dumps(vocabulary))
    assert again == vocabulary and hash(again) == hash(vocabulary) and again.fingerprint() == vocabulary.fingerprint()


def make_results(scores=(0.9, 0.5, 0.1)) -> Results:
    n = len(scores)
    boxes = torch.tensor([[10.0, 20.0, 30.126, 25.0]]).repeat(n, 1)
    return Results(boxes_xyxy=boxes, scores=torch.tensor(scores), labels=torch.arange(n) % 2, names=("cat", "dog"), size_hw=(40, 50), image_id=7)


def test_results__above_keeps_equal_scores():
    kept = make_results().above(0.5)
    assert kept.scores.tolist() == pytest.approx([0.9, 0.5]) and kept.labels.tolist() == [0, 1]
    assert (kept.names, kept.size_hw, kept.image_id) == (("cat", "dog"), (40, 50), 7)
    assert len(make_results().above(1.0)) == 0 and len(make_results().above(0.0)) == 3


def test_results__inside_cuts_boxes_and_leaves_out_those_that_lie_outside():
    boxes = torch.tensor([[-5.0, -5, 20, 30], [50, 10, 70, 20], [60, 50, 70, 70], [10, 30, 30, 90], [3, 3, 3, 9]])
    masks = torch.zeros(5, 40, 50, dtype=torch.bool)
    masks[3] = True
    found = Results(boxes_xyxy=boxes, scores=torch.arange(5) / 10, labels=torch.zeros(5, dtype=torch.int64), names=("cat",), size_hw=(40, 50),
                    masks_NHW=masks).inside()  # fmt: skip
    assert found.boxes_xyxy.tolist() == [[0, 0, 20, 30], [10, 30, 30, 40]] and found.scores.tolist() == pytest.approx([0, 0.3])
    assert found.masks_NHW.any((1, 2)).tolist() == [False, True] and all(min(row["bbox"][2:]) > 0 for row in found.to_coco())
    label = torch.zeros(40, 50, dtype=torch.int64)
    assert torch.equal(Results.of_label_map(label, ["sky"]).inside().label_map_HW, label)


def test_results__to_coco():
    first, second, _ = make_results().to_coco()
    assert first == {"image_id": 7, "category_id": 0, "category_name": "cat", "bbox": [10.0, 20.0, 20.126, 5.0], "score": 0.9}
    assert (second["category_id"], second["category_name"]) == (1, "dog")


def test_results__empty():
    empty = Results(boxes_xyxy=torch.zeros(0, 4), scores=torch.zeros(0), labels=torch.zeros(0, dtype=torch.long), names=("cat",), size_hw=(4, 4))
    assert len(empty) == 0 and empty.to_coco() == [] and len(empty.above(0.5)) == 0


def test_results__one():
    assert len(make_results((0.5,)).to_coco()) == 1


def bank(rows=((1.0, 0), (0, 1), (0.6, 0.8)), classes=(0, 1, -1), num_classes=2, background=None) -> ClassBank:
    background = torch.zeros(num_classes, dtype=torch.bool) if background is None else background
    return ClassBank(rows_MD=torch.tensor(rows), class_of_row_M=torch.tensor(classes), num_classes=num_classes, background_K=background)


def tokenized(length=3, spans=1, valid=torch.bool) -> TokenizedText:
    return TokenizedText(
        captions=("cat",), ids_BL=torch.zeros(1, 3, dtype=torch.long), valid_BL=torch.ones(1, length, dtype=valid), char_spans=((None, (0, 3), None),) * spans
    )


def target(boxes=2, labels=2, caption=None, spans=()) -> ImageTarget:
    return ImageTarget(
        image_id=1, file_name="a.jpg", size_hw=(4, 5), original_size_hw=(8, 10), boxes_xyxy=torch.zeros(boxes, 4),
        labels=torch.zeros(labels, dtype=torch.long), caption=caption, positive_spans=spans,
    )  # fmt: skip


def results(boxes=1, labels=(0,)) -> Results:
    return Results(boxes_xyxy=torch.zeros(boxes, 4), scores=torch.zeros(1), labels=torch.tensor(labels), names=("cat",), size_hw=(4, 4))


def test_values__that_are_right():
    assert bank().class_of_row_M.tolist() == [0, 1, ClassBank.NEGATIVE]
    assert tokenized().to("cpu").char_spans == ((None, (0, 3), None),)
    assert target(0, 0).caption is None and target(0, 0, "cat").positive_spans == ()
    assert target(caption="a cat", spans=(((2, 5),), ((2, 5),))).positive_spans[1] == ((2, 5),)
    assert PhraseMap(tokens_PL=torch.zeros(0, 5, dtype=torch.bool)).tokens_PL.shape == (0, 5)
    assert FeatureMap(tensor_BCHW=torch.zeros(1, 2, 3, 4), stride=8).stride == 8
    assert TokenLogits(logit_BQL=torch.zeros(1, 2, 3), valid_BL=torch.ones(1, 3, dtype=torch.bool), activation="sigmoid").logit_BQL.ndim == 3


def test_score_maps__activation():
    logit = torch.tensor([0.0, 0.0]).view(1, 2, 1, 1)
    assert ScoreMaps(logit_BKHW=logit, activation="sigmoid").scores().flatten().tolist() == [0.5, 0.5]
    logit = torch.tensor([0.0, 3.0]).log().view(1, 2, 1, 1)
    assert ScoreMaps(logit_BKHW=logit, activation="softmax").scores().flatten().tolist() == [0.0, 1.0]
    three = ScoreMaps(logit_BKHW=torch.zeros(1, 3, 2, 2), activation="softmax").scores()
    assert torch.allclose(three, torch.full_like(three, 1 / 3))


REFUSED = [  # what is made, what the error says
    (lambda: bank(rows=((2.0, 0), (0, 1), (0, 1))), "rows must have length 1, got one that is off by 1"),
    (lambda: bank(classes=(0, 1, 2)), r"classes of rows must lie in -1..1, got 0..2"),
    (lambda: bank(classes=(0, 1, -2)), r"-1..1, got -2..1"),
    (lambda: bank(classes=(0, 0, -1)), r"every class needs a row; classes without one: \[1\]"),
    (lambda: bank(classes=(0, 1)), r"class_of_row_M must have shape \(3,\)"),
    (lambda: bank(rows=(1.0, 0.0, 0.0)), "two dimensions"),
    (lambda: bank(background=torch.zeros(3, dtype=torch.bool)), "background_K"),
    (lambda: PhraseMap(tokens_PL=torch.zeros(2, 3)), "bool matrix, got torch.float32"),
    (lambda: PhraseMap(tokens_PL=torch.zeros(3, dtype=torch.bool)), "bool matrix"),
    (lambda: ScoreMaps(logit_BKHW=torch.zeros(2, 3, 4), activation="sigmoid"), r"shape \(B, K, H, W\), got \(2, 3, 4\)"),
    (lambda: TokenLogits(logit_BQL=torch.zeros(2, 3), valid_BL=torch.zeros(2, 3), activation="sigmoid"), r"shape \(B, Q, L\)"),
    (lambda: TokenLogits(logit_BQL=torch.zeros(1, 2, 3), valid_BL=torch.zeros(1, 2), activation="sigmoid"), r"valid_BL must have shape \(1, 3\)"),
    (lambda: FeatureMap(tensor_BCHW=torch.zeros(2, 3, 4), stride=8), r"shape \(B, C, H, W\)"),
    (lambda: FeatureMap(tensor_BCHW=torch.zeros(1, 2, 3, 4), stride=0), "stride must be at least 1, got 0"),
    (lambda: tokenized(length=4), r"valid_BL must be bool of shape \(1, 3\)"),
    (lambda: tokenized(valid=torch.long), "valid_BL must be bool"),
    (lambda: tokenized(spans=2), "need 1 captions and span lists"),
    (lambda: target(boxes=3), r"boxes_xyxy must have shape \(2, 4\), got \(3, 4\)"),
    (lambda: target(caption="a cat", spans=(((2, 5),),)), "2 boxes need 2 lists of spans, got 1"),
    (lambda: results(boxes=2), r"boxes_xyxy must have shape \(1, 4\)"),
    (lambda: results(labels=(0, 0)), r"labels must have shape \(1,\)"),
    (lambda: results(labels=(1,)), "labels must be below 1, got 1"),
]


@pytest.mark.parametrize(("make", "message"), REFUSED)
def test_values__that_are_wrong_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_results__masks_go_to_coco_and_thresholds_keep_theirs():
    masks = torch.zeros(3, 40, 50, dtype=torch.bool)
    masks[1, 3:9, 4:6] = True
    found = replace(make_results(), masks_NHW=masks)
    row = found.to_coco()[1]
    assert row["segmentation"]["size"] == [40, 50]
    assert (coco_mask.decode(row["segmentation"]) == masks[1].numpy()).all()
    assert found.above(0.5).masks_NHW.shape == (2, 40, 50) and "segmentation" not in make_results().to_coco()[0]


def test_results__of_a_label_map_have_no_boxes():
    found = Results.of_label_map(torch.ones(4, 6, dtype=torch.int64), ("a", "b"), 9)
    assert len(found) == 0 and found.size_hw == (4, 6) and found.to_coco() == [] and found.above(0.5).label_map_HW is found.label_map_HW


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(masks_NHW=torch.zeros(2, 40, 50, dtype=torch.bool)), "masks_NHW must be bool of shape"),
        (dict(masks_NHW=torch.zeros(3, 40, 50)), "masks_NHW must be bool"),
        (dict(label_map_HW=torch.zeros(40, 51, dtype=torch.int64)), "label_map_HW must be int64"),
        (dict(label_map_HW=torch.full((40, 50), 2)), "classes 0..1"),
    ],
)
def test_results__what_does_not_fit(change, message):
    with pytest.raises(ValueError, match=message):
        replace(make_results(), **change)
