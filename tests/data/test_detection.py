"""Datasets: what they hold, the real photos' counts, and one clear error per broken thing."""
import json
import pickle
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from ovdense.data.collate import collate_detection
from ovdense.data.detection import CocoDetection, LvisDetection, ShapesDetection, VocDetection
from ovdense.data.transforms import LoadImage, PackDetection, PhotometricJitter, RandomCrop, RandomFlip, ResizeShortestEdge
from ovdense.registry import DATASETS
from ovdense.structures import ClassEntry, ImageTarget, Vocabulary
from ovdense.text.vocabulary import load_vocabulary
from tests.data.conftest import small_content, write_dataset

LOAD = [dict(type=LoadImage), dict(type=PackDetection)]
AUGMENT = [
    dict(type=LoadImage), dict(type=RandomCrop, prob=1.0), dict(type=RandomFlip), dict(type=ResizeShortestEdge, short_sides=(20, 24, 28, 32), max_size=64),
    dict(type=PhotometricJitter), dict(type=PackDetection),
]  # fmt: skip


def make(folder, cls=LvisDetection, **kwargs):
    return cls(**{"ann_file": "ann.json", "image_prefix": "images", "data_root": str(folder), **kwargs})


def broken(folder, change) -> dict:
    content = small_content()
    change(content)
    return write_dataset(folder, content)


def test_lvis__exact_content(small):
    data = make(small, transforms=LOAD, test_mode=True)
    assert data.vocabulary.names == ("bow_(weapon)", "bow_(decoration)", "cup")  # in the order of their ids
    assert data.category_ids == (3, 5, 7) and data.metainfo["frequencies"] == ("r", "c", "f")
    assert data.vocabulary[2] == ClassEntry(name="cup", synonyms=("drinking cup",), descriptions=("a small open container",), frequency="f")
    assert data.vocabulary == load_vocabulary(small / "ann.json")
    assert len(data) == 3
    sample = data[0]
    target = sample["target"]
    assert sample["image"].dtype == torch.uint8 and sample["image"].shape == (3, 40, 60)
    assert isinstance(target, ImageTarget) and (target.image_id, target.file_name, target.original_size_hw) == (1, "1.png", (40, 60))
    assert target.boxes_xyxy.tolist() == [[10, 5, 30, 15], [0, 0, 8, 8]] and target.labels.tolist() == [2, 1]
    info = data.image_info(0)
    assert info["negative_labels"].tolist() == [0] and data.image_info(1)["not_exhaustive_labels"].tolist() == [2]
    assert len(data[2]["target"].labels) == 0 and data.annotations(2)["crowd"].tolist() == [True]  # crowds are known, not targets
    json.dumps(data.metainfo)


def test_lvis__training_leaves_out_images_without_boxes(small):
    assert len(make(small)) == 2
    assert len(make(small, filter_empty=False)) == 3
    assert len(make(small, vocabulary=["bow_(decoration)"])) == 1


def test_vocabulary__is_a_part_in_its_own_order(small):
    data = make(small, vocabulary=["cup", "bow_(decoration)"], test_mode=True)
    assert data.category_ids == (7, 5) and data.annotations(0)["labels"].tolist() == [0, 1]
    assert data.image_info(0)["negative_labels"].tolist() == []  # class 3 is not asked for
    assert data.get_cat_ids(0) == [0, 1] and data.get_cat_ids(2) == []
    assert data.metainfo["frequencies"] == ("f", "c")
    (small / "names.txt").write_text("cup\n")
    assert make(small, vocabulary="names.txt").vocabulary.names == ("cup",)
    given = Vocabulary((ClassEntry(name="cup", kind="vessel"),))
    assert make(small, vocabulary=given).vocabulary is given


def test_category_ids__of_any_size(tmp_path):
    def strange(content):
        for entry in content["categories"] + content["annotations"]:
            key = "category_id" if "category_id" in entry else "id"
            entry[key] = {7: 10**12, 3: -4, 5: 0}[entry[key]]
        content["images"] = [{**i, "neg_category_ids": [], "not_exhaustive_category_ids": []} for i in content["images"]]

    data = make(broken(tmp_path, strange), vocabulary=["cup", "bow_(decoration)"])
    assert data.category_ids == (10**12, 0) and data.annotations(0)["labels"].tolist() == [0, 1]


