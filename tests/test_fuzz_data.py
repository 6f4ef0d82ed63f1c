"""More broken and odd input: masks, captions, phrases, samples on their way to training, long vocabularies. See tests/test_fuzz.py for the number of cases."""
import json
import warnings
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovdense.api import load_image
from ovdense.compat.described import read_object
from ovdense.compat.flickr_entities import read_flickr_entities, read_sentences
from ovdense.compat.images import BrokenImage, upright_size
from ovdense.compat.omnilabel import read_omnilabel
from ovdense.compat.segmentations import encode_segmentation
from ovdense.data.annotations import read_coco
from ovdense.data.grounding import GroundingDetection
from ovdense.data.masks import decode_masks
from ovdense.data.segmentation import read_values
from ovdense.data.transforms import LoadImage, PackDetection, PhotometricJitter, RandomCrop, RandomFlip, ResizeShortestEdge
from ovdense.structures import ClassEntry, Vocabulary
from ovdense.text.prompts import chunk_vocabulary
from ovdense.text.tokenizers import embedded_tokenizer
from ovdense.text.vocabulary import load_vocabulary
from tests.test_fuzz import COCO, PICTURES, fuzz, mutations

SIZE = (30, 40)
NUMBERS = st.floats() | st.integers(-(10**6), 10**6) | st.sampled_from([float("nan"), float("inf"), -0.0, 1e308, 0, 39, 40, 2**31, 2**63])
COUNTS = st.lists(st.integers(-3, 1300) | st.just(1200), max_size=8)
PACKED = st.text("0123456789:;<=>?@PQRSTUVWXYZ_`abcdefghijklmno", max_size=30)
RLE = st.fixed_dictionaries({"counts": COUNTS | st.text(max_size=12) | PACKED | st.none() | st.binary(max_size=8),
                             "size": st.sampled_from([[30, 40], [40, 30], [3, 4], [], [30], None, [0, 0], [30.0, 40.0]])})  # fmt: skip


@fuzz
@given(segmentation=RLE | st.lists(st.lists(NUMBERS, max_size=9) | st.none(), max_size=3) | st.none() | st.text(max_size=4))
def test_masks__polygons_and_rles(segmentation):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            counts = encode_segmentation(segmentation, SIZE, "a.json: annotation 7")
        except ValueError as error:
            assert str(error).startswith("a.json: annotation 7") and len(str(error)) < 400
            return
    assert decode_masks([counts], SIZE).shape == (1, *SIZE)


@given(mask=st.lists(st.booleans(), min_size=35, max_size=35), spoilt=st.integers(0, 30), by=st.characters(min_codepoint=48, max_codepoint=111))
@fuzz
def test_masks__a_spoilt_rle_is_refused_and_a_whole_one_comes_back(mask, spoilt, by):
    from pycocotools import mask as coco_mask

    pixels = np.asfortranarray(np.array(mask, dtype=np.uint8).reshape(5, 7))
    text = coco_mask.encode(pixels)["counts"].decode()
    counts = encode_segmentation({"counts": text, "size": [5, 7]}, (5, 7), "a")
    assert np.array_equal(decode_masks([counts], (5, 7))[0], pixels)
    broken = text[:spoilt] + by + text[spoilt + 1 :]
    try:
        counts = encode_segmentation({"counts": broken, "size": [5, 7]}, (5, 7), "a")
    except ValueError as error:
        assert str(error).startswith("a: ")
    else:  # other runs of the same sum
        assert decode_masks([counts], (5, 7)).shape == (1, 5, 7)


NAMED = {
    "a polygon with nan": lambda c: c["annotations"][0].update(segmentation=[[1, 2, float("nan"), 2, 11, 14]]),
    "a polygon of two points": lambda c: c["annotations"][0].update(segmentation=[[1, 2, 11, 2]]),
    "an RLE of another size": lambda c: c["annotations"][1].update(segmentation={"counts": [0, 5, 1195], "size": [40, 30]}),
    "an RLE that does not fill its size": lambda c: c["annotations"][1].update(segmentation={"counts": [0, 5], "size": [30, 40]}),
    "a compressed RLE that does not fill its size": lambda c: c["annotations"][1].update(segmentation={"counts": "05", "size": [30, 40]}),
    "an image id twice": lambda c: c["images"][1].update(id=1),
    "an annotation id twice": lambda c: c["annotations"][1].update(id=1),
    "a category id twice": lambda c: c["categories"][1].update(id=1),
    "an annotation of no image": lambda c: c["annotations"][0].update(image_id=5),
    "an annotation of no category": lambda c: c["annotations"][0].update(category_id=9),
    "a box with nan": lambda c: c["annotations"][0].update(bbox=[1, 2, float("nan"), 3]),
    "a box of three numbers": lambda c: c["annotations"][0].update(bbox=[1, 2, 3]),
    "an image without a size": lambda c: c["images"][0].update(height=0),
    "LVIS's negatives of no category": lambda c: c["images"][0].update(neg_category_ids=[77]),
    "no images": lambda c: c.pop("images"),
}


