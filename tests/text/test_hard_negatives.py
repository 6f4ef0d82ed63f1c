"""Altered texts: false in one thing, well-formed, never a paraphrase, and nothing where the rules cannot tell."""
import json
from importlib.resources import files

import numpy as np
import pytest

from ovdense.text.caption_words import lexicon
from ovdense.text.hard_negatives import KINDS, HardNegative, apply_edits, hard_negatives


def altered(text: str, *kinds: str, **options) -> set[str]:
    return {n.text for n in hard_negatives(text, np.random.default_rng(0), kinds=kinds or KINDS, **options)}


@pytest.mark.parametrize(
    "kind, text, expected, why",
    [
        ("exchange", "a dog left of a cat", {"a cat left of a dog"}, "the two nouns around a relation"),
        ("exchange", "An old man is sitting to the left of the red car.", {"The red car is sitting to the left of an old man."}, "phrases, capitals kept"),
        ("exchange", "a photo of a man riding a horse", {"a photo of a horse riding a man"}, "an action has a direction too"),
        ("exchange", "large red ring left of a small disc", {"a small disc left of large red ring"}, "the first thing may come without article"),
        ("exchange", "a dog next to a cat", set(), "the same either way"),
        ("exchange", "a dog left of the dog", set(), "the same thing twice"),
        ("exchange", "two dogs are left of a cat", set(), "the verb would not agree"),
        ("exchange", "two dogs left of a cat", {"a cat left of two dogs"}, "no verb to agree"),
        ("exchange", "a woman with red hair left of the car", set(), "what is left of it, hair or woman?"),
        ("relation", "a dog left of a cat", {"a dog right of a cat"}, "the opposite"),
        ("relation", "a cup above the plate", {"a cup below the plate"}, "the opposite"),
        ("relation", "a cup on the table", {"a cup under the table"}, "the opposite"),
        ("relation", "a cup under the table", {"a cup on the table"}, "the opposite"),
        ("relation", "A man in front of a car", {"A man behind a car"}, "the opposite"),
        ("relation", "Behind a car", {"In front of a car"}, "capitals kept"),
        ("relation", "on the other hand", set(), "no place"),
        ("relation", "a bag that was left behind", set(), "no relation of two things"),
        ("number", "a ring with two handles", {"a ring with three handles", "a ring with four handles"}, "another count, never one of a plural"),
        ("number", "2 wheels", {"3 wheels", "4 wheels"}, "digits stay digits"),
        ("number", "at least two legs", set(), "three legs are at least two"),
        ("number", "part two of the film", set(), "counts nothing"),
        ("number", "a two-handled cup", {"a three-handled cup", "a four-handled cup"}, "compounds"),
        ("number", "a seven-legged bug", {"a three-legged bug", "a four-legged bug", "a ten-legged bug"}, "far enough to be seen"),
        ("number", "a 1.5 litre bottle", set(), "no count"),
        ("size", "a small dog", {"a large dog"}, "little would say the same"),
        ("size", "A LITTLE DOG", {"A LARGE DOG"}, "capitals kept"),
        ("material", "a wooden table", None, "an adjective"),
        ("state", "an open box", {"a closed box"}, "an becomes a"),
        ("state", "a closed box", {"an open box"}, "a becomes an"),
        ("binding", "a red ball and a blue cube", {"a blue ball and a red cube"}, "attributes exchanged"),
        ("binding", "an orange ball and a red cube", {"a red ball and an orange cube"}, "both articles fit"),
        ("binding", "a red and blue ball", set(), "blue and red is the same"),
        ("binding", "a red ball and a blue ball", set(), "the same two balls"),
    ],
)  # fmt: skip
def test_hard_negatives__each_kind(kind, text, expected, why):
    found = altered(text, kind)
    assert (found == expected) if expected is not None else len(found) > 5, why


def test_hard_negatives__colours_differ_and_are_no_synonyms():
    for grey in ("grey", "gray"):
        found = altered(f"a {grey} cat", "colour")
        assert len(found) == 10 and "an orange cat" in found
        assert not {"a grey cat", "a gray cat", "a silver cat", "a orange cat"} & found
    assert altered("a turquoise door", "colour").isdisjoint({"a blue door", "a green door"})
    assert "a red and red flag" not in altered("a red and white flag", "colour")
    assert altered("light blue door", "colour") >= {"dark blue door", "light red door"}


def test_hard_negatives__parts_of_the_same_family_that_are_not_there():
    found = altered("a jug with a handle and two lids", "part")
    assert {"a jug with a spout and two lids", "a jug with a handle and two spouts"} <= found
    assert not any(text.count("handle") > 1 or text.count("lid") > 1 or "wheel" in text for text in found)
    assert altered("a door handle is broken", "part") == set()
    assert "furry; long mane" in altered("furry; long tail", "part")
    assert not any(word in text for text in altered("a lion with a mane, four legs", "part") for word in ("tail", "paw", "claw", "armrest")), "lions have them"


@pytest.mark.parametrize("text", [
    "could be red, blue or green", "made of wood or metal", "a mug without a handle", "it is not red", "New York taxi", "a hot dog on a plate of a size",
    "an orange and a glass of milk", "a black woman", "", "   ", "...", "cat", "worn by a player",
])  # fmt: skip
def test_hard_negatives__leaves_alone_what_is_hedged_negated_or_unclear(text):
    assert altered(text, "colour", "material", "part", "size", "state", "number", "shape", "texture") == set()