def test_description_file__replaces_descriptions(small):
    (small / "said.json").write_text(json.dumps({"cup": {"descriptions": ["round; has a handle"], "kind": "vessel"}}))
    entry = make(small, description_file="said.json").vocabulary[2]
    assert entry.descriptions == ("round; has a handle",) and entry.kind == "vessel"


def test_coco_url__names_the_file_when_file_name_is_missing(tmp_path):
    def no_names(content):
        for image in content["images"]:
            image["coco_url"] = f"http://images.cocodataset.org/images/{image.pop('file_name')}"

    data = make(broken(tmp_path, no_names), image_prefix="")
    assert data.image_info(0)["file_name"] == "images/1.png"


def _del_field(c):
    del c["annotations"][1]["bbox"]


BROKEN = [  # change, words of the error
    (lambda c: c["annotations"][2].update(category_id=99), ["annotation 13", "category_id 99"]),
    (lambda c: c["annotations"][2].update(image_id=99), ["annotation 13", "image_id 99"]),
    (lambda c: c["annotations"][1].update(bbox=[0, 0, 0, 5]), ["annotation 12", "width 0", "invalid_boxes='drop'"]),
    (lambda c: c["annotations"][1].update(bbox=[0, 0, 5, -2]), ["annotation 12", "height -2"]),
    (lambda c: c["annotations"][1].update(bbox=[0, float("nan"), 5, 5]), ["annotation 12", "finite"]),
    (lambda c: c["annotations"][1].update(bbox=[0, 0, float("inf"), 5]), ["annotation 12", "finite"]),
    (lambda c: c["annotations"][1].update(bbox=[0, 0, 5]), ["annotation 12", "four numbers", "[0, 0, 5]"]),
    (lambda c: c["annotations"][1].update(bbox="0 0 5 5"), ["annotation 12", "four numbers"]),
    (_del_field, ["annotations, entry 12", "bbox"]),
    (lambda c: c["categories"].append(dict(id=9, name="cup")), ["'cup'", "twice", "7 and 9"]),
    (lambda c: c["categories"].append(dict(id=7, name="mug")), ["id 7", "twice"]),
    (lambda c: c["categories"].append(dict(id=9, name="Cup")), ["'Cup'", "clashes with 'cup'"]),
    (lambda c: c["categories"][0].update(name=" "), ["category 7", "non-empty"]),
    (lambda c: c["images"].append(c["images"][0]), ["images: id 1", "twice"]),
    (lambda c: c["images"][0].pop("height"), ["images, entry 1", "height"]),
    (lambda c: c["images"][0].update(neg_category_ids=[77]), ["image 1", "neg_category_ids", "77"]),
    (lambda c: c.pop("categories"), ["'categories' is missing"]),
    (lambda c: c["categories"].clear(), ["at least one category"]),
]


@pytest.mark.parametrize("change, words", BROKEN)
def test_errors__name_the_file_and_the_entry(tmp_path, change, words):
    folder = broken(tmp_path, change)
    with pytest.raises(ValueError) as error:
        make(folder)
    assert all(w in str(error.value) for w in [str(folder / "ann.json"), *words]), str(error.value)


def test_invalid_boxes__drop_warns_and_counts(tmp_path):
    folder = broken(tmp_path, lambda c: c["annotations"][1].update(bbox=[0, 0, 0, 5]))
    with pytest.warns(UserWarning, match="annotation 12.*dropped it and 0 more"):
        data = make(folder, invalid_boxes="drop")
    assert data.annotations(0)["labels"].tolist() == [2]
    with pytest.raises(ValueError, match="invalid_boxes must be 'raise' or 'drop'"):
        make(folder, invalid_boxes="ignore")


