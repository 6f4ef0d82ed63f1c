"""Published files, a few lines each in their own form, become captions with boxes; and the three forms that the data set reads."""
import json
import pickle

import numpy as np
import pytest
from PIL import Image

from ovdense.compat.flickr_entities import read_sentences
from ovdense.compat.grounding_forms import read_odvg
from ovdense.data import grounding_builders as builders
from ovdense.data.grounding import GroundingDetection, PhraseGroundingDetection
from ovdense.data.lvis_subset import lvis_subset
from ovdense.data.transforms import LoadImage, PackDetection, RandomCrop, RandomFlip
from ovdense.text.mentions import mentions_of, plural
from ovdense.text.noun_chunks import root_phrase
from tests.tiny_run import load_script


def rows(made):
    """Return (caption, [(box, the words that stand for it)]) of each image."""
    captions = {i["id"]: i["caption"] for i in made["images"]}
    return [(c, [(a["bbox"], [c[b:e] for b, e in a["tokens_positive"]]) for a in made["annotations"] if a["image_id"] == n]) for n, c in captions.items()]


def thing(names, box):
    named = "".join(f"<name>{n}</name>" for n in names)
    sides = "".join(f"<{s}>{v}</{s}>" for s, v in zip(("xmin", "ymin", "xmax", "ymax"), box))
    return f"<object>{named}<bndbox>{sides}</bndbox></object>"


@pytest.fixture
def flickr(tmp_path):
    (tmp_path / "Sentences").mkdir()
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "Sentences" / "36979.txt").write_text("[/EN#1/people A group] of [/EN#2/people friends] drink [/EN#3/other beer] in [/EN#0/notvisual it] .\n")
    things = thing("1", (1, 1, 101, 101)) + thing("2", (1, 1, 100, 101)) + thing("2", (150, 1, 180, 50)) + thing("3", (5, 5, 9, 9))
    (tmp_path / "Annotations" / "36979.xml").write_text(f"<annotation><size><width>200</width><height>120</height></size>{things}</annotation>")
    (tmp_path / "val.txt").write_text("36979\n")
    return tmp_path


def test_flickr__boxes_that_overlap_are_one_thing_of_all_its_phrases(flickr):
    made = builders.flickr_entities([("36979", *read_sentences(flickr, "36979"))])
    ((caption, boxes),) = rows(made)
    assert caption == "A group of friends drink beer in it ."
    assert boxes == [([1, 1, 99, 100], ["A group", "friends"]), ([150, 1, 30, 49], ["friends"]), ([5, 5, 4, 4], ["beer"])]
    image = made["images"][0]
    assert [caption[b:e] for ((b, e),) in image["tokens_positive_eval"]] == ["A group", "friends", "beer"]
    assert (image["height"], image["width"], image["sentence_id"], image["original_img_id"]) == (120, 200, 0, "36979")


def test_flickr__merged_has_one_box_an_entity(flickr):
    ((_, boxes),) = rows(builders.flickr_entities([("36979", *read_sentences(flickr, "36979"))], merged=True))
    assert ([1, 1, 179, 100], ["friends"]) in boxes and len(boxes) == 3


def test_flickr__one_blank_between_words(flickr):
    (flickr / "Sentences" / "36979.txt").write_text(" [/EN#1/people A  group]  of [/EN#2/people friends]  drink .  \n")
    image, = builders.flickr_entities([("36979", *read_sentences(flickr, "36979"))])["images"]
    assert image["caption"] == "A group of friends drink ."
    assert [image["caption"][b:e] for ((b, e),) in image["tokens_positive_eval"]] == ["A group", "friends"]


def test_same_boxes__groups_through_others():
    boxes = np.array([[0, 0, 100, 100], [0, 0, 100, 97], [0, 0, 100, 94], [50, 50, 60, 60]], dtype=float)
    assert builders.same_boxes(boxes) == [[0, 1, 2], [3]] and builders.same_boxes(np.zeros((0, 4))) == []


COCO = {"images": [{"id": 7, "file_name": "COCO_train2014_000000000007.jpg", "height": 100, "width": 200}],
        "categories": [{"id": 18, "name": "dog"}, {"id": 1, "name": "person"}],
        "annotations": [{"id": 70, "image_id": 7, "category_id": 18, "bbox": [10, 20, 30, 40], "segmentation": [[10, 20, 40, 20, 40, 60]]},
                        {"id": 71, "image_id": 7, "category_id": 1, "bbox": [50, 5, 20, 80], "segmentation": [[50, 5, 70, 5, 70, 85]]}]}