@pytest.mark.parametrize("name", NAMED)
def test_coco__named_mistakes_are_told_with_the_file(tmp_path, name):
    content = json.loads(json.dumps(COCO))
    NAMED[name](content)
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError) as error:
        read_coco(path, with_masks=True)
    assert str(path) in str(error.value) and len(str(error.value)) < 500


GROUNDING = {"images": [{"id": 7, "file_name": "a.png", "height": 24, "width": 32, "caption": "a red ball left of a blue cube."}],
             "annotations": [{"id": 1, "image_id": 7, "bbox": [1, 2, 10, 10], "tokens_positive": [[2, 5]], "nouns": ["ball"]}]}  # fmt: skip
REGIONS = [{"bbox": [1, 2, 9, 9], "phrase": "a red ball"}, {"bbox": [1, 2, 9, 9], "phrase": ["red", "ball"]}]
ODVG = [{"filename": "a.png", "height": 24, "width": 32, "grounding": {"caption": "a red ball", "regions": REGIONS}},
        {"filename": "a.png", "height": 24, "width": 32, "detection": {"instances": [{"bbox": [1, 2, 9, 9], "label": 1, "category": "cat"}]}}]  # fmt: skip


@fuzz
@given(content=mutations(GROUNDING), lines=mutations(ODVG), odvg=st.booleans())
def test_grounding__files(tmp_path_factory, content, lines, odvg):
    folder = tmp_path_factory.getbasetemp()
    (folder / "a.png").write_bytes(PICTURES["png"])
    path = folder / ("fuzz_grounding.jsonl" if odvg else "fuzz_grounding.json")
    path.write_text("\n".join(json.dumps(line) for line in lines) if odvg and isinstance(lines, list) else json.dumps(content))
    try:
        data = GroundingDetection(ann_file=str(path), image_prefix=str(folder))
        sample = data[0]
    except (ValueError, FileNotFoundError) as error:
        assert path.name in str(error) or "image" in str(error)
        assert len(str(error)) < 1500
        return
    assert np.isfinite(sample["boxes_xyxy"]).all() and len(sample["positive_spans"]) == len(sample["boxes_xyxy"])
    assert all(0 <= b < e <= len(sample["caption"]) for spans in sample["positive_spans"] for b, e in spans)


OMNILABEL = {"images": [{"id": 1, "file_name": "a.jpg"}],
             "descriptions": [{"id": 1, "text": "person", "image_ids": [1], "anno_info": {"type": "object_category"}},
                              {"id": 2, "text": "a man in red", "image_ids": [1], "anno_info": {"type": "object_description"}}],
             "annotations": [{"id": 1, "image_id": 1, "bbox": [1, 2, 3, 4], "description_ids": [1, 2]}]}  # fmt: skip