def test_broken_json__says_line_and_column(small):
    text = json.dumps(small_content(), indent=1)
    (small / "ann.json").write_text(text[: len(text) // 2])
    with pytest.raises(ValueError, match=r"ann\.json: must be JSON, broken at line \d+ column \d+"):
        make(small)
    (small / "ann.json").write_bytes(b'{"images": "\xff"}')
    with pytest.raises(ValueError, match=r"ann\.json.*UTF-8"):
        make(small)
    (small / "ann.json").write_text("[1, 2]")
    with pytest.raises(ValueError, match=r"ann\.json.*got list"):
        make(small)


def test_wrong_class_names__lists_near_ones(small):
    with pytest.raises(ValueError) as error:
        make(small, vocabulary=["cup", "bow (weapon)", "zebra"])
    assert all(w in str(error.value) for w in ["ann.json", "2 of 3", "'bow (weapon)' (near: 'bow_(weapon)'", "'zebra'"])


def test_no_image_left__is_an_error(tmp_path):
    folder = broken(tmp_path, lambda c: c["annotations"].clear())
    with pytest.raises(ValueError, match="at least one image with a box"):
        make(folder)
    assert len(make(folder, test_mode=True)) == 3


def test_missing_images__lists_and_counts(small):
    for name in ("1.png", "3.png"):
        (small / "images" / name).unlink()
    with pytest.raises(FileNotFoundError) as error:
        make(small)
    assert all(w in str(error.value) for w in ["ann.json lists 3 images, 2 of them are missing", "images/1.png", "images/3.png", "image_prefix"])


@pytest.mark.parametrize("cls, source", [(LvisDetection, "lvisdataset.org"), (CocoDetection, "cocodataset.org"), (VocDetection, "host.robots.ox.ac.uk")])
def test_missing_annotations__says_where_from_and_what_runs(tmp_path, monkeypatch, cls, source):
    monkeypatch.setenv("OVDENSE_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError) as error:
        cls(ann_file="a/b/ann.json")
    words = [str(tmp_path / "nowhere/a/b/ann.json"), source, "--data-root", "OVDENSE_DATA", "configs/desco_lvis_mini.py"]
    assert all(w in str(error.value) for w in words), str(error.value)


def test_missing_annotations__says_which_root_was_looked_in(tmp_path, monkeypatch):
    monkeypatch.delenv("OVDENSE_DATA", raising=False)
    for n in range(7):
        (tmp_path / f"folder{n}").mkdir()
    with pytest.raises(FileNotFoundError) as error:
        LvisDetection(ann_file="lvis_mini/ann.json", data_root=str(tmp_path))
    held = "folder0/, folder1/, folder2/, folder3/, folder4/ and 2 more"
    words = ["'lvis_mini/ann.json' is relative to", f"the data root {tmp_path} (data_root), which holds {held}"]
    assert all(w in str(error.value) for w in words), str(error.value)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"data \(the default: data_root and OVDENSE_DATA are not set\), which is no folder"):
        LvisDetection(ann_file="ann.json")
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("OVDENSE_DATA", "empty")
    with pytest.raises(FileNotFoundError, match=r"empty \(OVDENSE_DATA\), which is empty"):
        LvisDetection(ann_file="ann.json")
    with pytest.raises(FileNotFoundError) as error:
        LvisDetection(ann_file=str(tmp_path / "ann.json"))
    assert "relative to" not in str(error.value)


def test_missing_images__says_which_root_was_looked_in(small):
    with pytest.raises(FileNotFoundError, match=r"'photos' is relative to the data root .*which holds ann.json, images/"):
        make(small, image_prefix="photos")


def test_description_file__definitions_of_categories(small):
    (small / "categories.json").write_text(json.dumps([{"id": 7, "name": "cup", "def": "a vessel"}, {"id": 9, "name": "mug", "def": "a cup"}]))
    assert make(small, description_file="categories.json").vocabulary[2].descriptions == ("a vessel",)


def test_unreadable_image__is_named_at_read_time(small):
    data = make(small, transforms=LOAD)
    path = small / "images" / "1.png"
    whole = path.read_bytes()
    for content, word in [(whole[: len(whole) // 2], "could not be read"), (b"hello", "could not be read"), (b"", "could not be read")]:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"1.png: must be a whole image file, {word}"):
            data[0]
    path.write_bytes(b"../other/1.png")
    with pytest.raises(ValueError, match="only the path '../other/1.png', a link that was copied as text"):
        data[0]
    path.unlink()
    with pytest.raises(FileNotFoundError, match="1.png is missing"):
        data[0]
    data.transforms[0](dict(path=str(small / "images/2.png"), original_size_hw=(40, 60), boxes_xyxy=np.zeros((0, 4), np.float32), labels=np.zeros(0, int)))
    with pytest.raises(ValueError, match="2.png: must be 41 x 60"):
        data.transforms[0](dict(path=str(small / "images/2.png"), original_size_hw=(41, 60), boxes_xyxy=np.zeros((0, 4)), labels=np.zeros(0)))


def test_truncated_jpeg__is_an_error(small, data_root):
    source = next((data_root / "coco_mini" / "val2017").glob("*.jpg"))
    path = small / "cut.jpg"
    shutil.copyfile(source, path)
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ValueError, match="cut.jpg: must be a whole image file"):
        LoadImage()(dict(path=str(path)))


def test_samples__same_bits_for_the_same_draw_only(small):
    one, other = make(small, transforms=AUGMENT, seed=3), make(small, transforms=AUGMENT, seed=3)
    n = len(one)
    for index in (0, 1, n, 7 * n + 1):
        a, b = one[index], pickle.loads(pickle.dumps(other))[index]
        assert torch.equal(a["image"], b["image"]) and torch.equal(a["target"].boxes_xyxy, b["target"].boxes_xyxy)
    draws = [one[k * n]["image"] for k in range(6)]
    assert len({d.numpy().tobytes() for d in draws}) > 1  # another pass, another view
    assert all(one[k * n]["target"].image_id == 1 for k in range(6))
    assert not all(torch.equal(one[k * n]["image"], make(small, transforms=AUGMENT, seed=4)[k * n]["image"]) for k in range(6))
    with pytest.raises(IndexError):
        one[-1]


def test_workers__give_the_same_batches_as_none(small):
    loaders = [
        torch.utils.data.DataLoader(make(small, transforms=AUGMENT), batch_size=2, sampler=[0, 3, 2, 5], num_workers=w, collate_fn=collate_detection)
        for w in (0, 2)
    ]
    for a, b in zip(*loaders):
        assert all(torch.equal(x, y) for x, y in zip(a["images"], b["images"]))
        assert [t.image_id for t in a["targets"]] == [t.image_id for t in b["targets"]]


def test_collate__keeps_sizes_and_order(small):
    data = make(small, transforms=AUGMENT)
    batch = collate_detection([data[0], data[1]])
    assert [t.image_id for t in batch["targets"]] == [1, 2]
    assert all(tuple(i.shape[1:]) == t.size_hw for i, t in zip(batch["images"], batch["targets"]))
    with pytest.raises(ValueError, match="PackDetection"):
        collate_detection([make(small)[0]])


def test_registry__builds_by_name(small):
    steps = [dict(type="LoadImage"), dict(type="PackDetection")]
    cfg = dict(type="CocoDetection", ann_file="ann.json", image_prefix="images", data_root=str(small), transforms=steps)
    assert DATASETS.build(cfg)[0]["target"].labels.tolist() == [2, 1]


REAL = [  # split, images, boxes, categories with boxes, images with boxes
    ("train", 178, 1392, 75, 175),
    ("val", 50, 377, 48, 48),
]


@pytest.mark.parametrize("split, images, boxes, categories, with_boxes", REAL)
def test_lvis_mini__counts(data_root, split, images, boxes, categories, with_boxes):
    where = dict(ann_file=f"lvis_mini/annotations/lvis_v1_{split}.json", image_prefix=f"coco_mini/{split}2017", data_root=str(data_root))
    data = LvisDetection(**where, test_mode=True, transforms=LOAD)
    labels = np.concatenate([data.annotations(i)["labels"] for i in range(len(data))])
    assert (len(data), len(labels), len(set(labels.tolist())), len(data.vocabulary)) == (images, boxes, categories, 1203)
    assert len(LvisDetection(**where)) == with_boxes
    assert sum(len(data.image_info(i)["negative_labels"]) for i in range(len(data))) > 0
    assert data.vocabulary == load_vocabulary(data_root / where["ann_file"])
    sample = data[len(data) - 1]
    boxes = sample["target"].boxes_xyxy
    assert (boxes[:, 2:] > boxes[:, :2]).all() and sample["image"].shape[1:] == sample["target"].original_size_hw


def test_lvis_mini__descriptions_of_the_release(data_root):
    where = dict(ann_file="lvis_mini/annotations/lvis_v1_val.json", image_prefix="coco_mini/val2017", data_root=str(data_root))
    data = LvisDetection(**where, description_file="descriptions/lvis_v1.description.v1.json", prompt="descriptions")
    assert data.vocabulary[0].kind == "container" and data.prompt == data.metainfo["prompt"] == "descriptions"


def test_coco_mini__counts(data_root):
    where = dict(ann_file="coco_mini/annotations/instances_train2017.json", image_prefix="coco_mini/train2017", data_root=str(data_root))
    data = CocoDetection(**where, test_mode=True)
    crowd = np.concatenate([data.annotations(i)["crowd"] for i in range(len(data))])
    assert (len(data), len(crowd), int(crowd.sum()), len(data.vocabulary)) == (178, 1409, 15, 80)
    assert sum(len(data[i]["labels"]) for i in range(len(data))) == 1409 - 15
    assert data.vocabulary.names == load_vocabulary("coco").names


@pytest.mark.parametrize("split, images", [("train", 137), ("val", 37)])
def test_voc_mini__counts(data_root, split, images):
    # the photos are COCO's: read them there, since not every copy of this folder keeps JPEGImages' links as links
    where = dict(ann_file=f"voc_mini/VOCdevkit/VOC2012/ImageSets/Main/{split}.txt", image_prefix=f"coco_mini/{split}2017", data_root=str(data_root))
    data = VocDetection(**where, test_mode=True, transforms=LOAD)
    assert len(data) == images and data.vocabulary.names == load_vocabulary("voc").names
    assert data[0]["target"].image_id == int(data.image_info(0)["file_name"].removesuffix(".jpg"))


def voc(folder, objects: str):
    root = folder / "VOC2012"
    for name in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "ImageSets/Main/train.txt").write_text("2007_000027\n")
    xml = f"<annotation><size><width>60</width><height>40</height><depth>3</depth></size>{objects}</annotation>"
    (root / "Annotations/2007_000027.xml").write_text(xml)
    shutil.copyfile(folder / "images" / "1.png", root / "JPEGImages/2007_000027.jpg")
    return dict(ann_file="VOC2012/ImageSets/Main/train.txt", data_root=str(folder))


def thing(name, box, difficult=0):
    numbers = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), box))
    return f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{numbers}</bndbox><part><name>head</name></part></object>"


