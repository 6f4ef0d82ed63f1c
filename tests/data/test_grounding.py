"""Grounding data as users have it: MDETR's annotation form, images of two sources, several sets mixed."""
import json

import numpy as np
import pytest
from PIL import Image

from ovdense.data.grounding import GroundingDetection, MixedDataset, PhraseGroundingDetection
from ovdense.data.grounding_descriptions import GroundingOutput, format_grounding_output
from ovdense.data.grounding_queries import GroundingQueries
from ovdense.data.samplers import ResumableInfiniteSampler
from ovdense.data.transforms import LoadImage, PackDetection, ResizeShortestEdge

CAPTION = "a red ball left of a blue cube."


@pytest.fixture
def files(tmp_path):
    """Return a function that writes an annotation file, changed by `edit`, and its photos, and returns the folder."""
    images = [
        {"id": 7, "file_name": "a.jpg", "height": 40, "width": 60, "caption": CAPTION, "data_source": "coco", "gpt3_outputs": {CAPTION: "said"}},
        {"id": 9, "file_name": "b.jpg", "height": 40, "width": 60, "caption": "nothing is marked here", "data_source": "vg"},
        {"id": 8, "file_name": "c.jpg", "height": 40, "width": 60, "caption": "two cubes", "data_source": "vg"},
    ]
    annotations = [
        {"id": 1, "image_id": 8, "bbox": [1, 2, 10, 10], "tokens_positive": [[4, 9]]},
        {"id": 2, "image_id": 7, "bbox": [5, 5, 20, 10], "tokens_positive": [[0, 10]], "nouns": ["ball"]},
        {"id": 3, "image_id": 7, "bbox": [30, 5, 20, 10], "tokens_positive": [[19, 30], [2, 5]]},
        {"id": 4, "image_id": 7, "bbox": [0, 0, 5, 5], "tokens_positive": [[0, 10]], "iscrowd": 1},
    ]

    def write(edit=lambda content: None):
        content = {"images": json.loads(json.dumps(images)), "annotations": json.loads(json.dumps(annotations))}
        edit(content)
        (tmp_path / "train.json").write_text(json.dumps(content))
        for folder, names in (("photos", "abc"), ("coco", "a"), ("vg", "bc")):
            (tmp_path / folder).mkdir(exist_ok=True)
            for name in names:
                Image.new("RGB", (60, 40)).save(tmp_path / folder / f"{name}.jpg")
        return tmp_path

    return write


def dataset(folder, **changed):
    return GroundingDetection(**dict(ann_file="train.json", image_prefix="photos", data_root=str(folder)) | changed)


def test_grounding__sample_has_the_caption_and_the_spans_of_each_box(files):
    data = dataset(files())
    assert len(data) == 2, "the image without a box is left out"
    sample = data[0]
    assert sample["image_id"] == 7 and sample["caption"] == CAPTION and sample["gpt3_outputs"] == {CAPTION: "said"}
    assert [[CAPTION[b:e] for b, e in spans] for spans in sample["positive_spans"]] == [["a red ball"], ["a blue cube", "red"]]
    assert sample["boxes_xyxy"].tolist() == [[5, 5, 25, 15], [30, 5, 50, 15]] and sample["labels"].tolist() == [0, 0]
    assert sample["nouns"] == {"a red ball": ("ball",)} and "nouns" not in data[1]
    assert "gpt3_outputs" not in data[1] and len(dataset(files(), filter_empty=False)) == 3


def test_grounding__transforms_end_in_what_training_takes(files):
    steps = [dict(type=LoadImage), dict(type=ResizeShortestEdge, short_sides=(80,), max_size=200), dict(type=PackDetection)]
    target = dataset(files(), transforms=steps)[0]["target"]
    assert target.caption == CAPTION and target.positive_spans == (((0, 10),), ((19, 30), (2, 5)))
    assert target.boxes_xyxy[0].tolist() == [10, 10, 50, 30]


def test_grounding__images_of_two_sources(files):
    data = dataset(files(), image_prefix={"coco": "coco", "vg": "vg"})
    assert [data.image_info(n)["path"].split("/")[-2] for n in range(2)] == ["coco", "vg"]
    with pytest.raises(ValueError, match="entry 9: data_source must be one of coco"):
        dataset(files(), image_prefix={"coco": "coco"})