@fuzz
@given(content=mutations(OMNILABEL))
def test_omnilabel__files(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "fuzz_omnilabel.json"
    path.write_text(json.dumps(content))
    try:
        found = read_omnilabel(path)
    except ValueError as error:
        assert str(path) in str(error) and len(str(error)) < 1000
    else:
        assert set(found.asked) == {i["id"] for i in found.images}


XML = "<annotation><size><width>32</width><height>24</height></size><object><name>12</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>9</xmax><ymax>9</ymax>" \
      "</bndbox></object></annotation>"  # fmt: skip
SENTENCE = "[/EN#12/people/clothing A woman] smiles at [/EN#13/other a dog] ."


def spoil(text: str):
    """Strategy of `text` with a piece of it replaced."""
    junk = st.text(max_size=12) | st.sampled_from(["&a;", "<b>", "nan", "-1", "1e999", "[/EN#", "]", "\x00", "\n"])
    return st.builds(lambda at, junk, length: text[:at] + junk + text[at + length :], st.integers(0, len(text)), junk, st.integers(0, 25))


@fuzz
@given(xml=spoil(XML), sentence=spoil(SENTENCE))
def test_flickr__files(tmp_path_factory, xml, sentence):
    folder = tmp_path_factory.getbasetemp() / "fuzz_flickr"
    for name, text in (("Annotations/1.xml", xml), ("Sentences/1.txt", sentence)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(text.encode("utf8", "surrogatepass"))
    for read in (lambda: read_flickr_entities(folder, ["1"]), lambda: read_sentences(folder, "1")):
        try:
            read()
        except ValueError as error:
            assert "1.xml" in str(error) or "1.txt" in str(error)
            assert len(str(error)) < 1000


@fuzz
@given(data=st.binary(max_size=60) | st.text(max_size=30).map(lambda t: t.encode("utf8", "surrogatepass"))
       | st.sampled_from([b"[" * 100_000, b'{"a":' * 50_000]))  # fmt: skip
def test_json__bytes(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "fuzz_bytes.json"
    path.write_bytes(data)
    for read in (read_coco, read_object, lambda p: load_vocabulary(p)):
        try:
            read(path)
        except ValueError as error:
            assert str(path) in str(error) and len(str(error)) < 1000


@cache
def folder_of_pictures(base):
    """Return {kind: file} of every picture, as a training set finds them."""
    base.mkdir(exist_ok=True)
    paths = {}
    for name, data in PICTURES.items():
        paths[name] = base / f"{name.replace(' ', '_')}.{name.split()[0]}"
        paths[name].write_bytes(data)
    return paths


BOXES = st.lists(st.tuples(*[st.floats(-5, 45, width=32)] * 4), max_size=4)


@fuzz
@given(name=st.sampled_from(sorted(PICTURES)), boxes=BOXES, seed=st.integers(0, 99), short=st.integers(1, 80), longer=st.integers(0, 120), masks=st.booleans())
def test_training_sample__of_every_kind_of_picture(tmp_path_factory, name, boxes, seed, short, longer, masks):
    path = folder_of_pictures(tmp_path_factory.getbasetemp() / "kinds")[name]
    size = upright_size(path)
    xyxy = np.array([(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d in boxes], dtype=np.float32).reshape(-1, 4)
    sample = {"path": str(path), "file_name": path.name, "image_id": 1, "original_size_hw": size, "rng": np.random.default_rng(seed),
              "boxes_xyxy": xyxy, "labels": np.arange(len(xyxy))}  # fmt: skip
    if masks:
        sample["masks"] = np.zeros((len(xyxy), *size), dtype=bool)
    if name == "tiff float":  # nothing says what is white
        with pytest.raises(BrokenImage, match="got floats"):
            LoadImage()(sample)
        return
    for step in (LoadImage(), RandomFlip(0.5), RandomCrop(0.7), ResizeShortestEdge((short,), short + longer), PhotometricJitter(), PackDetection()):
        sample = step(sample)
    image, target = sample["image"], sample["target"]
    height, width = image.shape[1:]
    assert image.shape[0] == 3 and height >= 1 and width >= 1 and max(height, width) <= 1.01 * (short + longer) + 1
    found = target.boxes_xyxy.numpy()
    assert np.isfinite(found).all() and len(found) == len(target.labels) and (found >= 0).all() and (found <= [width, height, width, height]).all()
    assert target.masks_NHW is None or tuple(target.masks_NHW.shape) == (len(found), height, width)


@fuzz
@given(name=st.sampled_from(sorted(PICTURES)), size=st.sampled_from([(24, 32), (1, 1), (32, 24)]), cut=st.floats(0, 1))
def test_label_files__of_every_kind_of_picture(tmp_path_factory, name, size, cut):
    path = tmp_path_factory.getbasetemp() / "fuzz_label.png"
    path.write_bytes(PICTURES[name][: int(cut * 1.3 * len(PICTURES[name]))])
    try:
        values = read_values(path, size)
    except ValueError as error:
        assert str(path) in str(error) and (isinstance(error, BrokenImage) or "mode" in str(error))
    else:
        assert values.dtype == np.uint8 and values.shape == size


@cache
def tokenizer():
    return embedded_tokenizer()


ODD_TEXTS = ("قطة صغيرة", "חתול", "猫🐈", "👩‍👩‍👧‍👦 family", "\u202eesrever", "e\u0301\u0301\u0301", "\u200b", "a; b; c", "x" * 10_000,
             "word " * 2_000, ". . .", "a. b")
TEXT = st.text(max_size=40) | st.sampled_from(ODD_TEXTS)


@fuzz
@given(names=st.lists(TEXT, max_size=5), descriptions=st.lists(TEXT, max_size=5), prompt=st.sampled_from(["names", "descriptions"]),
       classes=st.none() | st.integers(1, 3))  # fmt: skip
def test_prompts__of_any_names_and_descriptions(names, descriptions, prompt, classes):
    try:
        entries = [ClassEntry(name=n, descriptions=tuple(descriptions[k : k + 1])) for k, n in enumerate(names)]
        vocabulary = Vocabulary(tuple(entries))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            chunks = chunk_vocabulary(vocabulary, tokenizer(), prompt=prompt, max_tokens=254, max_classes=classes)
    except ValueError as error:
        assert 0 < len(str(error)) < 1500
        return
    asked = [k for chunk in chunks for k in chunk.class_indices]
    assert sorted(asked) == list(range(len(vocabulary)))
    for chunk in chunks:
        assert all(0 <= b < e <= len(chunk.caption) for spans in chunk.spans_per_class for b, e in spans)
        assert tokenizer().count(chunk.caption) <= 254


@fuzz
@given(shape=st.lists(st.integers(0, 5), max_size=4), kind=st.sampled_from(["uint8", "float32", "int64", "bool", "float64"]))
def test_load_image__arrays(shape, kind):
    try:
        image = load_image(np.zeros(shape, dtype=kind))
    except ValueError as error:
        assert len(str(error)) < 300
    else:
        assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and min(image.shape) > 0
