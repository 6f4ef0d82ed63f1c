"""The embedded data set: what its categories promise, LVIS's form, the same bits, and makings that are interrupted or race."""
import collections
import hashlib
import json
import multiprocessing
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from ovdense.data import shapes, shapes_scene
from ovdense.data.shapes import ensure_shapes, make_shapes, mask_polygons, relations
from ovdense.data.shapes_draw import BODIES, MIN_PART_PX, PALETTE, PARTS, TEXTURES, draw_background, draw_sprite, paste_sprite
from ovdense.data.shapes_scene import ATTRIBUTES, IMAGE_PX, MIN_VISIBLE, NOUNS, ShapeCategory, compose_scene, plan_scenes, shape_categories, sibling_indices
from ovdense.structures import ClassEntry, Vocabulary
from tests.ranks import PATIENCE

NUM_TRAIN, NUM_VAL = 14, 4


def _digests(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


def _category(**changes: str) -> ShapeCategory:
    base = {"noun": "ring", "size": "large", "colour": "red", "texture": "striped", "part": "none", "frequency": "f"}
    return ShapeCategory(index=0, **base | changes)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    return make_shapes(tmp_path_factory.mktemp("shapes") / "set", 3, NUM_TRAIN, NUM_VAL)


@pytest.fixture(scope="module")
def annotation(made) -> dict[str, dict]:
    return {split: json.loads((made / "annotations" / f"shapes_{split}.json").read_text()) for split in ("train", "val")}


# --- categories -----------------------------------------------------------------------------------------------


def test_shape_categories__split_into_frequent_common_and_rare():
    table = shape_categories()
    assert collections.Counter(c.frequency for c in table) == {"f": 48, "c": 40, "r": 32}
    assert collections.Counter(c.noun for c in table if c.frequency == "r") == dict.fromkeys(NOUNS, 4)
    assert [c.index for c in table] == list(range(120))
    Vocabulary(tuple(ClassEntry(name=c.name) for c in table))  # names are unique


def test_shape_categories__rare_are_new_combinations_of_seen_values():
    table, siblings = shape_categories(), sibling_indices()
    seen = {(c.noun, value) for c in table if c.frequency != "r" for value in c.values}
    assert seen == {(noun, value) for noun in NOUNS for values in ATTRIBUTES.values() for value in values}
    for c in table:
        assert len(siblings[c.index]) >= 2
        assert all(table[k].noun == c.noun and len(c.differing(table[k])) == 1 for k in siblings[c.index])
        if c.frequency == "r":
            assert sum(table[k].frequency != "r" for k in siblings[c.index]) >= 2


def test_shape_categories__values_and_distinguishing_attributes_are_spread():
    table, siblings = shape_categories(), sibling_indices()
    for attribute, values in ATTRIBUTES.items():
        counts = collections.Counter(getattr(c, attribute) for c in table)
        assert min(counts.values()) > 0.6 * 120 / len(values)
    differing = collections.Counter(c.differing(table[k])[0] for c in table for k in siblings[c.index])
    assert set(differing) == set(ATTRIBUTES)


def test_shape_categories__are_those_of_this_version():
    """Any change of the table changes every file of the data set: raise shapes.VERSION and this figure together."""
    text = "\n".join(f"{c.name} {c.frequency}" for c in shape_categories())
    assert (shapes.VERSION, hashlib.sha256(text.encode()).hexdigest()[:16]) == (1, "f8763e4c914086c3")


@pytest.mark.parametrize(
    ("category", "name", "definition"),
    [
        pytest.param(
            _category(part="with two handles"),
            "ring_(large_red_striped_with_two_handles)", "a large red striped ring with two handles", id="a part follows the noun",
        ),
        pytest.param(_category(texture="plain"), "ring_(large_red_plain)", "a large red plain ring", id="an absent part is not spoken"),
    ],
)
def test_shape_category__is_named_as_lvis_names(category, name, definition):
    assert (category.name, category.definition) == (name, definition)
    assert ClassEntry(name=category.name).noun == "ring"


def test_shape_category__other_noun_raises():
    with pytest.raises(ValueError, match="one noun"):
        _category().differing(_category(noun="star"))


# --- which categories meet ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1])
def test_plan_scenes__every_image_needs_the_description(seed):
    table, siblings = shape_categories(), sibling_indices()
    for split, number in (("train", shapes.NUM_TRAIN), ("val", shapes.NUM_VAL)):
        plan = plan_scenes(seed, split, number)
        assert len(plan) == number
        for categories in plan:
            assert 4 <= len(categories) <= 7 and len(set(categories)) == len(categories)
            assert any(b in siblings[a] for a in categories for b in categories)
        count = collections.Counter(k for categories in plan for k in categories)
        of = {f: [count[c.index] for c in table if c.frequency == f] for f in "fcr"}
        if split == "train":
            assert max(of["r"]) == 0 and min(of["c"]) >= 10 and np.mean(of["f"]) > 2 * np.mean(of["c"])
        else:
            assert min(count[c.index] for c in table) >= 5


def test_plan_scenes__first_images_do_not_depend_on_how_many_follow():
    assert plan_scenes(5, "train", 20)[:8] == plan_scenes(5, "train", 8)
    assert plan_scenes(5, "train", 0) == []
    assert plan_scenes(5, "train", 8) != plan_scenes(6, "train", 8)


# --- drawing --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noun", NOUNS)
@pytest.mark.parametrize("size", [36.0, 104.0])
def test_draw_sprite__body_has_its_extent(noun, size):
    sprite = draw_sprite(noun=noun, colour="red", texture="plain", part="none", size=size, angle=0.0, gain=1.0)
    assert max(sprite.alpha.shape) == pytest.approx(size, rel=0.1, abs=3)
    assert sprite.part_alpha.max() == 0


@pytest.mark.parametrize("part", PARTS[1:])
@pytest.mark.parametrize("noun", NOUNS)
@pytest.mark.parametrize("size", [36.0, 90.0])
def test_draw_sprite__part_is_seen(part, noun, size):
    make = dict(noun=noun, colour="blue", texture="plain", size=size, angle=12.0, gain=1.0)
    bare, sprite = draw_sprite(part="none", **make), draw_sprite(part=part, **make)
    gained = (sprite.alpha > 127).sum() - (bare.alpha > 127).sum()
    assert gained == pytest.approx((sprite.part_alpha > 127).sum(), abs=0.03 * (bare.alpha > 127).sum())
    assert gained >= 2 * MIN_PART_PX**2
    widest = cv2.distanceTransform((sprite.part_alpha > 127).astype(np.uint8), cv2.DIST_L2, 5).max() * 2
    assert widest >= 0.75 * MIN_PART_PX


def test_draw_sprite__attributes_change_the_picture():
    base = dict(noun="square", colour="red", texture="plain", part="none", size=80.0, angle=0.0, gain=1.0)
    changes = [{"texture": t} for t in TEXTURES] + [{"colour": c} for c in list(PALETTE)[1:]]
    seen = [draw_sprite(**base | change).rgb for change in changes]
    for a in range(len(seen)):
        for b in range(a):
            assert (np.abs(seen[a].astype(int) - seen[b]).max(-1) > 60).mean() > 0.15
    inside = draw_sprite(**base).rgb[20:-20, 20:-20]
    assert (inside == PALETTE["red"]).all()


def test_draw_sprite__turned_is_cropped_to_what_is_drawn():
    for angle in (-20.0, 0.0, 20.0):
        alpha = draw_sprite(noun="star", colour="red", texture="plain", part="with a tail", size=60.0, angle=angle, gain=1.0).alpha
        assert alpha[0].any() and alpha[-1].any() and alpha[:, 0].any() and alpha[:, -1].any()
        assert max(alpha[0].sum(), alpha[-1].sum()) < 255 * 20, "a border cuts through the object"


def test_paste_sprite__covers_where_alpha_is_full_and_nothing_else():
    image = np.full((60, 60, 3), 7, np.uint8)
    sprite = draw_sprite(noun="square", colour="green", texture="plain", part="none", size=36.0, angle=0.0, gain=1.0)
    paste_sprite(image, sprite, 10, 12)
    h, w = sprite.alpha.shape
    assert (image[30, 28] == PALETTE["green"]).all()
    image[12 : 12 + h, 10 : 10 + w] = 7
    assert (image == 7).all()


def test_draw_background__is_cluttered_and_duller_than_objects():
    for seed in range(5):
        image = draw_background(np.random.default_rng(seed), IMAGE_PX)
        chroma = image.max(-1).astype(int) - image.min(-1)
        assert image.shape == (IMAGE_PX, IMAGE_PX, 3) and image.std() > 10
        assert np.percentile(chroma, 99) < 90 < min(max(c) - min(c) for c in PALETTE.values())


def test_body_names__are_the_nouns():
    assert tuple(BODIES) == NOUNS == ("circle", "ring", "square", "triangle", "star", "cross", "heart", "crescent")


# --- scenes ---------------------------------------------------------------------------------------------------


def test_compose_scene__objects_are_seen_well_enough(monkeypatch):
    drawn = []
    original = shapes_scene.draw_sprite
    monkeypatch.setattr(shapes_scene, "draw_sprite", lambda **values: drawn.append(original(**values)) or drawn[-1])
    occluded = 0
    for index, categories in enumerate(plan_scenes(1, "val", 8)):
        scene = compose_scene(1, "val", index, categories)
        assert sorted(scene.categories) == sorted(categories)
        assert sum(v.astype(int) for v in scene.visible).max() == 1, "visible masks must not overlap"
        shares = [v.sum() / (s.alpha > 127).sum() for v, s in zip(scene.visible, drawn[-len(categories) :])]
        assert min(shares) >= MIN_VISIBLE - 0.02
        occluded += sum(share < 0.95 for share in shares)
    assert occluded >= 5


def test_compose_scene__same_bits_alone_or_after_others():
    plan = plan_scenes(2, "train", 10)
    alone = compose_scene(2, "train", 7, plan[7])
    for index, categories in enumerate(plan):
        after = compose_scene(2, "train", index, categories)
    again = compose_scene(2, "train", 7, plan[7])
    assert (alone.image == again.image).all() and alone.categories == again.categories
    assert not (after.image == again.image).all()
    assert not (compose_scene(2, "val", 7, plan[7]).image == again.image).all()


# --- annotations ----------------------------------------------------------------------------------------------


def _mask(*pieces: tuple[int, int, int, int], hole: tuple[int, int, int, int] | None = None) -> np.ndarray:
    mask = np.zeros((40, 40), bool)
    for x, y, w, h in pieces:
        mask[y : y + h, x : x + w] = True
    if hole:
        x, y, w, h = hole
        mask[y : y + h, x : x + w] = False
    return mask


@pytest.mark.parametrize(
    ("mask", "num_polygons"),
    [
        pytest.param(_mask(), 0, id="nothing"),
        pytest.param(_mask((5, 6, 20, 10)), 1, id="box"),
        pytest.param(_mask((5, 6, 20, 10), (30, 25, 8, 12)), 2, id="two pieces"),
        pytest.param(_mask((4, 4, 30, 30), hole=(12, 10, 9, 11)), 1, id="hole"),
        pytest.param(_mask((0, 0, 40, 40)), 1, id="whole image"),
    ],
)
def test_mask_polygons__cocos_tools_give_the_mask_back(mask, num_polygons):
    polygons = mask_polygons(mask)
    assert len(polygons) == num_polygons
    if polygons:
        back = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, 40, 40))).astype(bool)
        assert (back & mask).sum() / (back | mask).sum() > 0.97


