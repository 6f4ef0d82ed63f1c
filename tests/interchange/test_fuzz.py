"""Broken and odd annotation files of every format: what is read is sound and can be written again, or one error names the file.

OVDENSE_FUZZ is the number of cases of each test (default 60, the long form 500).
"""
import base64
import io
import json
import math
import re
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ovdense.interchange import read_annotations, write_annotations
from tests.test_fuzz import BOMB, COCO, fuzz, mutations
from tests.test_fuzz_data import spoil

SIZE = (30, 40)
VALUES = ("", "0", "-1", "1e308", "-1e308", "nan", "inf", "1e999", "9" * 30, "9" * 5000, "40", "0.5", "1,2", "1,2;3,4;5", ";;", "cat", "../../x", "/etc/passwd",
          "a\\b", "\u202e猫🐈", "x" * 10_000, " ", "١٢", "--1", "1_0", "true", "2147483648,1", "0,0,0,0,0,1200")  # fmt: skip


def png(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(array).save(out, "PNG")
    return out.getvalue()


MASK = png(np.eye(5, 6, dtype=np.uint8))
CVAT = (
    "<annotations><version>1.1</version><meta><task><labels><label><name>cat</name><attributes><attribute><name>age</name><input_type>number</input_type>"
    "</attribute><attribute><name>asleep</name><input_type>checkbox</input_type></attribute></attributes></label><label><name>dog</name></label></labels>"
    '</task></meta><image id="3" name="a.jpg" width="40" height="30"><box label="cat" occluded="0" xtl="1" ytl="2" xbr="9.5" ybr="12" group_id="1" z_order="0">'
    '<attribute name="age">3</attribute><attribute name="asleep">true</attribute>'
    '<attribute name="truncated">partly</attribute><attribute name="score">0.5</attribute></box>'
    '<polygon label="cat" points="1,2;9,2;9,12" group_id="1"/><ellipse label="dog" cx="20" cy="15" rx="5" ry="4"/>'
    '<mask label="dog" rle="2, 3, 5, 2" left="3" top="4" width="4" height="3"><attribute name="object_id">7</attribute>'
    '<attribute name="box_xyxy">3,4,7,7</attribute></mask></image></annotations>'
)
VOC = (
    "<annotation><filename>a.jpg</filename><source><database>x</database></source><size><width>40</width><height>30</height><depth>3</depth></size>"
    "<object><name>cat</name><pose>Left</pose><truncated>1</truncated><difficult>0</difficult><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>11</xmax>"
    "<ymax>14</ymax></bndbox><part><name>head</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>5</xmax><ymax>6</ymax></bndbox></part></object>"
    "<object><name>dog</name><bndbox><xmin>12</xmin><ymin>3</ymin><xmax>30</xmax><ymax>29</ymax></bndbox></object></annotation>"
)
SHAPE = {"label": "cat", "points": [[1, 2], [9, 12]], "shape_type": "rectangle", "group_id": None, "flags": {"difficult": True}, "score": 0.5}
LABELME = {"version": "5.5.0", "flags": {}, "imagePath": "a.jpg", "imageHeight": 30, "imageWidth": 40, "imageData": None, "shapes": [
    SHAPE, {**SHAPE, "shape_type": "polygon", "points": [[1, 2], [9, 2], [9, 12]], "group_id": 4, "attributes": {"age": 3}, "object_id": 7},
    {**SHAPE, "label": "dog", "shape_type": "polygon", "points": [[1, 2], [9, 2], [9, 12]], "group_id": 4, "box_xyxy": [1, 2, 9, 12]},
    {**SHAPE, "label": "dog", "shape_type": "circle"},
    {**SHAPE, "shape_type": "mask", "points": [[3, 4], [8, 8]], "mask": base64.b64encode(MASK).decode()},
]}  # fmt: skip
YOLO = "path: .\ntrain: images/train\nval: images/val\nnames:\n  0: cat\n  1: dog\n"
YAML_BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(f"{c}: &{c} [{', '.join(['*' + p] * 9)}]\n" for p, c in zip("abcdefghi", "bcdefghij"))
LINES = "0 0.5 0.5 0.25 0.25 0.9\n1 0.1 0.1 0.5 0.1 0.5 0.5\n0 0.5 0.5 0.1 0.1\n"


def values(text: str):
    """Strategy of XML with one to three of its values replaced, well-formed."""
    places = [m.span(1) for m in re.finditer(r'="([^"]*)"', text)] + [m.span(1) for m in re.finditer(r">([^<>]+)<", text)]

    def replaced(picked):
        out = text
        for n, value in sorted(dict(picked).items(), key=lambda pair: -places[pair[0]][0]):
            a, b = places[n]
            out = out[:a] + value.replace("&", "").replace("<", "").replace('"', "") + out[b:]
        return out

    junk = st.sampled_from(VALUES) | st.text(st.characters(blacklist_categories=("Cs", "Cc")), max_size=12)
    return st.lists(st.tuples(st.integers(0, len(places) - 1), junk), min_size=1, max_size=3).map(replaced)


def xml(text: str):
    return st.one_of(values(text), values(text), spoil(text), spoil(text).map(lambda t: BOMB + t), st.just(BOMB + text.replace("cat", "&i;")))


def read_and_write(path: Path, form: str, out: Path, **options) -> bool:
    """Read a file as a user would; what comes back must be sound and go into every format that holds it. Return whether it was read."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            data = read_annotations(path, form, **options)
        except (ValueError, FileNotFoundError) as error:
            assert type(error) in (ValueError, FileNotFoundError) and path.name in str(error), repr(error)
            assert 20 < len(str(error)) < 1500
            return False
        assert len(data.classes) > 0
        for image in data.images:
            for thing in image.objects:
                assert thing.name in data.classes.names and all(map(math.isfinite, thing.box_xyxy))
                assert thing.mask is None or thing.mask.to_array().shape == tuple(image.size_hw)
        shutil.rmtree(out, ignore_errors=True)
        for kind in ("coco", "cvat", "labelme", "voc", "yolo"):
            place = out / {"coco": "a.json", "cvat": "a.xml"}.get(kind, kind)
            try:
                write_annotations(data, place, kind)
            except ValueError as error:
                assert len(str(error)) < 1500
            else:
                assert kind != "coco" or [len(i.objects) for i in read_annotations(place, "coco").images] == [len(i.objects) for i in data.images]
        assert not [p for p in out.parent.rglob("*") if p.is_symlink()]
    return True


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("interchange")


def written(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf8", "surrogatepass"))
    return path


def test_fuzz__the_whole_files_are_read(folder):
    """What is spoilt below is right before, so that no test of this file passes by refusing everything."""
    assert read_and_write(written(folder / "whole/a.json", json.dumps(COCO)), "coco", folder / "out")
    assert read_and_write(written(folder / "whole/a.xml", CVAT), "cvat", folder / "out")
    assert read_and_write(written(folder / "whole/labelme/a.json", json.dumps(LABELME)), "labelme", folder / "out")
    assert read_and_write(voc_folder(folder / "whole_voc", VOC, "", b"", "a\n"), "voc", folder / "out", split="val")
    assert read_and_write(yolo_folder(folder / "whole_yolo", YOLO, LINES), "yolo", folder / "out")


@fuzz
@given(content=mutations(COCO), drop=st.booleans())
def test_coco__files(folder, content, drop):
    read_and_write(written(folder / "coco.json", json.dumps(content)), "coco", folder / "out", invalid_boxes="drop" if drop else "raise")


@fuzz
@given(content=mutations(LABELME), drop=st.booleans(),
       names=st.sampled_from(["", "cat\ndog\n", "__ignore__\n_background_\ncat\n", "cat\ncat\n", "\udcff", "x" * 10_000]))
def test_labelme__files(folder, content, names, drop):
    written(folder / "labelme/labels.txt", names)
    written(folder / "labelme/a.json", json.dumps(content))
    read_and_write(folder / "labelme", "labelme", folder / "out", unknown="drop" if drop else "raise")


@fuzz
@given(content=xml(CVAT), drop=st.booleans())
def test_cvat__files(folder, content, drop):
    read_and_write(written(folder / "cvat.xml", content), "cvat", folder / "out", unknown="drop" if drop else "raise")


def voc_folder(path: Path, content: str, labelmap: str, maps: bytes, split: str) -> Path:
    """Write a VOC folder; `labelmap` and `maps` (both PNGs) are left out where empty."""
    shutil.rmtree(path, ignore_errors=True)
    written(path / "Annotations/a.xml", content)
    written(path / "ImageSets/Main/val.txt", split)
    for name, what in (("labelmap.txt", labelmap), ("SegmentationObject/a.png", maps), ("SegmentationClass/a.png", maps)):
        if what:
            written(path / name, what)
    return path


LABELMAP = "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:128,0,0::\ndog:0,128,0::\n"
MAPS = [b"", MASK, png(np.zeros(SIZE, np.uint8)), png(np.tile(np.array([0, 1, 2, 255], np.uint8), (30, 10))), png(np.full(SIZE, 9, np.uint8)),
        png(np.zeros((*SIZE, 3), np.uint8)), b"junk", png(np.zeros(SIZE, np.uint8))[:40]]  # fmt: skip


@fuzz
@given(content=xml(VOC), labelmap=st.just("") | spoil(LABELMAP), maps=st.sampled_from(MAPS), split=st.just("a\n") | spoil("a\n"), all_files=st.booleans(),
       drop=st.booleans())  # fmt: skip
def test_voc__folders(folder, content, labelmap, maps, split, all_files, drop):
    root = voc_folder(folder / "voc", content, labelmap, maps, split)
    read_and_write(root, "voc", folder / "out", invalid_boxes="drop" if drop else "raise", **({} if all_files else {"split": "val"}))


def yolo_folder(path: Path, content: str, lines: str) -> Path:
    if not path.is_dir():
        for name in ("a.jpg", "b.jpg"):
            written(path / "images/train" / name, b"")
            Image.new("RGB", SIZE[::-1]).save(path / "images/train" / name)
    written(path / "data.yaml", content)
    written(path / "labels/train/a.txt", lines)
    return path


ODD_YAML = [YAML_BOMB + "names: *j\ntrain: *j\n", YAML_BOMB + YOLO, "[" * 5000, "a: &a [*a]\nnames: *a\ntrain: x\n",
            "names: !!python/object/apply:os.system [echo]\n", YOLO.replace("cat", "2001-99-99"), YOLO.replace("cat", "9" * 5000),
            YOLO.replace("images/train", '"\\0"'), YOLO.replace("images/train", "../../.."), YOLO.replace("cat", "1"),
            YOLO.replace("dog", "cat"), YOLO.replace("path: .", "path: /"), YOLO.replace("1:", "? [1, 2]\n  :"), "\ufeff" + YOLO,
            YOLO.replace("train: images/train", "train: [images/train, ../images/train]"), YOLO.replace("train: images/train", "train: labels/train/a.txt"),
            YOLO.replace("train: images/train", "train: [[], 3]"), YOLO + "kpt_shape: [3, 3]\n", YOLO + "kpt_shape: [no, 3]\n", YOLO.replace("cat", "no"),
            YOLO.replace("path: .", "path: elsewhere"), YOLO.replace("images/train", "../images/train"), "names: {0: &x [*x]}\ntrain: images/train\n",
            YOLO.replace("names:", "<<: 3\nnames:"), YOLO.replace("images/train", "images/" + "x" * 5000), "- 1\n", "", "names: []\n"]  # fmt: skip
WORDS = st.lists(st.sampled_from(("0", "1", "2", *VALUES)), max_size=9).map(lambda words: " ".join(words) + "\n")


@fuzz
@given(content=st.just(YOLO) | spoil(YOLO) | st.sampled_from(ODD_YAML), lines=spoil(LINES) | WORDS)
def test_yolo__folders(folder, content, lines):
    read_and_write(yolo_folder(folder / "yolo", content, lines), "yolo", folder / "out")


@fuzz
@given(data=st.binary(max_size=60) | st.text(max_size=30).map(lambda t: t.encode("utf8", "surrogatepass"))
       | st.sampled_from([b"[" * 20_000, b'{"a":' * 10_000, b"<a>" * 20_000, b"<annotations>" + b"<image>" * 2_000, b"\xff\xfe<\x00a\x00", b"- " * 3_000]),
       name=st.sampled_from(["coco", "cvat", "labelme", "yolo", None]))  # fmt: skip
def test_any_format__bytes(folder, data, name):
    for suffix in {"coco": (".json",), "cvat": (".xml",), "labelme": (".json",), "yolo": (".yaml",)}.get(name, (".json", ".xml", ".yaml", ".bin")):
        read_and_write(written(folder / "bytes" / f"a{suffix}", data), name, folder / "out")
