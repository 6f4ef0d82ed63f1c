"""Class maps and splits: the traps of each data set, and maps that are wrong."""
import json

import numpy as np
import pytest
from PIL import Image

from ovdense.structures import Vocabulary
from ovdense.text.class_maps import class_map_names, class_split_names, load_class_map, load_class_split, maps_to
from ovdense.text.vocabulary import BUILTIN, load_vocabulary


def name_of(map_name: str, label: int) -> str | None:
    """Return the class of a label, None where it does not count."""
    found = load_class_map(map_name)
    k = int(found(np.array([label]))[0])
    return None if k == 255 else found.target.names[k]


@pytest.mark.parametrize(
    ("map_name", "label", "name", "reason"),
    [
        ("voc21_png", 0, "background", "VOC's 0 is background, not the first object"),
        ("voc21_png", 1, "aeroplane", "so the first object is 1"),
        ("voc20_png", 1, "aeroplane", "and without background class 0 is still pixel 1"),
        ("voc20_png", 0, None, "background does not count"),
        ("voc21_png", 255, None, "borders do not count"),
        ("ade150_png", 0, None, "ADE's 0 is other, which does not count"),
        ("ade150_png", 1, "wall", "ADE begins at 1 (reduce_zero_label)"),
        ("ade150_png", 8, "bed", "without the blank that the official list has behind it"),
        ("ade150_png", 150, "flag", "the last"),
        ("coco_stuff171_png", 0, "person", "the PNGs are one below the ids"),
        ("coco_stuff171_png", 255, None, "and unlabelled is 255"),
        ("coco_stuff171_ids", 1, "person", "the .mat files have the ids"),
        ("coco_stuff171_ids", 0, None, "and unlabelled is 0"),
        ("coco_stuff171_png", 12, "stop sign", "id 13, as COCO removed 12 (street sign)"),
        ("coco_stuff171_ids", 13, "stop sign", "the same"),
        ("coco_stuff171_trainids", 11, "stop sign", "contiguous"),
        ("coco_stuff171_png", 181, "wood", "the last"),
        ("coco_stuff171_ids", 182, "wood", "the last"),
        ("coco_stuff171_trainids", 170, "wood", "the last"),
        ("coco_stuff27_png", 11, "outdoor", "a removed id is in the table of 27, which does not ask for it"),
        ("coco_stuff27_png", 0, "person", "one below the ids"),
        ("coco_panoptic133_ids", 184, "tree-merged", "panoptic ids are not COCO-Stuff's: there tree is 169"),
        ("coco_panoptic133_ids", 0, None, "unlabelled"),
        ("context60_png", 0, "background", "with background"),
        ("context59_png", 1, "aeroplane", "the first, as with background it is class 1"),
        ("context60_ids", 2, "aeroplane", "one of 459 ids"),
        ("context60_ids", 1, "background", "not among the 59"),
        ("context59_ids", 1, None, "not among the 59"),
        ("context60_ids", 458, "wood", "the last of the 59, above 255"),
        ("cityscapes19_ids", 7, "road", "label ids are not train ids"),
        ("cityscapes19_trainids", 0, "road", "these are"),
        ("cityscapes19_ids", 9, None, "parking is not among the 19"),
        ("cityscapes27_ids", 9, "parking", "it is among the 27"),
        ("cityscapes27_ids", 33, "bicycle", "the last"),
        ("kitti_step19_png", 18, "bicycle", "the last"),
        ("coco_object81_png", 80, "toothbrush", "contiguous, not COCO's ids, which end at 90"),
    ],
)
def test_class_map__traps(map_name, label, name, reason):
    assert name_of(map_name, label) == name, reason


@pytest.mark.parametrize("map_name", class_map_names())
def test_class_map__each_class_is_reached_and_every_file_says_where_it_is_from(map_name):
    found = load_class_map(map_name)
    assert set(range(len(found.target))) <= set(found.table.tolist())
    assert map_name in maps_to(found.target)
    assert found.table[-1] != -1, "no tail that is not listed"
    from ovdense.text import class_maps

    content = json.loads((class_maps._MAPS / f"{map_name}.json").read_text())
    assert len(content["source"]) > 20