def test_voc__pixels_and_difficult(small):
    where = voc(small, thing("dog", (1, 1, 60, 40)) + thing("cat", (11, 6, 20, 15), difficult=1))
    data = VocDetection(**where)
    assert data[0]["boxes_xyxy"].tolist() == [[0, 0, 60, 40]]  # the whole image, x2 = x1 + width; the difficult one is not for training
    assert data.annotations(0)["boxes_xyxy"].tolist() == [[0, 0, 60, 40], [10, 5, 20, 15]] and data.annotations(0)["difficult"].tolist() == [False, True]
    assert data.image_info(0)["image_id"] == 2007000027
    assert len(VocDetection(**where, test_mode=True)[0]["labels"]) == 2
    assert VocDetection(**where, vocabulary=["dog"])[0]["labels"].tolist() == [0]


def test_voc__own_classes(small):
    where = voc(small, thing("bolt", (1, 1, 10, 10)))
    with pytest.raises(ValueError, match=r"2007_000027\.xml: object 1: the name 'bolt' is not a known class \(near: 'boat'"):
        VocDetection(**where)
    with pytest.raises(ValueError, match="'bolt' is not a known class"):
        VocDetection(**where, vocabulary=["dog", "cat"])
    assert VocDetection(**where, vocabulary=["nut", "bolt"])[0]["labels"].tolist() == [1]
    where = voc(small, thing("helmet", (1, 1, 10, 10)) + thing("person", (1, 1, 30, 40)) + thing("dog", (5, 5, 9, 9)))
    assert VocDetection(**where, vocabulary=["person", "vest", "helmet"])[0]["labels"].tolist() == [2, 0], "some of the names are VOC's as well"
    with pytest.raises(ValueError, match="'helmet' is not a known class"):
        VocDetection(**where, vocabulary=["person"])


