"""Altered pieces in training captions: negatives that are false of the image, inside the budget, with the spans of the rest kept right."""
import pickle

import numpy as np
import pytest

from ovdense.data.description_queries import DescriptionQueries
from ovdense.data.hard_negative_transform import AddHardNegatives, PieceIndex, add_pieces
from ovdense.structures import ClassEntry, Vocabulary
from ovdense.text.prompts import description_piece
from ovdense.text.tokenizers import embedded_tokenizer


def entry(name, description=None, **more):
    return ClassEntry(name=name, descriptions=(description,) if description else (), **more)


RINGS = Vocabulary((
    entry("ring_(large_red)", "large; red", kind="shape"),
    entry("ring_(large_blue)", "large; blue", kind="shape"),
    entry("ring_(small_red)", "small; red", kind="shape"),
    entry("cat", "furry coat; a long tail. Two green eyes", kind="animal"),
    entry("dog", "furry coat; four paws", kind="animal"),
    entry("thing"),
    *(entry(f"object{n}", f"part {n}", kind="object") for n in range(20)),
))  # fmt: skip
COLOURS_OF_RED = {"orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white", "grey"}


def sample(labels, seed=0, present=(), absent=()):
    n = len(labels)
    return {
        "rng": np.random.default_rng(seed), "boxes_xyxy": np.zeros((n, 4), np.float32), "labels": np.array(labels, dtype=np.int64),
        "present": frozenset(present) | frozenset(labels), "absent": frozenset(absent),
    }  # fmt: skip


def described(labels, seed=0, queries=None, present=(), absent=(), **options):
    """Return the sample after DescriptionQueries, and a copy of it after AddHardNegatives."""
    steps = DescriptionQueries(**{"prob_descriptions": 1.0, **(queries or {})}), AddHardNegatives(**options)
    for step in steps:
        step.bind(RINGS)
    before = steps[0](sample(labels, seed, present, absent))
    return before, steps[1](dict(before))


def said(of: dict) -> list[list[str]]:
    return [[of["caption"][b:e] for b, e in spans] for spans in of["positive_spans"]]


def added(before: dict, after: dict) -> list[str]:
    """Return the pieces that the second caption has more."""
    rest = after["caption"].removeprefix("Detect: ")
    for piece in sorted(PieceIndex(RINGS).split(before["caption"]), key=len, reverse=True):
        assert piece in rest
        rest = rest.replace(piece, "|", 1)
    return [text + ". " for part in rest.split("|") for text in part.split(". ") if text]


def test_add__positive_texts_stay_and_the_altered_ones_are_negative():
    kept_positives = grown = 0
    for seed in range(60):
        before, after = described([0, 3, 3], seed)
        assert said(after) == said(before) and len(after["labels"]) == len(before["labels"])
        kept_positives += bool(said(before))
        if after["caption"] != before["caption"]:
            grown += 1
            assert len(after["caption"]) > len(before["caption"]) and after["caption"].startswith("Detect: ")
    assert kept_positives > 40 and grown >= kept_positives - 5


def test_add__changes_one_thing_of_a_positive_class():
    texts = set()
    for seed in range(80):
        before, after = described([0], seed, num=1, queries=dict(name_prob=1.0))
        texts.update(added(before, after))
    assert {f"ring, a kind of shape, large, {c}. " for c in COLOURS_OF_RED - {"blue"}} <= texts
    # large blue and small red rings are classes that nobody knows to be absent
    assert texts == {f"ring, a kind of shape, large, {c}. " for c in COLOURS_OF_RED - {"blue"}}


def test_add__another_class_is_asked_for_only_where_it_is_known_to_be_absent():
    texts = set()
    for seed in range(60):
        texts.update(added(*described([0], seed, num=8, absent=(2,), queries=dict(name_prob=1.0))))
    assert "ring, a kind of shape, small, red. " in texts and "ring, a kind of shape, large, blue. " not in texts


@pytest.mark.parametrize("where", ["boxes", "present"])
def test_add__nothing_that_is_true_of_the_image(where):
    """A large red ring is asked for; a small red one is there too, with a box (which the caption may drop) or without."""
    labels, present = ([0, 2], ()) if where == "boxes" else ([0], (2,))
    texts = set()
    for seed in range(80):
        texts.update(added(*described(labels, seed, num=9, present=present, absent=(2,) if where == "present" else ())))
    assert len(texts) > 15
    for noun in ("ring, ", ""):
        assert not {f"{noun}a kind of shape, {size}, red. " for size in ("small", "large")} & texts