REFS = [{"ref_id": 1, "image_id": 7, "ann_id": 70, "split": "train", "category_id": 18, "file_name": "COCO_train2014_000000000007_70.jpg",
         "sentences": [{"sent": "the dog on the left", "tokens": []}, {"sent": "spotted dog", "tokens": []}]},
        {"ref_id": 2, "image_id": 7, "ann_id": 71, "split": "val", "category_id": 1, "file_name": "", "sentences": [{"sent": "man"}]}]


def test_refcoco__an_expression_a_row(tmp_path):
    (tmp_path / "refs.p").write_bytes(pickle.dumps(REFS, protocol=2))
    made = builders.referring_expressions(builders.read_refer(tmp_path / "refs.p"), COCO, "train", dataset="refcoco+")
    assert rows(made) == [("the dog on the left", [([10, 20, 30, 40], ["the dog on the left"])]), ("spotted dog", [([10, 20, 30, 40], ["spotted dog"])])]
    made = builders.referring_expressions(REFS, COCO, "train", root=root_phrase)
    assert [words for _, ((_, words),) in rows(made)] == [["the dog"], ["spotted dog"]]
    with pytest.raises(KeyError, match="annotation 71"):
        builders.referring_expressions(REFS, COCO | {"annotations": []}, "val")


class Evil:
    def __reduce__(self):
        return (print, ("ran",))


def test_refcoco__a_pickle_that_names_a_function_is_refused(tmp_path, capsys):
    (tmp_path / "refs.p").write_bytes(pickle.dumps([Evil()]))
    with pytest.raises(ValueError, match="print"):
        builders.read_refer(tmp_path / "refs.p")
    assert "ran" not in capsys.readouterr().out


def test_phrasecut__all_polygons_of_a_thing():
    square = [[0, 0], [4, 0], [4, 4]]
    refer = [{"task_id": "7__1", "image_id": 7, "phrase": "wheels on car", "instance_boxes": [[0, 0, 9, 9]], "Polygons": [[square, [[5, 5], [9, 5], [9, 9]]]]},
             {"task_id": "7__2", "image_id": 7, "phrase": "red bus", "instance_boxes": [], "Polygons": []}]
    made = builders.phrase_cut(refer, [{"image_id": 7, "height": 50, "width": 60}])
    assert rows(made) == [("wheels on car", [([0, 0, 9, 9], ["wheels on car"])]), ("red bus", [])]
    assert made["annotations"][0]["segmentation"] == [[0, 0, 4, 0, 4, 4], [5, 5, 9, 5, 9, 9]]
    with pytest.raises(ValueError, match="as many lists of polygons"):
        builders.phrase_cut([refer[0] | {"Polygons": []}], [{"image_id": 7, "height": 50, "width": 60}])


def test_lvis__a_row_of_each_class_and_of_each_verified_absence():
    lvis = {"categories": [{"id": 3, "name": "bow_(weapon)"}, {"id": 5, "name": "hot_dog"}],
            "images": [{"id": 9, "coco_url": "http://images.cocodataset.org/val2017/000000000009.jpg", "height": 10, "width": 20, "neg_category_ids": [5]}],
            "annotations": [{"image_id": 9, "category_id": 3, "bbox": [0, 0, 5, 5]}, {"image_id": 9, "category_id": 3, "bbox": [5, 5, 5, 5]}]}
    made = builders.lvis_modulation(lvis, clean=lambda name: name.split("_(")[0].replace("_", " "))
    assert rows(made) == [("bow", [([0, 0, 5, 5], ["bow"]), ([5, 5, 5, 5], ["bow"])]), ("hot dog", [])]
    assert made["images"][0]["file_name"] == "val2017/000000000009.jpg"
    assert builders.lvis_modulation(lvis, keep=[], clean=str)["images"] == []