@pytest.mark.parametrize(
    ("name", "count", "first", "last", "backgrounds"),
    [
        ("voc20", 20, "aeroplane", "tvmonitor", 0),
        ("voc21", 21, "background", "tvmonitor", 1),
        ("ade150", 150, "wall", "flag", 0),
        ("context59", 59, "aeroplane", "wood", 0),
        ("context60", 60, "background", "wood", 1),
        ("coco_object81", 81, "background", "toothbrush", 1),
        ("coco_stuff171", 171, "person", "wood", 0),
        ("coco_stuff27", 27, "electronic", "water", 0),
        ("coco_panoptic133", 133, "person", "rug-merged", 0),
        ("cityscapes19", 19, "road", "bicycle", 0),
        ("cityscapes27", 27, "road", "bicycle", 0),
        ("kitti_step19", 19, "road", "bicycle", 0),
    ],
)
def test_vocabulary__of_segmentation_data(name, count, first, last, backgrounds):
    vocabulary = load_vocabulary(name)
    assert (len(vocabulary), vocabulary.names[0], vocabulary.names[-1]) == (count, first, last)
    assert sum(e.is_background for e in vocabulary) == backgrounds and name in BUILTIN
    assert all(n == n.strip() for n in vocabulary.names)


def test_vocabulary__background_is_one_more_and_nothing_else():
    for with_background, without in (("voc21", "voc20"), ("context60", "context59"), ("coco_object81", "coco")):
        assert load_vocabulary(with_background).names == ("background", *load_vocabulary(without).names)
    assert load_vocabulary("voc20") == load_vocabulary("voc")
    assert load_vocabulary("coco_stuff171").names[:80] == load_vocabulary("coco").names == load_vocabulary("coco_panoptic133").names[:80]


def test_class_map__crosswalks_of_coco_stuff_agree():
    """The three forms of the labels name the same classes, and the two ways to 27 agree."""
    png, ids, train = (load_class_map(f"coco_stuff171_{form}") for form in ("png", "ids", "trainids"))
    labels = np.flatnonzero((png.table >= 0) & (png.table != 255))
    assert len(labels) == 171
    assert (png(labels) == ids(labels + 1)).all() and (png(labels) == train(np.arange(171))).all()
    assert (load_class_map("coco_stuff171_to_27")(png(labels)) == load_class_map("coco_stuff27_png")(labels)).all()
    removed = {11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90}
    assert set(np.flatnonzero(png.table[:182] == -1).tolist()) == removed
    assert (load_class_map("coco_stuff27_png")(np.array(sorted(removed))) < 12).all(), "things"


def test_class_map__things_keep_coco_supercategories_in_both_tables_of_27(data_root):
    content = json.loads((data_root / "coco_mini/annotations/instances_val2017.json").read_text())
    super_of = {c["name"]: c["supercategory"] for c in content["categories"]}
    for name in ("coco_stuff171_to_27", "coco_panoptic133_to_27"):
        found = load_class_map(name)
        got = {n: found.target.names[k] for n, k in zip(found.source.names, found.table.tolist())}
        assert {n: got[n] for n in super_of} == super_of


def test_class_map__cityscapes_27_to_19_is_the_way_by_ids():
    by_ids, to_27, merge = (load_class_map(n) for n in ("cityscapes19_ids", "cityscapes27_ids", "cityscapes27_to_19"))
    labels = np.array([*range(34), 255])
    assert (merge(to_27(labels)) == by_ids(labels)).all()


def test_class_map__real_label_files(data_root):
    """COCO's panoptic ids and VOC's palette PNGs read by their maps; the names are the data's own."""
    names = json.loads((data_root / "coco_mini/annotations/semantic_classes.json").read_text())
    found = load_class_map("coco_panoptic133_ids")
    for label, name in names.items():
        if label != "0":
            assert found.target.names[found.table[int(label)]] == name
    for path in sorted((data_root / "coco_mini/semantic_train2017").glob("*.png"))[:5]:
        labels = np.array(Image.open(path))
        assert set(np.unique(found(labels)).tolist()) <= {*range(133), 255}
        assert ((labels == 0) == (found(labels) == 255)).all()
    path = next((data_root / "voc_mini/VOCdevkit/VOC2012/SegmentationClass").glob("*.png"))
    labels = np.array(Image.open(path))
    assert (load_class_map("voc21_png")(labels) == labels).all()


