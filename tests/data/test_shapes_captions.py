"""Captions of the embedded scenes: every phrase fits one thing only, and its type says why."""
import json

import numpy as np
import pytest

from ovdense.data.grounding import ShapesGrounding, ShapesPhraseGrounding
from ovdense.data.shapes import make_shapes
from ovdense.data.shapes_captions import Thing, caption_of, grounding_file, mention, telling_attributes, telling_relations
from ovdense.data.transforms import LoadImage, PackDetection, RandomFlip


def thing(noun, size, colour, texture, part="none", relations=()):
    return Thing(noun=noun, attributes={"size": size, "colour": colour, "texture": texture, "part": part}, relations=tuple(relations), annotation={})


THINGS = [
    thing("ring", "small", "red", "plain", relations=("left of a blue star", "above a green cube")),
    thing("ring", "large", "red", "striped", "with a tail", relations=("right of a blue star", "above a green cube")),
    thing("star", "small", "blue", "plain"),
    thing("cube", "small", "green", "dotted"),
]


def test_telling__the_smallest_sets_of_attributes_and_the_relations_of_one_thing_alone():
    assert telling_attributes(THINGS, 0) == [("size",), ("texture",)]
    assert set(telling_attributes(THINGS, 1)) == {("size",), ("texture",), ("part",)}
    assert telling_attributes(THINGS, 2) == [()]
    assert telling_relations(THINGS, 0) == ["left of a blue star"]
    assert telling_relations(THINGS, 2) == []
    twins = [thing("ring", "small", "red", "plain"), thing("ring", "small", "red", "plain", "with a tail")]
    assert telling_attributes(twins, 0) == [] and mention(twins, 0, np.random.default_rng(0)) is None


def test_mention__a_relation_has_the_thing_and_its_landmark_as_phrases():
    rng = np.random.default_rng(0)
    found = {m.text: m.phrases for _ in range(40) if (m := mention(THINGS, 0, rng))}
    text = "the ring left of a blue star"
    assert found[text] == ((0, 8, 0, "relation"), (17, 28, 2, "noun"))
    assert all(kind != "noun" for phrases in found.values() for _, _, n, kind in phrases if n == 0)


def test_caption__phrases_are_where_their_words_are_and_things_are_named_once():
    for seed in range(20):
        caption, phrases = caption_of(THINGS, np.random.default_rng(seed))
        assert [caption[b:e] for b, e, *_ in phrases] and len({n for *_, n, _ in phrases}) == len(phrases)
        assert all(THINGS[n].noun in caption[b:e] for b, e, n, _ in phrases)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes_root")
    from ovdense.data import shapes

    make_shapes(folder / f"v{shapes.VERSION}-seed0", 0, 6, 4, num_workers=1)
    return folder


@pytest.fixture(scope="module", autouse=True)
def small(root):
    patch = pytest.MonkeyPatch()
    patch.setattr("ovdense.data.shapes.NUM_TRAIN", 6)
    patch.setattr("ovdense.data.shapes.NUM_VAL", 4)
    yield
    patch.undo()


def test_file__is_a_function_of_the_scenes_and_the_seed(root):
    content = json.loads(next(root.glob("v*/annotations/shapes_val.json")).read_text())
    assert grounding_file(content, "val", 0) == grounding_file(content, "val", 0) != grounding_file(content, "val", 1)


def test_dataset__every_phrase_has_the_box_of_its_noun(root):
    test = ShapesPhraseGrounding(root=str(root))
    scenes = json.loads(next(root.glob("v*/annotations/shapes_val.json")).read_text())
    boxes = {tuple(a["bbox"]): a["noun"] for a in scenes["annotations"]}
    for n in range(len(test)):
        phrases = test.phrases_of_image(test.image_info(n)["image_id"])
        for text, found in zip(phrases.texts, phrases.boxes_xyxy):
            x1, y1, x2, y2 = found[0]
            assert len(found) == 1 and boxes[(x1, y1, x2 - x1, y2 - y1)] in text


def test_dataset__masks_and_flips_keep_words_and_boxes_together(root):
    plain = ShapesGrounding(root=str(root), with_masks=True, transforms=[LoadImage(), PackDetection()])
    flipped = ShapesGrounding(root=str(root), with_masks=True, transforms=[LoadImage(), RandomFlip(prob=1.0, swap_sides=True), PackDetection()])
    sides = 0
    for n in range(len(plain)):
        one, other = plain[n]["target"], flipped[n]["target"]
        assert other.masks_NHW.shape[0] == len(other.labels) and bool((one.masks_NHW.flip(-1) == other.masks_NHW).all())
        swap = {"left": "right", "right": "left"}
        assert other.caption.split() == [swap.get(w, w) for w in one.caption.split()]
        sides += other.caption != one.caption
        for mine, theirs in zip(one.positive_spans, other.positive_spans):
            assert [[swap.get(w, w) for w in one.caption[b:e].split()] for b, e in mine] == [other.caption[b:e].split() for b, e in theirs]
    assert sides
