"""Broken and odd input of every kind: what comes back is right or one clear error, never another exception.

OVDENSE_FUZZ is the number of cases of each test (default 60, the long form 500).
"""
import copy
import io
import json
import os
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image

from ovdense.api import load_image
from ovdense.compat.images import decode_upright
from ovdense.data.annotations import read_coco, read_voc
from ovdense.data.masks import decode_masks
from ovdense.structures import Vocabulary
from ovdense.text.vocabulary import load_vocabulary, with_descriptions

CASES = int(os.environ.get("OVDENSE_FUZZ", "60"))
PHASES = (Phase.explicit, Phase.generate, Phase.shrink)
fuzz = settings(max_examples=CASES, deadline=None, derandomize=True, phases=PHASES, suppress_health_check=list(HealthCheck))

JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(-(10**18), 10**18), st.integers(0, 40), st.floats(), st.text(max_size=12), st.just(""), st.just([]), st.just({}),
    st.lists(st.floats(-5, 60) | st.integers(-5, 60), max_size=8), st.just([[1, 2, 3, 4, 5, float("nan")]]), st.just({"counts": [5, 5], "size": [3, 4]}),
    st.just({"counts": "junk", "size": [30, 40]}), st.dictionaries(st.text(max_size=4), st.integers(0, 9), max_size=3),
)  # fmt: skip


def nodes(content, path=()):
    """Yield the path of every node below `content`."""
    children = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in children:
        yield (*path, key)
        yield from nodes(value, (*path, key))


def changed(content, path, how, junk):
    """Return a copy with the node at `path` replaced, removed or doubled."""
    content = copy.deepcopy(content)
    parent = content
    for key in path[:-1]:
        parent = parent[key]
    if how == "remove":
        del parent[path[-1]]
    elif how == "double" and isinstance(parent, list):
        parent.append(copy.deepcopy(parent[path[-1]]))
    else:
        parent[path[-1]] = junk
    return content


def mutations(content, most=3):
    """Strategy of copies of `content` with one to `most` changes."""

    @st.composite
    def draw(pick):
        out = content
        for _ in range(pick(st.integers(1, most))):
            places = list(nodes(out))
            if not places:
                break
            out = changed(out, pick(st.sampled_from(places)), pick(st.sampled_from(["replace", "replace", "remove", "double"])), pick(JUNK))
        return out

    return draw()


COCO = {
    "images": [{"id": 1, "file_name": "a.jpg", "height": 30, "width": 40, "neg_category_ids": [2], "not_exhaustive_category_ids": []},
               {"id": 2, "file_name": "b.jpg", "height": 30, "width": 40}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 10, 12], "area": 120, "iscrowd": 0, "segmentation": [[1, 2, 11, 2, 11, 14]]},
        {"id": 2, "image_id": 2, "category_id": 2, "bbox": [0, 0, 5, 5], "area": 25, "iscrowd": 1, "segmentation": {"counts": [0, 5, 1195], "size": [30, 40]}},
    ],
    "categories": [{"id": 1, "name": "cat", "synonyms": ["kitty"], "def": "a small animal", "frequency": "f"}, {"id": 2, "name": "dog"}],
}  # fmt: skip


@fuzz
@given(content=mutations(COCO), with_masks=st.booleans(), drop=st.booleans())
def test_coco__annotations(tmp_path_factory, content, with_masks, drop):
    path = tmp_path_factory.getbasetemp() / "fuzz_coco.json"
    path.write_text(json.dumps(content))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            table = read_coco(path, invalid_boxes="drop" if drop else "raise", with_masks=with_masks)
        except ValueError as error:
            assert str(path) in str(error) and len(str(error)) < 1000
            return
    assert np.isfinite(table.boxes_xyxy).all() and table.starts[-1] == len(table.boxes_xyxy) == len(table.category_ids)
    if with_masks:
        for i, size in enumerate(table.sizes_hw):
            rows = slice(table.starts[i], table.starts[i + 1])
            assert decode_masks(table.segmentations[rows], tuple(size)).shape[1:] == tuple(size)


VOC = "<annotation><size><width>40</width><height>30</height></size><object><name>cat</name><difficult>0</difficult><bndbox><xmin>1</xmin><ymin>2</ymin>" \
      "<xmax>11</xmax><ymax>14</ymax></bndbox></object></annotation>"  # fmt: skip
BOMB = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">' + "".join(f'<!ENTITY {c} "{("&" + p + ";") * 10}">' for p, c in zip("abcdefgh", "bcdefghi")) + "]>"


@fuzz
@given(cut=st.integers(0, len(VOC)), junk=st.text(max_size=20) | st.sampled_from(["&i;", "<b>", "nan", "inf", "-1", "1e999", "\x00", "<!--", "]]>"]),
       length=st.integers(0, 30), bomb=st.booleans())  # fmt: skip