@pytest.mark.parametrize(
    ("map_name", "labels", "message"),
    [
        ("voc21_png", [0, 21], r"pixel values must be among the 22 of this map \(0-20, 255\), got \[21\] beside 1"),
        ("coco_stuff171_trainids", [181], r"got \[181\].*coco_stuff171_png"),
        ("coco_stuff171_png", [182], r"got \[182\].*coco_stuff171_ids"),
        ("cityscapes19_trainids", [33], r"got \[33\].*cityscapes19_ids"),
        ("ade150_png", [255], r"got \[255\]"),
        ("voc21_png", [-1, 3], r"got \[-1\]"),
        ("coco_stuff171_png", [11], "got"),
    ],
)
def test_class_map__the_wrong_map_is_found(map_name, labels, message):
    with pytest.raises(ValueError, match=message):
        load_class_map(map_name)(np.array(labels))


def test_class_map__floats_raise_and_nothing_is_nothing():
    with pytest.raises(ValueError, match="must be integers, got float64"):
        load_class_map("voc21_png")(np.array([0.5]))
    assert load_class_map("voc21_png")(np.zeros((0, 3), dtype=np.uint8)).shape == (0, 3)


def test_class_map__own_file(tmp_path):
    content = {"from": ["cat", "dog", "sky"], "target": ["animal", "other"], "classes": {"cat": "animal", "dog": "animal", "sky": None}}
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(content))
    found = load_class_map(path)
    assert found(np.array([[0, 1], [2, 255]])).tolist() == [[0, 0], [255, 255]] and found.name == "mine"
    assert found.fingerprint() == load_class_map(content).fingerprint() != load_class_map("voc21_png").fingerprint()
    assert load_class_map({"target": ["a", "b"], "first": 5, "ignored": [0]})(np.array([5, 6, 0])).tolist() == [0, 1, 255]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"target": ["a"]}, "must have 'target' and one of"),
        ({"target": ["a"], "values": {"0": "b"}}, "'b' is not in the vocabulary"),
        ({"target": ["a"], "from": ["x", "y"], "classes": {"x": "a"}}, "1 are not, such as 'y'"),
        ({"target": ["a"], "from": ["x"], "classes": {"x": "a", "z": "a"}}, "'z' is not in the vocabulary"),
        ({"target": ["a"], "first": 0, "ignored": [0]}, "either count or be ignored"),
        ({"target": ["a"], "values": {"-1": "a"}}, "at least 0"),
        ({"target": [f"c{k}" for k in range(256)], "first": 0}, "at most 255"),
    ],
)
def test_class_map__broken_ones_say_why(content, message):
    with pytest.raises(ValueError, match=message):
        load_class_map(content)


def test_class_map__unknown_name_has_a_hint():
    with pytest.raises(FileNotFoundError, match="did you mean 'voc21_png'"):
        load_class_map("voc21png")


@pytest.mark.parametrize(
    ("name", "seen", "unseen", "one"),
    [
        ("coco48_17", 48, 17, "scissors"),
        ("lvis866_337", 866, 337, "applesauce"),
        ("voc15_5", 15, 5, "tvmonitor"),
        ("coco_stuff156_15", 156, 15, "wall-concrete"),
        ("context49_10", 49, 10, "keyboard"),
    ],
)
def test_class_split__builtin(name, seen, unseen, one):
    split = load_class_split(name)
    assert (len(split.seen), len(split.unseen)) == (seen, unseen) and one in split.unseen and name in class_split_names()


def test_class_split__indices_in_any_vocabulary_that_has_the_classes():
    split = load_class_split({"vocabulary": ["a", "b", "c"], "unseen": ["b"]})
    seen, unseen = split.indices(["z", "c", "b", "a"])
    assert seen.tolist() == [1, 3] and unseen.tolist() == [2]
    with pytest.raises(KeyError, match=r"1 are not: 'b' \(near 'B'\)|1 are not: 'b'"):
        split.indices(["a", "B", "c"])
    with pytest.raises(ValueError, match="'x' is not in the vocabulary"):
        load_class_split({"vocabulary": ["a", "b"], "unseen": ["x"]})
    with pytest.raises(ValueError, match="must both be there"):
        load_class_split({"vocabulary": ["a", "b"], "unseen": ["a", "b"]})
    voc21 = load_vocabulary("voc21")
    assert [i.tolist() for i in load_class_split("voc15_5").indices(voc21.names)] == [list(range(1, 16)), list(range(16, 21))]
    assert Vocabulary.of(split.seen).names == ("a", "c")