def test_builders__another_file_is_said():
    """Swapped arguments gave a bare KeyError."""
    refer = [{"task_id": "7__1", "image_id": 8, "phrase": "car", "instance_boxes": [[0, 0, 9, 9]], "Polygons": [[]]}]
    images = [{"image_id": 7, "height": 50, "width": 60}]
    with pytest.raises(ValueError, match="PhraseCut's images, entry 0: must have image_id, height, width, got none of height, width; is it the right file"):
        builders.phrase_cut(images, refer)
    with pytest.raises(KeyError, match="task 7__1: its image 8 must be in the images' file"):
        builders.phrase_cut(refer, images)
    with pytest.raises(ValueError, match="LVIS's images, entry 0: must have .* got none of coco_url, neg_category_ids"):
        builders.lvis_modulation(COCO, clean=str)
    with pytest.raises(ValueError, match="LVIS's images must be a list, got NoneType"):
        builders.lvis_modulation({}, clean=str)
    with pytest.raises(ValueError, match="LVIS's categories, entry 0: must have id, image_count, got none of image_count"):
        lvis_subset(COCO, 0.1)
    with pytest.raises(ValueError, match="GQA's questions, entry 0: must have imageId, question, annotations"):
        builders.gqa({"7": {"height": 40, "width": 60, "objects": {}}}, {"q": {}})


def test_gqa__words_of_a_question_and_its_answer():
    questions = {"q1": {"imageId": "n7", "question": "Is the red car, left of the tree?", "answer": "yes", "types": {"semantic": "rel"},
                        "annotations": {"question": {"2:4": "11", "7": "12"}, "answer": {}}}}
    graphs = {"n7": {"height": 40, "width": 60, "objects": {"11": {"x": 1, "y": 2, "w": 3, "h": 4}, "12": {"x": 5, "y": 6, "w": 7, "h": 8}}}}
    made = builders.gqa(questions, graphs, {"answer_rel": {"unknown": 0, "yes": 4}})
    assert rows(made) == [("Is the red car, left of the tree?", [([1, 2, 3, 4], ["red car"]), ([5, 6, 7, 8], ["tree"])])]
    assert made["images"][0]["answers"] == {"type": 2, "rel": 4}
    with pytest.raises(ValueError, match="words '9'"):
        builders.gqa({"q": questions["q1"] | {"annotations": {"question": {"9": "11"}}}}, graphs)
    with pytest.raises(KeyError, match="image n7 must be in the scene graphs"):
        builders.gqa(questions, {})
    with pytest.raises(KeyError, match="its thing 12 must be in the scene graph"):
        builders.gqa(questions, {"n7": graphs["n7"] | {"objects": {"11": graphs["n7"]["objects"]["11"]}}})
    for wrong in ({"answer_rel": {"no": 0}}, {}):  # such an answer was class 0
        with pytest.raises(ValueError, match="answer_rel must know 'yes' or \"unknown\""):
            builders.gqa(questions, graphs, wrong)
    assert builders.gqa(questions, graphs, {"answer_rel": {"no": 0, "unknown": 3}})["images"][0]["answers"] == {"type": 2, "rel": 3}
    with pytest.raises(ValueError, match="must have an answer"):
        builders.gqa({"q": {k: v for k, v in questions["q1"].items() if k != "answer"}}, graphs, {})


def test_gqa__things_that_are_selected_or_the_answer_have_boxes_too():
    def question(text, notes, steps, answer):
        program = [{"operation": "select", "argument": a, "dependencies": []} for a in steps] + [{"operation": "query", "argument": "name", "dependencies": []}]
        return {"imageId": "7", "question": text, "semantic": program, "annotations": {"question": notes, "answer": answer}}

    graph = {"7": {"height": 40, "width": 60, "objects": {k: {"x": int(k), "y": 2, "w": 3, "h": 4} for k in "1234"}}}
    questions = {
        "a": question("What is on the traffic light?", {}, ["traffic light (1)"], {"0": "2"}),
        "b": question("Who wears the carpet near the car?", {"6": "1"}, ["car (1)", "scene", "bike (-)"], {"0": "3"}),
        "c": question("Is there a somewhat red car?", {}, ["automobile (4)"], {"0": "4"}),  # neither the name nor a word of asking is there
    }
    assert [[(box[0], words) for box, words in boxes] for _, boxes in rows(builders.gqa(questions, graph))] == [
        [(1, ["traffic light"]), (2, ["What"])], [(1, ["car"]), (3, ["Who"])], []]