def test_relations__name_unique_objects_beyond_the_margin():
    ring, star = _category(), _category(noun="star", colour="orange")
    circle = _category(noun="circle", colour="blue")
    boxes = [[10, 10, 20, 20], [110, 20, 20, 20], [15, 150, 20, 20], [200, 150, 20, 20]]
    assert relations(0, [ring, star, circle, circle], boxes) == ["left of an orange star"]
    assert relations(1, [ring, star, circle, circle], boxes) == ["right of a red ring"]
    assert relations(2, [ring, star, circle, circle], boxes) == ["below a red ring", "left of an orange star", "below an orange star"]
    assert relations(0, [ring], boxes[:1]) == []


def test_make_shapes__writes_lvis_form(made, annotation):
    keys = {"id", "name", "synset", "synonyms", "def", "frequency", "image_count", "instance_count"}
    for split, number in (("train", NUM_TRAIN), ("val", NUM_VAL)):
        data = annotation[split]
        assert [i["id"] for i in data["images"]] == list(range(1, number + 1))
        assert [a["id"] for a in data["annotations"]] == list(range(1, len(data["annotations"]) + 1))
        assert [c["id"] for c in data["categories"]] == list(range(1, 121)) and keys <= set(data["categories"][0])
        for image in data["images"]:
            assert image["coco_url"].split("/")[-2:] == image["file_name"].split("/")
            picture = cv2.imread(str(made / "images" / image["file_name"]))
            assert picture.shape == (image["height"], image["width"], 3) == (IMAGE_PX, IMAGE_PX, 3)
    assert annotation["train"]["categories"] == annotation["val"]["categories"]
    names = {c["name"] for c in annotation["train"]["categories"]}
    assert all(set(c["similar"]) <= names for c in annotation["train"]["categories"])
    example = annotation["train"]["categories"][0]
    assert example["descriptions"][0].split("; ") == list(shape_categories()[0].words) and example["kind"] == "shape"