def test_voc__errors(small):
    where = voc(small, thing("dog", (30, 1, 10, 10)))
    with pytest.raises(ValueError, match=r"object 1 of 2007_000027.xml: a box must be finite"):
        VocDetection(**where)
    with pytest.raises(ValueError, match=r"2007_000027.xml: object 1: bndbox: must hold the numbers"):
        VocDetection(**voc(small, thing("dog", (30, 1, "x", 10))))
    with pytest.raises(ValueError, match=r"not among|every class of the vocabulary must be one of"):
        VocDetection(**voc(small, thing("dog", (1, 1, 10, 10))), vocabulary=["dog", "doog"])
    xml = small / "VOC2012/Annotations/2007_000027.xml"
    xml.write_text(xml.read_text()[:60])
    with pytest.raises(ValueError, match=r"2007_000027.xml: must be XML, broken at line 1 column \d+"):
        VocDetection(**where)
    xml.unlink()
    with pytest.raises(FileNotFoundError, match=r"train.txt: image '2007_000027' has no annotation"):
        VocDetection(**where)


def test_shapes__reads_what_was_drawn(tmp_path, monkeypatch):
    import ovdense.data.shapes as shapes

    asked = []

    def few(seed, root):
        asked.append((seed, root))
        return shapes.make_shapes(tmp_path / "shapes", seed, 4, 2, num_workers=1)

    monkeypatch.setattr(shapes, "ensure_shapes", few)
    data = ShapesDetection(split="val", shapes_seed=2, transforms=LOAD, test_mode=True)
    assert asked == [(2, None)] and data.prompt == "descriptions" and len(data) == 2
    sample = data[0]
    assert len(sample["target"].labels) > 1 and sample["image"].shape[1:] == sample["target"].original_size_hw
    assert all(e.descriptions and e.frequency for e in data.vocabulary)
    assert len(ShapesDetection(split="train", shapes_seed=2)) == 4
    with pytest.raises(ValueError, match="split must be 'train' or 'val'"):
        ShapesDetection(split="test")