def test_gqa__test_splits_have_no_scene_graphs():
    questions = {"q": {"imageId": "n7", "question": "Is it red?", "answer": "yes", "types": {"semantic": "attr"}, "semantic": [],
                       "annotations": {"question": {"2": "11"}, "answer": {}}}}
    made = builders.gqa(questions, None, {"answer_attr": {"unknown": 0, "yes": 4}}, size_of=lambda image: {"n7": (40, 60)}[image])
    assert rows(made) == [("Is it red?", [])]
    assert made["images"][0].items() >= {"height": 40, "width": 60, "file_name": "n7.jpg", "answers": {"type": 1, "attr": 4}}.items()
    with pytest.raises(ValueError, match="give size_of"):
        builders.gqa(questions, None)


def test_lvis_subset__takes_the_rarest_classes_first_and_one_absence_in_ten():
    images = [{"id": n, "neg_category_ids": [3] if n == 19 else [], "not_exhaustive_category_ids": [1] if n < 5 else []} for n in range(20)]
    of = {1: range(12), 2: range(10, 14), 3: [14]}  # class 1 counts in 5..11 alone, class 3 in one image
    lvis = {"images": images, "categories": [{"id": c, "image_count": len(n)} for c, n in of.items()],
            "annotations": [{"image_id": n, "category_id": c} for c, found in of.items() for n in found]}
    chosen = lvis_subset(lvis, 0.2)
    assert len(chosen) == 4 and {19, 14} < chosen, "the first is of an absence, the second of the rarest class"
    rest = chosen - {19, 14}
    assert len(rest & set(of[2])) >= 1 and rest & set(range(5, 12)) and chosen == lvis_subset(lvis, 0.2)
    assert lvis_subset(lvis, 1) == set(range(20))
    assert lvis_subset({"images": [{"id": 4}]}, 1) == {4}, "of one's own files in LVIS's form no more is needed for all images"
    never = lvis | {"images": [i | {"not_exhaustive_category_ids": [1, 2, 3]} for i in images]}
    assert {19, 14} < lvis_subset(never, 0.2), "classes that are never labelled exhaustively are drawn all the same"
    with pytest.raises(ValueError, match="19 images are wanted, but only"):
        lvis_subset(lvis, 0.99)
    with pytest.raises(ValueError, match="must lie in 0..1"):
        lvis_subset(lvis, 1.5)


def test_mentions__plurals_other_words_and_articles():
    assert [plural(n) for n in ("bus", "person", "berry", "teddy bear", "knife")] == ["buses", "people", "berries", "teddy bears", "knives"]
    caption = "Two men and a woman walk The dog past dogged hot dogs"
    assert [caption[b:e] for b, e in mentions_of(caption, "person")] == ["Two men", "a woman"]
    assert [caption[b:e] for b, e in mentions_of(caption, "dog")] == ["The dog", "dogs"]
    assert mentions_of("a phone on a table", "zebra") == []


def test_coco_captions__boxes_of_the_classes_that_words_name():
    captions = {"annotations": [{"image_id": 7, "caption": "A man and his  puppy."}, {"image_id": 7, "caption": "Nothing to see."}]}
    made = builders.coco_captions(captions, COCO, mentions_of)
    ((caption, boxes),) = rows(made)
    assert caption == "A man and his puppy." and boxes == [([10, 20, 30, 40], ["his puppy"]), ([50, 5, 20, 80], ["A man"])]


def photo(folder, name="7.png", size=(60, 40)):
    Image.new("RGB", size, (90, 90, 90)).save(folder / name)


STEPS = [LoadImage(), PackDetection()]


