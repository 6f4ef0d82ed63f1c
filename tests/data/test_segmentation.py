"""Semantic datasets: what a pixel value means, errors that name the file, label maps that follow the image."""
import json

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from ovdense.compat.segmentations import all_fill, encode_segmentation
from ovdense.data.detection import CocoDetection
from ovdense.data.label_maps import CropPatch, LoadLabelMap, PhotometricDistortion, RandomScale
from ovdense.data.masks import decode_masks, paint
from ovdense.data.segmentation import CocoSegmentation, FolderSegmentation, ShapesSegmentation, VocSegmentation
from ovdense.data.transforms import LoadImage, PackDetection, RandomFlip, ResizeShortestEdge, nearest
from ovdense.structures import IGNORE_LABEL, Vocabulary

TEST = [LoadImage(), ResizeShortestEdge((48,), 96), LoadLabelMap(), PackDetection()]
TRAIN = [LoadImage(), LoadLabelMap(), RandomFlip(1.0), RandomScale((64, 32), (0.5, 2.0)), CropPatch((32, 40), 0.75), PhotometricDistortion(), PackDetection()]


@pytest.fixture
def folder(tmp_path):
    """Two photos of 20 x 30 whose left third is value 0, middle 1, right 7."""
    (tmp_path / "photos/a").mkdir(parents=True)
    (tmp_path / "labels/a").mkdir(parents=True)
    values = np.repeat(np.array([0, 1, 7], dtype=np.uint8), 10)[None].repeat(20, 0)
    for name in ("a/1", "a/2"):
        Image.fromarray(np.stack([values * 30] * 3, -1)).save(tmp_path / f"photos/{name}.png")
        Image.fromarray(values).save(tmp_path / f"labels/{name}_l.png")
    return tmp_path


def make(folder, **kwargs):
    given = dict(image_prefix="photos", label_prefix="labels", image_suffix=".png", label_suffix="_l.png", classes={0: "wall", 1: "cat", 7: "sky"},
                 data_root=str(folder))
    return FolderSegmentation(**(given | kwargs))


def test_folder__values_become_classes_of_the_vocabulary(folder):
    everything, part = make(folder), make(folder, vocabulary=["sky", "wall"])
    assert everything.vocabulary.names == ("wall", "cat", "sky")
    assert everything.label_map(0)[0, ::10].tolist() == [0, 1, 2]
    assert part.label_map(1)[0, ::10].tolist() == [1, IGNORE_LABEL, 0]
    assert make(folder, first=1)._names == ("a/1.png",)


def test_folder__value_counting_from_one(folder):
    assert make(folder, classes=["cat", "dog"], first_value=1).label_map(0)[0, ::10].tolist() == [IGNORE_LABEL, 0, IGNORE_LABEL]


def test_folder__classes_from_a_json_file(folder):
    (folder / "classes.json").write_text(json.dumps({"0": "wall", "7": "sky"}))
    assert make(folder, classes="classes.json").vocabulary.names == ("wall", "sky")