def test_add__a_description_with_a_full_stop_is_never_torn():
    whole = "furry coat, a long tail. Two green eyes. "
    assert description_piece(RINGS[3], RINGS[3].descriptions[0], False).text.endswith(whole)
    places = set()
    for seed in range(60):
        before, after = described([3], seed, num=3, queries=dict(num_pieces=2))
        if said(after):
            assert whole in after["caption"]
            places.add(after["caption"].index(whole) == before["caption"].index(whole))
    assert places == {True, False}


def test_add__budget_holds():
    count, fuller = embedded_tokenizer().count, 0
    for seed in range(30):
        before, after = described([0, 3, 4], seed, num=8, max_tokens=60, queries=dict(max_tokens=60, num_pieces=3))
        assert count(after["caption"]) <= 60
        fuller += count(after["caption"]) > count(before["caption"])
    assert fuller > 5
    before, after = described([0, 3, 4], 1, max_tokens=1)
    assert after["caption"] == before["caption"]


def test_add__names_only_captions_and_chance():
    before, after = described([0, 3], 1, queries=dict(prob_descriptions=0.0))
    assert after["caption"] == before["caption"] and after["positive_spans"] == before["positive_spans"]
    assert described([0, 3], 1, prob=0.0)[1]["caption"] == described([0, 3], 1)[0]["caption"]
    changed = [before["caption"] != after["caption"] for before, after in (described([0], seed, prob=0.5) for seed in range(60))]
    assert 0.2 < np.mean(changed) < 0.7


def test_add__kinds_are_chosen_and_draws_repeat():
    for seed in range(20):
        before, after = described([4], seed, num=3, kinds=["number"])
        assert all("paws" in text and "four" not in text for text in added(before, after))
        assert described([0, 4], seed)[1]["caption"] == described([0, 4], seed)[1]["caption"]


def test_add__images_without_described_positives_keep_their_caption():
    for labels in ([], [5]):
        before, after = described(labels, 2)
        assert after["caption"] == before["caption"]


def test_add_pieces__shifts_what_follows_and_leaves_what_precedes():
    pieces, spans = ["cat, x. ", "dog, y. "], (((8, 13),), ((16, 21), (8, 13)))
    for seed in range(20):
        caption, moved = add_pieces(np.random.default_rng(seed), "Detect: " + "".join(pieces), pieces, spans, ["new. "], len, 99, 1)
        assert sorted(caption.removeprefix("Detect: ").split(". ")) == ["", "cat, x", "dog, y", "new"]
        assert [[caption[b:e] for b, e in s] for s in moved] == [["cat, "], ["dog, ", "cat, "]]
    assert add_pieces(np.random.default_rng(0), "Detect: ", [], (), ["a. ", "a. "], len, 99, 2) == ("Detect: a. ", ())


def test_add__registered_pickles_and_says_what_is_wrong():
    step = AddHardNegatives()
    step.bind(RINGS)
    again = pickle.loads(pickle.dumps(step))
    queries = DescriptionQueries(prob_descriptions=1.0)
    queries.bind(RINGS)
    assert again(queries(sample([0, 3], 4)))["caption"] == described([0, 3], 4)[1]["caption"]
    with pytest.raises(ValueError, match="made of pieces of the 26 classes, got 'my own text"):
        step({**sample([0]), "caption": "Detect: my own text. ", "positive_spans": ()})
    with pytest.raises(ValueError, match="right after DescriptionQueries"):
        step(sample([0]))
    with pytest.raises(ValueError, match="must know the classes"):
        AddHardNegatives()(sample([0]))
    with pytest.raises(ValueError, match="none of the 2 classes has one"):
        AddHardNegatives().bind(Vocabulary.of(["cat", "dog"]))


@pytest.mark.parametrize(
    "options, message", [(dict(num=0), "num must be"), (dict(prob=2), "prob must"), (dict(kinds=["x"]), "kinds must"), (dict(max_tokens=0), "max_tokens")]
)
def test_add__wrong_settings(options, message):
    with pytest.raises(ValueError, match=message):
        AddHardNegatives(**options)