def test_dataset__reads_odvg_lines(tmp_path):
    photo(tmp_path)
    lines = [{"filename": "7.png", "height": 40, "width": 60, "grounding": {"caption": "A cat and a dog", "regions": [
                {"phrase": "a dog", "bbox": [1, 2, 11, 12]}, {"phrase": "A cat", "bbox": [[0, 0, 5, 5], [6, 6, 9, 9]], "tokens_positive": [[0, 5]]}]}},
             {"filename": "7.png", "height": 40, "width": 60, "detection": {"instances": [{"bbox": [0, 0, 9, 9], "label": 0, "category": "zebra"},
                                                                                          {"bbox": [9, 9, 19, 19], "label": 3, "category": "bus"}]}}]
    path = tmp_path / "odvg.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)) + "\n")
    data = GroundingDetection(ann_file=str(path), image_prefix=str(tmp_path), transforms=STEPS)
    one, other = data[0]["target"], data[1]["target"]
    assert one.caption == "A cat and a dog" and [[one.caption[b:e] for b, e in s] for s in one.positive_spans] == [["a dog"], ["A cat"], ["A cat"]]
    assert one.boxes_xyxy[0].tolist() == [1, 2, 11, 12]
    named = tmp_path / "train.odvg.json"  # known by its name, whatever its lines begin with
    named.write_text("\n".join(json.dumps({"source": "mine"} | line) for line in lines))
    assert GroundingDetection(ann_file=str(named), image_prefix=str(tmp_path), transforms=STEPS)[0]["target"].caption == "A cat and a dog"
    assert other.caption == "zebra. bus." and [[other.caption[b:e] for b, e in s] for s in other.positive_spans] == [["zebra"], ["bus"]]
    path.write_text('{"filename": "7.png"}\n')
    with pytest.raises(ValueError, match="line 1"):
        GroundingDetection(ann_file=str(path), image_prefix=str(tmp_path))
    path.write_text(json.dumps(lines[0] | {"grounding": {"caption": "A cat", "regions": [{"phrase": "a dog", "bbox": [0, 0, 1, 1]}]}}))
    with pytest.raises(ValueError, match="'a dog' does not"):
        GroundingDetection(ann_file=str(path), image_prefix=str(tmp_path))


@pytest.mark.parametrize(("caption", "phrase", "found"), [
    ("A woman and a man", "man", ["man"]), ("A MAN and a man", "man", ["MAN", "man"]), ("two dogs", "dog", ["dog"]),
    ("in \u0130stanbul a red  bus", "a red bus", ["a red  bus"]), ("\u0130\u0130 man", ["man"], ["man"]), ("the dog's tail", "'s", ["'s"]),
    ("a cat (black)", "(black)", ["(black)"]),
])  # fmt: skip
def test_odvg__phrases_are_words_of_their_own_where_they_can_be(tmp_path, caption, phrase, found):
    regions = [{"phrase": phrase, "bbox": [1, 2, 11, 12]}]
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"filename": "7.png", "height": 40, "width": 60, "grounding": {"caption": caption, "regions": regions}}))
    assert [caption[b:e] for b, e in read_odvg(path)["annotations"][0]["tokens_positive"]] == found
    regions[0]["phrase"] = " "
    path.write_text(json.dumps({"filename": "7.png", "height": 40, "width": 60, "grounding": {"caption": caption, "regions": regions}}))
    with pytest.raises(ValueError, match="none of them empty"):
        read_odvg(path)


def test_dataset__reads_phrase_spans(tmp_path):
    photo(tmp_path)
    image = {"id": 3, "file_name": "7.png", "height": 40, "width": 60, "caption": "A cat and a dog",
             "phrases": [{"spans": [[0, 5]], "boxes": [[0, 0, 5, 5], [9, 9, 2, 2]]}, {"spans": [[10, 15]], "boxes": []}]}
    path = tmp_path / "spans.json"
    path.write_text(json.dumps({"images": [image]}))
    test = PhraseGroundingDetection(ann_file=str(path), image_prefix=str(tmp_path), transforms=STEPS)
    assert test.phrases_of_image(3).texts == ("A cat",) and len(test.phrases_of_image(3).boxes_xyxy[0]) == 2
    assert len(GroundingDetection(ann_file=str(path), image_prefix=str(tmp_path), transforms=STEPS)[0]["target"].labels) == 2


def sample(**more):
    boxes = np.array([[0, 0, 10, 10], [40, 20, 60, 40], [42, 22, 58, 38]], dtype=np.float32)
    return {"image": np.zeros((40, 60, 3), dtype=np.uint8), "boxes_xyxy": boxes, "labels": np.zeros(3, dtype=np.int64), "rng": np.random.default_rng(0),
            "caption": "A left shoe Left of leftovers, right?", "positive_spans": (((0, 11),), ((12, 29),), ((31, 36),)), **more}


def test_flip__exchanges_sides_as_words_and_moves_spans():
    before, after = sample(), RandomFlip(prob=1.0, swap_sides=True)(sample())
    assert after["caption"] == "A right shoe Right of leftovers, left?"
    words = [[after["caption"][b:e] for b, e in spans] for spans in after["positive_spans"]]
    assert words == [["A right shoe"], ["Right of leftovers"], ["left"]]
    assert RandomFlip(prob=1.0, swap_sides=True)(after)["caption"] == before["caption"]
    assert RandomFlip(prob=1.0)(sample())["caption"] == before["caption"]


