"""Asking for one class in four ways."""
import numpy as np
import pytest

from ovdense.structures import ClassEntry, Vocabulary
from ovdense.text.alterations import PART, altered, context_queries, described_classes, is_true_of, reordered, swapped


def shape(noun, **attributes):
    """Return a category whose description says all attributes but "none", as the embedded shapes do."""
    words = [v for v in attributes.values() if v != "none"]
    return {"name": f"{noun}_({'_'.join(words)})", "kind": "shape", "noun": noun, "descriptions": ["; ".join(words)], "attributes": attributes}


SHAPES = [
    shape("ring", size="large", colour="red", part="none"),  # 0
    shape("ring", size="large", colour="blue", part="none"),  # 1
    shape("ring", size="small", colour="red", part="with a tail"),  # 2
    shape("ball", size="small", colour="blue", part="with a tail"),  # 3
    shape("ball", size="large", colour="green", part="none"),  # 4
]


def classes_of(categories):
    entries = (ClassEntry(name=c["name"], kind=c.get("kind"), descriptions=tuple(c.get("descriptions", ()))) for c in categories)
    return described_classes(Vocabulary(tuple(entries)), categories)


def said(entry):
    return entry.noun, set(entry.descriptions[0].split("; "))


def every(make, times=200):
    """Return all distinct results of `make(rng)`."""
    rng = np.random.default_rng(0)
    found = {}
    for _ in range(times):
        made = make(rng)
        entry, attribute = made if isinstance(made, tuple) else (made, None)
        found[frozenset(said(entry)[1])] = attribute
    return found


def test_altered__exactly_one_attribute_and_nothing_of_it_in_the_image():
    classes = classes_of(SHAPES)
    got = every(lambda rng: altered(rng, classes[0], classes, {0, 1}, [2, 3, 4]))
    # blue is in the image; saying "with a tail" is false of a ring without one
    assert got == {
        frozenset({"small", "red"}): "size",
        frozenset({"large", "green"}): "colour",
        frozenset({"large", "red", "with a tail"}): "part",
    }


def test_altered__saying_less_is_no_change():
    classes = classes_of(SHAPES)
    got = every(lambda rng: altered(rng, classes[2], classes, {2}, [0, 1]))
    assert set(got.values()) == {"size", "colour"}, "the only part that can be said is its own"
    assert all("with a tail" in parts for parts in got)


def test_altered__attributes_are_drawn_evenly_whatever_their_number_of_values():
    many = [*SHAPES, *(shape("cube", size="small", colour=c, part="none") for c in ("white", "black", "pink", "grey", "brown", "cyan"))]
    classes = classes_of(many)
    rng = np.random.default_rng(1)
    drawn = [altered(rng, classes[0], classes, {0}, [1])[1] for _ in range(600)]
    assert all(150 < drawn.count(a) < 250 for a in ("size", "colour", "part"))


def test_altered__keeps_noun_kind_and_order():
    classes = classes_of(SHAPES)
    entry, attribute = next(r for r in (altered(np.random.default_rng(s), classes[2], classes, {2}, []) for s in range(50)) if r[1] == "colour")
    assert entry.noun == "ring" and entry.kind == "shape"
    assert entry.descriptions[0].split("; ") == ["small", entry.descriptions[0].split("; ")[1], "with a tail"]


def test_altered__none_when_all_is_in_the_image():
    categories = [shape("ring", colour="red"), shape("ring", colour="blue")]
    classes = classes_of(categories)
    assert altered(np.random.default_rng(0), classes[0], classes, {0, 1}, []) is None


TEXTS = [
    {"name": "cup", "kind": "vessel", "descriptions": ["a handle; white; round"]},
    {"name": "bowl", "kind": "vessel", "descriptions": ["no handle; deep; round"]},
    {"name": "cat", "kind": "animal", "descriptions": ["four legs; fur"]},
    {"name": "dog", "kind": "animal", "descriptions": ["four legs; barks"]},
    {"name": "thing", "descriptions": ["just one"]},
    {"name": "nothing"},
]


def test_altered__without_attributes_one_part_is_of_another_class():
    classes = classes_of(TEXTS)
    got = every(lambda rng: altered(rng, classes[0], classes, {0}, [1]))
    own = {"a handle", "white", "round"}
    assert set(got.values()) == {PART}
    assert {(*(own - parts), *(parts - own)) for parts in got} == {(a, b) for a in own for b in ("no handle", "deep")}