@pytest.mark.parametrize(("edit", "said"), [
    (lambda c: c.pop("annotations"), "'annotations' is missing"),
    (lambda c: c["images"][1].pop("caption"), "images, entry 9: must have caption"),
    (lambda c: c["images"][1].update(caption="  "), "entry 9: the caption must hold a word"),
    (lambda c: c["images"][1].update(id=7), "id 7 is there twice"),
    (lambda c: c["images"][1].update(id="9"), "entry 9: the id '9' must be an integer"),
    (lambda c: c["images"][1].update(id=True), "the id True must be an integer"),
    (lambda c: c["annotations"][1].update(image_id="7"), "entry 2: image_id '7' is not among"),
    (lambda c: c["annotations"][1].update(image_id=70), "entry 2: image_id 70 is not among"),
    (lambda c: c["annotations"][1].update(bbox=[1, 2, 3]), "entry 2: bbox must be four numbers"),
    (lambda c: c["annotations"][1].update(bbox=[1, 2, 0, 3]), "annotation 2"),
    (lambda c: c["annotations"][1].update(tokens_positive=[[0, 99]]), "entry 2: tokens_positive must be spans"),
    (lambda c: c["annotations"][1].update(tokens_positive=[]), "entry 2: tokens_positive must be spans"),
    (lambda c: c["annotations"][1].update(nouns="ball"), "entry 2: nouns must be a list of words"),
    (lambda c: c.update(annotations=[]), "at least one image with a box"),
])  # fmt: skip
def test_grounding__broken_entries_are_named(files, edit, said):
    with pytest.raises(ValueError, match=said):
        dataset(files(edit))


def test_grounding__spans_outside_the_caption_are_cut_where_what_is_broken_is_dropped(files):
    """As MDETR's own files can have them: a span that ends behind a caption whose last blank is gone, and a box without words."""
    def edit(content):
        content["annotations"][1].update(tokens_positive=[[0, 10], [len(CAPTION) - 5, len(CAPTION) + 1]])
        content["annotations"][2].update(tokens_positive=[])

    folder = files(edit)
    with pytest.raises(ValueError, match="entry 2: tokens_positive must be spans"):
        dataset(folder)
    with pytest.warns(UserWarning, match="the spans of 2 of 3 boxes did not lie in their caption.* 1 boxes without words"):
        data = dataset(folder, invalid_boxes="drop")
    assert data[0]["positive_spans"] == (((0, 10), (len(CAPTION) - 5, len(CAPTION))), ()) and len(data[0]["boxes_xyxy"]) == 2
    with pytest.raises(ValueError, match="tokens_positive must be spans"), pytest.warns(UserWarning):
        phrases_of(folder, invalid_boxes="drop")  # what is measured must be whole
    broken = files(lambda c: c["annotations"][1].update(tokens_positive=[[0]]))
    with pytest.raises(ValueError, match="entry 2: tokens_positive must be spans"):
        dataset(broken, invalid_boxes="drop")


def test_grounding__missing_photos_and_files_are_named(files):
    folder = files()
    (folder / "photos" / "c.jpg").unlink()
    with pytest.raises(FileNotFoundError, match="c.jpg"):
        dataset(folder)
    with pytest.raises(FileNotFoundError, match="other.json"):
        dataset(folder, ann_file="other.json")


class Numbers:
    """A data set whose samples say their index and draw."""

    def __init__(self, name, length):
        self.dataset_name, self.length = name, length

    def __len__(self):
        return self.length

    def get_cat_ids(self, index):
        return [index]

    def __getitem__(self, index):
        draw, n = divmod(index, self.length)
        return self.dataset_name, n, draw


def test_mixed__every_repeat_draws_anew_and_a_pass_holds_each_as_often_as_asked():
    mixed = MixedDataset(datasets=[Numbers("a", 2), Numbers("b", 3)], repeats=(2, 1))
    assert len(mixed) == 7 and mixed.metainfo["dataset"] == "a + b"
    first, second = ([mixed[n + 7 * draw] for n in range(7)] for draw in (0, 1))
    assert first == [("a", 0, 0), ("a", 1, 0), ("a", 0, 1), ("a", 1, 1), ("b", 0, 0), ("b", 1, 0), ("b", 2, 0)]
    assert len({*first, *second}) == 14, "no sample is drawn twice with the same randomness"
    classes = [mixed.get_cat_ids(n)[0] for n in range(7)]
    assert classes[:2] == classes[2:4] and len(set(classes)) == 5
    drawn = [mixed[i] for i, _ in zip(ResumableInfiniteSampler(mixed, seed=0), range(21))]
    assert np.unique([f"{d[0]}{d[1]}" for d in drawn], return_counts=True)[1].tolist() == [6, 6, 3, 3, 3]


@pytest.mark.parametrize("repeats", [(1,), (1, 0), ()])
def test_mixed__repeats_must_fit(repeats):
    with pytest.raises(ValueError, match="one number of at least 1"):
        MixedDataset(datasets=[Numbers("a", 2), Numbers("b", 3)], repeats=repeats)