def test_make_shapes__counts_are_of_the_train_images_and_rare_never_occur_there(annotation):
    counted = collections.Counter(a["category_id"] for a in annotation["train"]["annotations"])
    for c in annotation["val"]["categories"]:
        assert c["instance_count"] == c["image_count"] == counted[c["id"]]
        if c["frequency"] == "r":
            assert counted[c["id"]] == 0


def test_make_shapes__boxes_areas_and_polygons_agree(annotation):
    for a in annotation["val"]["annotations"]:
        x, y, w, h = a["bbox"]
        assert x >= 0 and y >= 0 and x + w <= IMAGE_PX and y + h <= IMAGE_PX
        encoded = coco_mask.merge(coco_mask.frPyObjects(a["segmentation"], IMAGE_PX, IMAGE_PX))
        assert float(coco_mask.area(encoded)) == pytest.approx(a["area"], rel=0.06)
        assert coco_mask.toBbox(encoded).tolist() == pytest.approx(a["bbox"], abs=1.5)


def test_make_shapes__negatives_are_absent_and_hold_every_confusable(annotation):
    for data in annotation.values():
        noun = {c["id"]: c["noun"] for c in data["categories"]}
        for image in data["images"]:
            present = {a["category_id"] for a in data["annotations"] if a["image_id"] == image["id"]}
            negative = set(image["neg_category_ids"])
            confusable = {k for k in noun if noun[k] in {noun[p] for p in present}} - present
            assert not negative & present and confusable <= negative
            assert len(negative - confusable) == shapes.NUM_OTHER_NEGATIVES and image["not_exhaustive_category_ids"] == []