def test_altered__without_attributes_says_nothing_that_is_there():
    classes = classes_of(TEXTS)
    got = every(lambda rng: altered(rng, classes[2], classes, {2, 3}, [0]))
    assert all("barks" not in parts for parts in got)
    assert altered(np.random.default_rng(0), classes[4], classes, {4}, [0]) is None, "a single part would be the whole description"


def test_swapped__another_class_with_two_differences_and_nothing_there():
    classes = classes_of(SHAPES)
    got = every(lambda rng: swapped(rng, classes[0], classes, {0}, [1, 2, 3, 4]))
    assert set(got) == {frozenset({"small", "red", "with a tail"}), frozenset({"small", "blue", "with a tail"})}
    got = every(lambda rng: swapped(rng, classes[0], classes, {0}, [1]))
    assert set(got) == {frozenset({"large", "blue"})}, "one difference where there is no better"
    assert swapped(np.random.default_rng(0), classes[0], classes, {0, 1}, [1]) is None


def test_swapped__texts():
    classes = classes_of(TEXTS)
    entry = swapped(np.random.default_rng(0), classes[2], classes, {2}, [0, 1])
    assert entry.noun == "cat" and entry.kind == "animal" and entry.descriptions[0] in ("a handle; white; round", "no handle; deep; round")
    assert swapped(np.random.default_rng(0), classes[2], classes, {2}, [3]) is None, "a dog has four legs too"


def test_reordered__the_same_parts():
    classes = classes_of(TEXTS)
    for seed in range(20):
        entry = reordered(np.random.default_rng(seed), classes[0])
        parts = entry.descriptions[0].split("; ")
        assert sorted(parts) == sorted(classes[0].parts) and tuple(parts) != classes[0].parts
    assert reordered(np.random.default_rng(0), classes[4]) is None


def test_is_true_of__what_is_not_said_may_be_anything():
    small_red_tail = classes_of(SHAPES)[2]
    assert is_true_of({"size": "small", "colour": "red"}, "ring", small_red_tail)
    assert not is_true_of({"size": "small", "colour": "blue"}, "ring", small_red_tail)
    assert not is_true_of({"size": "small"}, "ball", small_red_tail)


def test_context_queries__words_come_from_absent_classes_of_the_kind():
    classes = classes_of(TEXTS)
    for seed in range(30):
        q = context_queries(np.random.default_rng(seed), 2, classes, [2], absent=[0, 3])
        assert q.kept is classes[2].entry and q.attribute == PART
        assert "barks" in q.altered.descriptions[0], "of the dog, the absent animal"
        q = context_queries(np.random.default_rng(seed), 0, classes, [0], absent=[2])
        assert q.swapped.descriptions[0] == "four legs; fur", "no vessel is known to be absent"


def test_context_queries__draws_repeat_with_the_seed():
    classes = classes_of(SHAPES)
    a, b = (context_queries(np.random.default_rng(3), 0, classes, [0, 1]) for _ in range(2))
    assert a == b


@pytest.mark.parametrize("attributes", [None, {"colour": "red", "size": "tiny"}])
def test_described_classes__attributes_that_do_not_make_the_description_are_text(attributes):
    category = {"name": "cup", "descriptions": ["red; with a crack"], "attributes": attributes}
    assert classes_of([category])[0].attributes == {}


def test_context_queries__of_the_embedded_shapes():
    """Every class of the embedded data in scenes as they are drawn: all four ways, and one attribute is changed."""
    from ovdense.data.shapes_scene import ATTRIBUTES, plan_scenes, shape_categories

    table = shape_categories()
    categories = [
        {"name": c.name, "kind": "shape", "descriptions": ["; ".join(c.words)], "attributes": dict(zip(ATTRIBUTES, c.values))} for c in table
    ]
    classes = classes_of(categories)
    rng = np.random.default_rng(0)
    for present in plan_scenes(0, "val", 20):
        for k in present:
            q = context_queries(rng, k, classes, present)
            assert None not in (q.altered, q.swapped, q.control)
            mine, new = set(table[k].words), set(q.altered.descriptions[0].split("; "))
            assert len(new - mine) == 1 and len(mine - new) == (0 if table[k].part == "none" and q.attribute == "part" else 1)
            for other in (q.altered, q.swapped):
                words = set(other.descriptions[0].split("; "))
                assert not any(table[p].noun == table[k].noun and words <= set(table[p].words) for p in present)