def test_grounding__queries_describe_what_was_said_of_the_phrases(files, monkeypatch):
    said = format_grounding_output(GroundingOutput(
        descriptions={"a red ball": "a kind of toy, round, red"},
        confusable={"a red plate": "a kind of dish, flat, red"},
        negative_captions=("a red ball right of a blue cube.",),
    ))  # fmt: skip
    folder = files(lambda content: content["images"][0].update(gpt3_outputs={CAPTION: said}))
    (folder / "nouns.json").write_text(json.dumps({"ball": ["{\"type\": \"toy\", \"description\": \"round\", \"similar objects\": []}", 12]}))
    monkeypatch.setenv("OVDENSE_DATA", str(folder))
    queries = dict(type=GroundingQueries, nouns="nouns.json", prob_caption=0.5, prob_nouns=0.4)
    data = dataset(folder, transforms=[queries])
    captions = set()
    for draw in range(40):
        sample = data[len(data) * draw]
        captions.add(sample["caption"])
        assert len(sample["positive_spans"]) == len(sample["boxes_xyxy"]) and "gpt3_outputs" not in sample and "nouns" not in sample
    assert CAPTION in captions and len(captions) > 5
    assert any("a kind of toy" in c for c in captions) and any("right of a blue cube" in c for c in captions)


def phrases_of(folder, **changed):
    return PhraseGroundingDetection(**dict(ann_file="train.json", image_prefix="photos", data_root=str(folder)) | changed)


def test_phrases__are_the_listed_ones_with_every_box_that_speaks_of_them(files):
    data = phrases_of(files(lambda c: c["images"][0].update(tokens_positive_eval=[[[19, 30]], [[0, 10]], [[2, 5]]], original_img_id=3, sentence_id=1)))
    of_image = data.phrases_of_image(7)
    assert of_image.texts == ("a blue cube", "a red ball", "red") and of_image.caption == CAPTION
    assert [b.tolist() for b in of_image.boxes_xyxy] == [[[30, 5, 50, 15]], [[5, 5, 25, 15]], [[30, 5, 50, 15]]]
    assert [data.image_info(n)["image_id"] for n in range(len(data))] == [7, 8], "the image without a phrase is left out"
    assert data.vocabulary.names == data.metainfo["classes"] == ("phrase 1", "phrase 2", "phrase 3") and data.prompt == data.metainfo["prompt"] == "captions"
    assert data[0]["caption"] == CAPTION and data.image_folder.name == "photos"


def test_phrases__without_a_list_are_the_spans_of_the_boxes(files):
    data = phrases_of(files())
    assert data.phrases_of_image(7).spans == (((0, 10),), ((2, 5), (19, 30))) and data.phrases_of_image(8).texts == ("cubes",)
    with pytest.raises(KeyError, match="image 9 is not among the 2 images with a phrase"):
        data.phrases_of_image(9)


def test_phrases__keep_boxes_that_samples_drop(files):
    folder = files(lambda c: c["annotations"][1].update(bbox=[5, 5, 0, 10]))
    with pytest.warns(UserWarning, match="1"):
        data = phrases_of(folder, invalid_boxes="drop")
    assert len(data[0]["boxes_xyxy"]) == 1 and data.phrases_of_image(7).boxes_xyxy[0].tolist() == [[5, 5, 5, 15]]


@pytest.mark.parametrize(("edit", "said"), [
    (lambda c: c["images"][0].update(tokens_positive_eval=[[[0, 1]]]), "entry 7: each phrase must have a box, 'a'"),
    (lambda c: c["images"][0].update(tokens_positive_eval=[[]]), "entry 7: tokens_positive_eval, phrase 0"),
    (lambda c: c.update(annotations=[]), "at least one image with a box"),
])  # fmt: skip
def test_phrases__broken_lists_are_named(files, edit, said):
    with pytest.raises(ValueError, match=said):
        phrases_of(files(edit))


def test_mixed__classes_of_different_parts_are_different():
    """Class 0 of one part is rare and class 0 of the other is not: repeat factors must not add them up."""
    mixed = MixedDataset(datasets=[Numbers("a", 3), MixedDataset(datasets=[Numbers("b", 2), Numbers("c", 2)])])
    classes = [tuple(mixed.get_cat_ids(n)) for n in range(len(mixed))]
    assert len(set(classes)) == 7 and all(type(k) is int for of_image in classes for k in of_image)


def test_loop__is_one_pass(files):
    data = dataset(files())
    assert [s["image_id"] for s in data] == [7, 8] == [s["image_id"] for s in MixedDataset(datasets=[data])]
    with pytest.raises(IndexError, match="at least 0, got -1"):
        MixedDataset(datasets=[data])[-1]