# --- the same bits, and makings that go wrong -----------------------------------------------------------------


def test_make_shapes__same_bits_for_any_number_of_processes(made, tmp_path):
    serial = make_shapes(tmp_path / "serial", 3, NUM_TRAIN, NUM_VAL, num_workers=1)
    assert _digests(serial) == _digests(made)
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_make_shapes__another_seed_gives_other_pictures(made, tmp_path):
    other = _digests(make_shapes(tmp_path / "other", 4, 2, 1))
    mine = _digests(made)
    assert all(other[name] != mine[name] for name in other)


def test_make_shapes__finished_folder_is_kept(made):
    before = {p: p.stat().st_mtime_ns for p in made.rglob("*")}
    make_shapes(made, 3, NUM_TRAIN, NUM_VAL)
    assert before == {p: p.stat().st_mtime_ns for p in made.rglob("*")}


def test_make_shapes__folder_with_something_else_is_not_touched(tmp_path, made):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="must be empty or hold the shapes data set"):
        make_shapes(tmp_path, 0, 2, 1)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    with pytest.raises(ValueError, match="'seed': 3"):
        make_shapes(made, 0, 2, 1)


@pytest.mark.parametrize("numbers", [(-1, 2, 2), (0, -2, 2), (0, 2, -1)])
def test_make_shapes__negative_numbers_raise(tmp_path, numbers):
    with pytest.raises(ValueError, match="at least 0"):
        make_shapes(tmp_path / "x", *numbers)