def test_hard_negatives__a_hedge_holds_for_its_own_part_only():
    found = altered("could be red; green stem", "colour")
    assert len(found) == 10 and all(text.startswith("could be red; ") and text.endswith(" stem") for text in found)


def test_hard_negatives__adjective_or_noun():
    assert altered("an orange on a plate", "colour") == set() != altered("an orange and white cat", "colour")
    assert "a box made of wood" in altered("a box made of metal", "material")
    assert "a wooden box" in altered("a metal box", "material")
    assert {"a large round red ring"} == altered("a small round red ring", "size")


def test_hard_negatives__span_holds_the_change_and_its_article():
    for text in ("An orange ball left of an old, wooden box with two wheels and a red lid", "a red ball and an orange cube on the table"):
        for negative in hard_negatives(text, np.random.default_rng(0)):
            begin, end = negative.span
            tail = len(negative.text) - end
            assert negative.text[:begin] == text[:begin] and (tail == 0 or negative.text[-tail:] == text[-tail:])
            assert negative.text[begin:end] != text[begin : len(text) - tail]
    spans = {n.text: n.text[slice(*n.span)] for n in hard_negatives("an orange ball", np.random.default_rng(0))}
    assert spans["a red ball"] == "a red"


def test_hard_negatives__every_place_comes_before_any_comes_twice():
    text = "a large red ball with two handles left of a cat"
    all_of_them = hard_negatives(text, np.random.default_rng(3))
    places = len({n.kind for n in all_of_them})
    assert {n.kind for n in all_of_them} == {"size", "colour", "number", "part", "relation"} and len(all_of_them) > 15
    for seed in range(5):
        first = hard_negatives(text, np.random.default_rng(seed), limit=places)
        assert len({n.kind for n in first}) == places
    assert {hard_negatives(text, np.random.default_rng(s), limit=1)[0].kind for s in range(40)} == {n.kind for n in all_of_them}


def test_hard_negatives__same_generator_same_texts():
    text = "a large red ball left of a small blue cube"
    one, two, other = (hard_negatives(text, np.random.default_rng(s), limit=4) for s in (7, 7, 8))
    assert one == two != other
    assert len({n.text for n in hard_negatives(text, np.random.default_rng(0))} | {text}) == len(hard_negatives(text, np.random.default_rng(0))) + 1


def test_hard_negatives__known_texts_are_true_and_so_are_their_words():
    assert "a green parrot" not in altered("a red parrot", "colour", known=["has green wings"])
    assert "a grey parrot" not in altered("a red parrot", "colour", known=["gray beak"])
    assert altered("a dog left of a cat", "exchange", known=["A cat  left of a dog"]) == set()


def test_hard_negatives__real_descriptions_and_captions(data_root):
    """Over everything at hand: no text comes back unchanged, articles fit, and most texts have something to change."""
    content = json.loads((data_root / "descriptions/lvis_v1.description.v1.json").read_text())
    texts = [json.loads(item["gpt3_output"])["description"] for item in content]
    texts += [a["caption"] for a in json.loads((data_root / "coco_mini/annotations/captions_val2017.json").read_text())["annotations"]]
    rng, hits = np.random.default_rng(0), 0
    for text in texts:
        found = hard_negatives(text, rng)
        hits += bool(found)
        assert len({n.text.casefold() for n in found} - {text.casefold()}) == len(found)
        for negative in found:
            for wrong in (" a open ", " a oval", " a orange", " an red", " an green", " an large", " an small"):
                assert wrong not in f" {negative.text.lower()}" or wrong in f" {text.lower()}"
    assert hits > 0.6 * len(texts)


@pytest.mark.parametrize("options, message", [
    (dict(kinds=["color"]), "kinds must be some of colour, .*got .'color'."), (dict(kinds=[]), "got none"), (dict(kinds="colour"), "as a list"),
    (dict(limit=-1), "limit must be at least 0"),
])  # fmt: skip
def test_hard_negatives__wrong_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        hard_negatives("a red ball", np.random.default_rng(0), **options)
    assert hard_negatives("a red ball", np.random.default_rng(0), limit=0) == ()


def test_hard_negative__is_checked():
    with pytest.raises(ValueError, match="span must be non-empty"):
        HardNegative(text="cat", kind="colour", span=(2, 2))
    with pytest.raises(ValueError, match="kind must be one of"):
        HardNegative(text="cat", kind="smell", span=(0, 2))


@pytest.mark.parametrize("text, word, new, expected", [
    ("AN ORANGE CUP", "ORANGE", "RED", "A RED CUP"), ("A RED CUP", "RED", "ORANGE", "AN ORANGE CUP"), ("A red cup", "red", "orange", "An orange cup"),
    ("a used cup", "used", "unused", "an unused cup"), ("an old cup", "old", "used", "a used cup"), ("tuba red", "red", "orange", "tuba orange"),
])  # fmt: skip
def test_apply_edits__articles(text, word, new, expected):
    begin = text.index(word)
    assert apply_edits(text, [(begin, begin + len(word), new)])[0] == expected


def test_word_lists__are_packaged_and_consistent():
    content = json.loads((files("ovdense.text") / "data/hard_negative_words.json").read_text())
    assert content["source"]
    words = lexicon()
    for phrase, opposite in words.relations.items():
        assert phrase != opposite and opposite in words.relations
    for families in words.families_of.values():
        for family in families:
            assert len(family.groups) > 1 and len({g[0] for g in family.groups}) == len(family.groups)
    assert words.lists["needs_noun"] <= set(words.families_of)
    assert len({name for family in words.parts for pair in family for name in pair}) == sum(2 * len(family) for family in words.parts)