@pytest.mark.parametrize(("caption", "mirrored"), [
    ("leftmost cup", "rightmost cup"), ("the right-hand man", "the left-hand man"), ("Topleft phone, lower RIGHT", "Topright phone, lower LEFT"),
    ("righthand bus, lefthand_bus", "lefthand bus, righthand_bus"), ("lefty at bat", "righty at bat"),
    ("leftovers, bright copyright lefts righteous", None), ("a cleft", None),
])  # fmt: skip
def test_flip__knows_sides_in_compounds(caption, mirrored):
    """"leftmost" is as false in a mirrored picture as "left"."""
    given = sample(caption=caption, positive_spans=(((0, len(caption)),),) * 3)
    after = RandomFlip(prob=1.0, swap_sides=True)(dict(given))
    assert after["caption"] == (mirrored or caption) and after["positive_spans"][0] == ((0, len(after["caption"])),)
    assert RandomFlip(prob=1.0, swap_sides=True)(dict(after))["caption"] == caption
    plain = RandomFlip(prob=1.0)(dict(given))
    assert (plain["boxes_xyxy"][0, 0] == 0) == (mirrored is not None), "where sides are spoken of and not exchanged, the picture stays"


def crop_to_the_lower_right(published):
    class Lower:
        def random(self):
            return 0.0

        def uniform(self, low, high):
            return 0.5

        def integers(self, high):
            return high - 1

    return RandomCrop(prob=1.0, published_spans=published)(sample(rng=Lower()))


def test_crop__spans_stay_with_their_boxes_and_the_releases_slip():
    own, published = crop_to_the_lower_right(False), crop_to_the_lower_right(True)
    assert len(own["labels"]) == 2 and own["positive_spans"] == sample()["positive_spans"][1:] and "align_spans" not in own
    assert published["positive_spans"] == own["positive_spans"] and published["align_spans"] == sample()["positive_spans"][:2]


def test_tool__makes_gqa_of_a_split_without_scene_graphs(tmp_path):
    photo(tmp_path, "n7.jpg", (60, 40))
    (tmp_path / "all").mkdir()
    for n in range(2):
        question = {"imageId": "n7", "question": f"Is it {n}?", "annotations": {"question": {}, "answer": {}}}
        (tmp_path / "all" / f"part_{n}.json").write_text(json.dumps({f"q{n}": question}))
    main, out = load_script("tools/build_grounding.py").main, tmp_path / "out.json"
    assert main(["--out", str(out), "gqa", str(tmp_path / "all"), "--images", str(tmp_path)]) == 0
    assert [(i["caption"], i["height"], i["width"]) for i in json.loads(out.read_text())["images"]] == [("Is it 0?", 40, 60), ("Is it 1?", 40, 60)]
    with pytest.raises(SystemExit):
        main(["--out", str(out), "gqa", str(tmp_path / "all")])
    part = tmp_path / "all" / "part_0.json"
    before = part.read_text()
    with pytest.raises(SystemExit):
        main(["--out", str(part), "gqa", str(part), "--images", str(tmp_path)])
    assert part.read_text() == before, "a published file is never written over"


@pytest.mark.parametrize("kind", ["flickr", "refcoco", "coco-captions"])
def test_tool__writes_what_the_data_set_reads(kind, flickr, tmp_path, capsys):
    (tmp_path / "refs.p").write_bytes(pickle.dumps(REFS, protocol=2))
    (tmp_path / "coco.json").write_text(json.dumps(COCO))
    (tmp_path / "captions.json").write_text(json.dumps({"annotations": [{"image_id": 7, "caption": "A man and a dog"}]}))
    given = {"flickr": [str(flickr), str(flickr / "val.txt")], "refcoco": [str(tmp_path / "refs.p"), str(tmp_path / "coco.json")],
             "coco-captions": [str(tmp_path / "captions.json"), str(tmp_path / "coco.json")]}[kind]
    out = tmp_path / "made" / "out.json"
    assert load_script("tools/build_grounding.py").main(["--out", str(out), kind, *given]) == 0
    photo(tmp_path, json.loads(out.read_text())["images"][0]["file_name"].replace(".jpg", ".jpg"), (200, 120 if kind == "flickr" else 100))
    assert "captions with" in capsys.readouterr().out
    assert len(GroundingDetection(ann_file=str(out), image_prefix=str(tmp_path), transforms=STEPS)[0]["target"].positive_spans) >= 1