def test_make_shapes__error_leaves_nothing_and_is_redone(tmp_path, monkeypatch):
    monkeypatch.setattr(shapes, "_negatives", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        make_shapes(tmp_path / "set", 0, 2, 1)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    assert len(_digests(make_shapes(tmp_path / "set", 0, 2, 1))) == 3 + 2 + 1


def _start(folder: Path, num_train: int) -> subprocess.Popen:
    code = f"from ovdense.data.shapes import make_shapes; make_shapes({str(folder)!r}, 0, {num_train}, 1, num_workers=1)"
    return subprocess.Popen([sys.executable, "-c", code], cwd=Path(shapes.__file__).parents[2])


def test_make_shapes__killed_process_leaves_no_folder_and_its_rest_is_removed(tmp_path, monkeypatch):
    process = _start(tmp_path / "set", 2000)
    deadline = time.monotonic() + PATIENCE
    while not list(tmp_path.glob(".set-*.part/images/train/*.png")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert [p.suffix for p in tmp_path.iterdir()] == [".part"]
    monkeypatch.setattr(shapes, "STALE_SECONDS", -1.0)
    make_shapes(tmp_path / "set", 0, 2, 1)
    assert [p.name for p in tmp_path.iterdir()] == ["set"]


def test_make_shapes__two_processes_at_once_both_end_well(tmp_path):
    processes = [_start(tmp_path / "set", 6) for _ in range(2)]
    assert [p.wait(timeout=PATIENCE) for p in processes] == [0, 0]
    assert [p.name for p in tmp_path.iterdir()] == ["set"]
    assert _digests(tmp_path / "set") == _digests(make_shapes(tmp_path / "again", 0, 6, 1))


def test_make_shapes__works_inside_a_dataloader_worker(tmp_path):
    """A daemonic process may have no children."""
    process = multiprocessing.get_context("fork").Process(target=make_shapes, args=(tmp_path / "set", 0, 16, 1), daemon=True)
    process.start()
    process.join(60)
    assert process.exitcode == 0 and (tmp_path / "set" / shapes.MARKER).is_file()


def test_ensure_shapes__lies_in_the_cache_root(tmp_path, monkeypatch):
    monkeypatch.setattr(shapes, "NUM_TRAIN", 2)
    monkeypatch.setattr(shapes, "NUM_VAL", 1)
    monkeypatch.setenv("OVDENSE_CACHE", str(tmp_path / "cache"))
    assert ensure_shapes(5) == tmp_path / "cache" / "shapes" / "v1-seed5"
    assert ensure_shapes(5, root=tmp_path / "own") == tmp_path / "own" / "v1-seed5"
    assert _digests(ensure_shapes(5)) == _digests(ensure_shapes(5, root=tmp_path / "own"))