def test_voc__annotations(tmp_path_factory, cut, junk, length, bomb):
    root = tmp_path_factory.getbasetemp() / "fuzz_voc"
    for folder in ("ImageSets/Main", "Annotations"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "ImageSets/Main/val.txt").write_text("a\n")
    (root / "Annotations/a.xml").write_bytes(((BOMB if bomb else "") + VOC[:cut] + junk + VOC[cut + length :]).encode("utf8", "surrogatepass"))
    try:
        table = read_voc(root / "ImageSets/Main/val.txt", ("cat",))
    except ValueError as error:
        assert "a.xml" in str(error) or "Annotations" in str(error)
        assert len(str(error)) < 1000
        return
    assert len(table.image_ids) == 1 and np.isfinite(table.boxes_xyxy).all()


CLASSES = [{"name": "cat", "synonyms": ["kitty"], "descriptions": ["small; furry"], "kind": "animal", "similar": ["dog"], "frequency": "c"}, {"name": "dog"},
           {"name": "background", "background": True}]  # fmt: skip
DESCO = [{"object": "cat", "object_id": 1, "gpt3_output": '{"type": "animal", "description": "a; b", "similar objects": ["dog"]}'}]


@fuzz
@given(content=mutations(CLASSES) | mutations(COCO["categories"]) | mutations(DESCO) | mutations({"cat": ["small", 3]}) | JUNK)
def test_vocabulary__files(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "fuzz_vocabulary.json"
    path.write_text(json.dumps(content))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for read in (load_vocabulary, lambda p: with_descriptions(Vocabulary.of(["cat", "dog"]), p)):
            try:
                found = read(path)
            except ValueError as error:
                assert str(path) in str(error) and len(str(error)) < 2000
            else:
                assert len(found) > 0 and len(set(found.names)) == len(found) and all(e.noun.strip() for e in found)


NAMES = st.lists(st.text(max_size=20) | st.sampled_from(["", " ", "\n", "a" * 10_000, "قطة", "猫🐈", "cat", "CAT", "(x)", "_", "a_(b)", "\u202e"]), max_size=6)


@fuzz
@given(names=NAMES)
def test_vocabulary__names(names):
    try:
        found = load_vocabulary(names)
    except ValueError as error:
        assert len(str(error)) < 20_500
    else:
        assert found.names == tuple(names) or len(found) == len(names)


def pictures() -> dict[str, bytes]:
    """Return images of every kind that PIL writes and cameras make."""
    ramp = np.arange(24 * 32 * 3, dtype=np.uint32).reshape(24, 32, 3).astype(np.uint8)
    rgb = Image.fromarray(ramp)
    exif = rgb.getexif()
    exif[0x0112] = 6
    made = {
        "png": (rgb, {}), "jpg": (rgb, {}), "bmp": (rgb, {}), "webp": (rgb, {}), "tiff": (rgb, {}),
        "png grey": (rgb.convert("L"), {}), "png palette": (rgb.convert("P"), {"transparency": 3}), "png alpha": (rgb.convert("RGBA"), {}),
        "png 16": (Image.fromarray(ramp[..., 0].astype(np.uint16) * 200), {}), "png 1": (rgb.convert("1"), {}), "jpg cmyk": (rgb.convert("CMYK"), {}),
        "tiff float": (Image.fromarray(ramp[..., 0].astype(np.float32)), {}), "jpg turned": (rgb, {"exif": exif}),
        "gif animated": (rgb.convert("P"), {"save_all": True, "append_images": [rgb.convert("P")] * 3}),
        "png 1x1": (rgb.resize((1, 1)), {}), "png strip": (rgb.resize((20_000, 10)), {}),
    }  # fmt: skip
    out = {}
    for name, (picture, how) in made.items():
        file = io.BytesIO()
        picture.save(file, format={"jpg": "JPEG"}.get(name.split()[0], name.split()[0].upper()), **how)
        out[name] = file.getvalue()
    return out


PICTURES = pictures()


@pytest.mark.parametrize("name", PICTURES)
def test_image__kinds(tmp_path, name):
    path = tmp_path / f"a.{name.split()[0]}"
    path.write_bytes(PICTURES[name])
    if name == "tiff float":  # nothing says what is white
        with pytest.raises(ValueError, match="a.tiff cannot be read as an image: .* got floats"):
            load_image(path)
        return
    image = load_image(path)
    assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
    expected = {"jpg turned": (32, 24), "png 1x1": (1, 1), "png strip": (10, 20_000)}.get(name, (24, 32))
    assert image.shape[:2] == expected
    if name == "png 16":
        assert len(np.unique(image)) > 10, "16 bits are scaled to 8, not cut off"


@fuzz
@given(name=st.sampled_from(sorted(set(PICTURES) - {"png strip"})), cut=st.floats(0, 1),
       flips=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=4))  # fmt: skip
def test_image__broken(name, cut, flips):
    data = bytearray(PICTURES[name])
    for where, value in flips:
        data[min(int(where * len(data)), len(data) - 1)] = value
    data = bytes(data[: int(cut * len(data))]) if cut < 0.7 else bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image = decode_upright(data, "x.img")
        except ValueError as error:
            assert str(error).startswith("x.img")
            return
    assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3


def test_vocabulary__of_50_000_names():
    found = load_vocabulary([f"thing number {k}" for k in range(50_000)])
    assert len(found) == 50_000 and found.index("thing number 49999") == 49_999