def test_loop__is_one_pass(small):
    assert [s["image_id"] for s in make(small)] == [1, 2] and len(list(make(small, test_mode=True))) == 3


@pytest.mark.parametrize("turn", [3, 6])
def test_turned_photos__boxes_lie_on_what_viewers_show(tmp_path, turn):
    """A red thing at the upper left of the upright photo of 40 x 60, stored as the camera held it."""
    folder = write_dataset(tmp_path, small_content())
    shown = np.zeros((40, 60, 3), dtype=np.uint8)
    shown[5:15, 10:30] = 255, 0, 0  # annotation 11
    stored = np.rot90(shown, 2 if turn == 3 else 1)
    exif = Image.Exif()
    exif[0x0112] = turn
    Image.fromarray(np.ascontiguousarray(stored)).save(folder / "images/1.png", exif=exif)
    sample = make(folder, transforms=LOAD)[0]
    x1, y1, x2, y2 = sample["target"].boxes_xyxy[sample["target"].labels == 2][0].int().tolist()
    assert (sample["image"][:, y1:y2, x1:x2].float().mean((1, 2)) == torch.tensor([255.0, 0, 0])).all()
    if turn == 6:
        content = small_content()
        content["images"][0].update(height=60, width=40)
        (folder / "ann.json").write_text(json.dumps(content))
        with pytest.raises(ValueError, match="1.png: must be 60 x 40 .*got 40 x 60; the file's annotations were made on the stored pixels.*orientation is 6"):
            make(folder, transforms=LOAD)[0]