def test_folder__a_value_that_a_built_in_map_does_not_list_is_of_another_form_of_the_labels(folder):
    """Ids read as train ids would be other classes, without a word."""
    values = np.full((20, 30), 26, dtype=np.uint8)  # a car by its id; no train id
    values[:, 0], values[:, 1] = 7, 255
    Image.fromarray(values).save(folder / "labels/a/2_l.png")
    assert make(folder, classes="cityscapes19_ids").label_map(1)[0, :3].tolist() == [0, IGNORE_LABEL, 13]
    assert make(folder, classes="ade150_png").label_map(1)[0, 1] == IGNORE_LABEL, "255 never counts, listed or not"
    trained = make(folder, classes="cityscapes19_trainids")
    assert trained.label_map(0)[0, 29] == 7, "all are train ids"
    with pytest.raises(ValueError, match=r"a/2_l.png: cityscapes19_trainids: pixel values must be among .* got \[26\] .*is it the map of this form"):
        trained.label_map(1)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(vocabulary=["wall", "kat"]), "'kat' .near: 'cat'"),
        (dict(label_prefix="lables"), "lables is missing"),
        (dict(label_suffix=".png"), "every photo must have a label file, 2 of 2"),
        (dict(classes={300: "x"}), "0..254"),
        (dict(first=0), "first must be at least 1"),
    ],
)
def test_folder__errors(folder, change, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        make(folder, **change)


def test_folder__photos_without_labels(folder):
    (folder / "labels/a/2_l.png").unlink()
    assert len(make(folder, labelled_only=True)) == 1


@pytest.mark.parametrize(
    "picture, message",
    [(Image.new("RGB", (30, 20)), "one number of 8 bits"), (Image.new("L", (29, 20)), "photo's size"), (None, "could not be read")],
    ids=["colours", "another size", "no image"],
)
def test_folder__a_label_file_that_does_not_fit(folder, picture, message):
    path = folder / "labels/a/1_l.png"
    picture.save(path) if picture else path.write_bytes(b"x")
    with pytest.raises(ValueError, match=message):
        make(folder).label_map(0)


def test_label_map__keeps_the_files_size_at_test_and_the_inputs_in_training(folder):
    test, train = make(folder, transforms=TEST, test_mode=True)[0]["target"], make(folder, transforms=TRAIN)[0]["target"]
    assert test.size_hw == (48, 72) and test.label_map_HW.shape == (20, 30) and test.label_map_HW.dtype == torch.int64
    assert train.size_hw == (32, 40) and train.label_map_HW.shape == (32, 40)
    assert set(train.label_map_HW.unique().tolist()) <= {0, 1, 2, IGNORE_LABEL}


def test_label_map__follows_the_image_through_flip_scale_and_crop(folder):
    steps = [LoadImage(), LoadLabelMap(), RandomFlip(1.0), RandomScale((60, 40), (1.0, 1.0)), CropPatch((40, 60))]
    sample = make(folder, transforms=steps)[0]
    assert sample["label_map"].shape == (40, 60) and sample["image"].shape == (40, 60, 3)
    middle = sample["image"][20, [3, 30, 56], 0] / 30  # the photo's grey is 30 x the value
    assert np.array([0, 1, 7])[sample["label_map"][20, [3, 30, 56]]].tolist() == middle.round().tolist() == [7, 1, 0]


def test_crop__pads_with_ignore_and_looks_for_variety():
    sample = {"image": np.zeros((8, 8, 3), np.uint8), "label_map": np.zeros((8, 8), np.uint8), "rng": np.random.default_rng(0)}
    out = CropPatch((10, 12), pad_rgb=(1, 2, 3))(dict(sample))
    assert out["image"][9, 11].tolist() == [1, 2, 3] and out["label_map"][9, 11] == IGNORE_LABEL and out["label_map"][7, 7] == 0
    wide = np.zeros((8, 64), np.uint8)
    wide[:, 60:] = 1
    hits = {share: sum(len(np.unique(CropPatch((8, 8), max_share=share)(
        {"image": np.zeros((8, 64, 3), np.uint8), "label_map": wide, "rng": np.random.default_rng(seed)})["label_map"])) > 1 for seed in range(60))
        for share in (0.9, 1.0)}  # fmt: skip
    assert hits[0.9] > 2 * hits[1.0] > 0


def test_distortion__changes_colours_and_repeats_with_the_seed():
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    first, again, other = (PhotometricDistortion()({"image": image.copy(), "rng": np.random.default_rng(s)})["image"] for s in (3, 3, 4))
    assert (first == again).all() and (first != other).any() and first.dtype == np.uint8


def test_nearest__takes_the_value_at_the_centre():
    assert nearest(np.array([[1, 2]]), (1, 4)).tolist() == [[1, 1, 2, 2]]
    assert nearest(np.arange(6).reshape(1, 1, 6), (1, 3)).tolist() == [[[1, 3, 5]]]


def test_voc__with_and_without_background(data_root):
    given = dict(split_file="voc_mini/VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt", image_prefix="coco_mini/val2017", data_root=str(data_root),
                 test_mode=True)
    with_background, without = VocSegmentation(**given), VocSegmentation(**given, background=False)
    assert len(with_background) == len(without) > 30
    assert with_background.vocabulary.names[0] == "background" and len(with_background.vocabulary) == 21 and len(without.vocabulary) == 20
    for i in range(len(without)):
        a, b = with_background.label_map(i).astype(int), without.label_map(i).astype(int)
        assert ((a == 0) <= (b == IGNORE_LABEL)).all() and (a[(a > 0) & (a < 255)] - 1 == b[b < 255]).all()
    assert VocSegmentation(**given, transforms=TEST)[0]["target"].label_map_HW.max() <= 255


def test_coco_semantic__real_photos(data_root):
    found = FolderSegmentation(image_prefix="coco_mini/train2017", label_prefix="coco_mini/semantic_train2017",
                               classes="coco_mini/annotations/semantic_classes.json", labelled_only=True, data_root=str(data_root))
    assert len(found) == 100 and "unlabeled" in found.vocabulary.names
    labels = found.label_map(0)
    assert labels.shape == found.image_info(0)["size_hw"]


def test_masks__dataset_serves_them_with_the_boxes(data_root):
    found = CocoDetection(ann_file="coco_mini/annotations/instances_val2017.json", image_prefix="coco_mini/val2017", data_root=str(data_root), with_masks=True,
                          transforms=[LoadImage(), RandomFlip(1.0), ResizeShortestEdge((96,), 160), PackDetection()])
    target = found[0]["target"]
    assert target.masks_NHW.shape == (len(target.labels), *target.size_hw)
    for mask, (x1, y1, x2, y2) in zip(target.masks_NHW, target.boxes_xyxy.tolist()):
        y, x = mask.nonzero(as_tuple=True)
        if len(y) > 50:
            assert abs(int(x.min()) - x1) < 3 and abs(int(x.max()) + 1 - x2) < 3 and abs(int(y.min()) - y1) < 3 and abs(int(y.max()) + 1 - y2) < 3


def test_coco_label_maps__paint_instances_and_ignore_crowds(data_root):
    found = CocoSegmentation(ann_file="coco_mini/annotations/instances_val2017.json", image_prefix="coco_mini/val2017", data_root=str(data_root))
    assert found.vocabulary[0].is_background and len(found.vocabulary) == 81
    seen = {int(v) for i in range(10) for v in np.unique(found.label_map(i))}
    assert 0 in seen and len(seen) > 10


@pytest.mark.slow
def test_shapes__label_maps_of_the_embedded_scenes(tmp_path, monkeypatch):
    monkeypatch.setattr("ovdense.data.shapes.NUM_TRAIN", 3)
    monkeypatch.setattr("ovdense.data.shapes.NUM_VAL", 1)
    found = ShapesSegmentation(root=str(tmp_path), vocabulary=None)
    assert len(found) == 3 and len(found.vocabulary) == 121
    present = set(np.unique(found.label_map(0)).tolist()) - {0}
    assert present == {int(k) + 1 for k in found._source.annotations(0)["labels"]}


def test_encode__forms_of_one_mask_are_equal():
    mask = np.zeros((6, 8), bool)
    mask[1:4, 2:7] = True
    polygon = encode_segmentation([[2, 1, 7, 1, 7, 4, 2, 4]], (6, 8), "a")
    runs, value, flat = [], False, mask.T.reshape(-1)
    for v in flat:
        if not runs or v != value:
            runs, value = runs + ([0] if not runs and v else []) + [0], v
        runs[-1] += 1
    uncompressed = encode_segmentation({"counts": runs, "size": [6, 8]}, (6, 8), "a")
    assert (decode_masks([polygon, uncompressed], (6, 8)) == mask).all()
    assert decode_masks([], (6, 8)).shape == (0, 6, 8)


@pytest.mark.parametrize(
    "segmentation, message",
    [([[1, 2, 3, 4]], "three points"), ([[1, 2, float("nan"), 4, 5, 6]], "finite"), ([], "at least one polygon"),
     ({"counts": [48], "size": [8, 6]}, "size"), ({"counts": [47], "size": [6, 8]}, "add up"), ("x", "polygons")],
)  # fmt: skip
def test_encode__broken(segmentation, message):
    with pytest.raises(ValueError, match=f"annotation 5.*{message}"):
        encode_segmentation(segmentation, (6, 8), "annotation 5")


def test_paint__small_over_large():
    masks = np.zeros((2, 4, 4), bool)
    masks[0, 1:3, 1:3], masks[1] = True, True
    assert paint(masks, [7, 9], (4, 4), 0)[1:3, 1:3].tolist() == [[7, 7], [7, 7]]
    assert (paint(masks[:0], [], (4, 4), 3) == 3).all()


def test_vocabulary__more_classes_than_a_label_map_holds(folder):
    many = Vocabulary.of([f"c{k}" for k in range(254)])
    assert len(make(folder, classes=many.names).vocabulary) == 254


def write_many_categories(folder, count: int) -> None:
    """Write a file of `count` categories: a large object of category 1, a small one of the last on it, a crowd of category 2 in a corner."""
    (folder / "photos").mkdir()
    Image.new("RGB", (30, 20)).save(folder / "photos/1.png")
    categories = [{"id": k + 1, "name": f"c{k + 1}"} for k in range(count)]
    runs = {"size": [20, 30], "counts": [0, 40, 560]}  # the first two columns
    things = [(1, [[0, 0, 30, 0, 30, 20, 0, 20]], 0), (count, [[10, 5, 20, 5, 20, 15, 10, 15]], 0), (2, runs, 1)]
    content = {
        "images": [{"id": 1, "file_name": "1.png", "height": 20, "width": 30}], "categories": categories,
        "annotations": [{"id": n, "image_id": 1, "category_id": k, "bbox": [0, 0, 30, 20], "segmentation": s, "iscrowd": c}
                        for n, (k, s, c) in enumerate(things)],
    }  # fmt: skip
    (folder / "ann.json").write_text(json.dumps(content))


@pytest.mark.parametrize("count", [3, 254, 255, 256, 300])
def test_coco_label_maps__of_more_categories_than_a_byte_holds(tmp_path, count):
    write_many_categories(tmp_path, count)
    arguments = dict(ann_file="ann.json", image_prefix="photos", data_root=str(tmp_path))
    found = CocoSegmentation(**arguments, vocabulary=[f"c{count}", "c1"])
    picture = found.label_map(0)
    assert picture.dtype == np.uint8 and picture[10, [0, 5, 15, 25]].tolist() == [IGNORE_LABEL, 1, 0, 1]
    without = CocoSegmentation(**arguments, vocabulary=["c1"])
    assert without.label_map(0)[10, [0, 5, 15, 25]].tolist() == [IGNORE_LABEL, 0, IGNORE_LABEL, 0], "an object that is not asked for hides what is below it"
    if count > 254:
        with pytest.raises(ValueError, match=f"holds at most 255 classes, got {count + 1}; ask for some"):
            CocoSegmentation(**arguments)


def test_loop__is_one_pass(folder):
    assert [s["file_name"] for s in make(folder)] == ["a/1.png", "a/2.png"]


def test_folder__turned_photos_and_their_labels(folder):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = folder / "photos/a/1.png"
    Image.fromarray(np.rot90(np.asarray(Image.open(path))).copy()).save(path, exif=exif)
    data = make(folder)
    assert data.image_info(0)["size_hw"] == (20, 30) and data.label_map(0)[0, ::10].tolist() == [0, 1, 2], "labels of the upright photo"
    values = np.asarray(Image.open(folder / "labels/a/1_l.png"))
    Image.fromarray(np.rot90(values).copy()).save(folder / "labels/a/1_l.png")
    with pytest.raises(ValueError, match="1_l.png: must have its photo's size .20, 30.*annotations were made on the stored pixels.*orientation is 6"):
        data.label_map(0)
    Image.fromarray(np.rot90(values).copy()).save(folder / "labels/a/1_l.png", exif=exif)
    assert (data.values(0) == values).all(), "labels that are turned as their photo is"


def test_run_lengths__many_masks_at_once_are_judged_as_one_by_one():
    """Against pycocotools' own decoder, which takes any text: the runs of random masks, some of them spoilt."""
    rng = np.random.default_rng(0)
    for _ in range(60):
        masks = rng.random((int(rng.integers(1, 6)), 13, 11)) < rng.random()
        counts = [coco_mask.encode(np.asfortranarray(m.astype(np.uint8)))["counts"] for m in masks]
        assert all_fill(counts, 143) and not all_fill(counts, 142) and all(all_fill([c], 143) for c in counts)
        spoilt = bytearray(counts[-1])
        spoilt[rng.integers(len(spoilt))] = int(rng.integers(40, 130))
        one = all_fill([bytes(spoilt)], 143)
        assert all_fill([*counts[:-1], bytes(spoilt)], 143) == one == all_fill([bytes(spoilt), *counts], 143)
        assert not one or coco_mask.encode(coco_mask.decode({"size": [13, 11], "counts": bytes(spoilt)})) is not None
    assert all_fill([], 5) and not all_fill([b""], 0)
