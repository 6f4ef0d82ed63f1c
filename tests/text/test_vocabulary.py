"""Vocabularies of every form, and errors that name the file and the entry."""
import json

import pytest

from ovdense.structures import ClassEntry, Vocabulary
from ovdense.text.prompts import chunk_vocabulary
from ovdense.text.tokenizers import embedded_tokenizer
from ovdense.text.vocabulary import load_vocabulary, with_descriptions


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_load_vocabulary__names_and_vocabularies():
    vocabulary = load_vocabulary(["cat", " dog "])
    assert vocabulary.names == ("cat", "dog")
    assert load_vocabulary(vocabulary) is vocabulary


def test_load_vocabulary__builtin():
    lvis, coco, voc = (load_vocabulary(name) for name in ("lvis", "coco", "voc"))
    assert (len(lvis), len(coco), len(voc)) == (1203, 80, 20)
    definition = "a dispenser that holds a substance under pressure"
    assert lvis[0] == ClassEntry(name="aerosol_can", synonyms=("spray can",), frequency="c", descriptions=(definition,))
    assert [sum(e.frequency == f for e in lvis) for f in "rcf"] == [337, 461, 405]
    assert all(entry.descriptions for entry in lvis)
    assert (coco[0].name, coco[79].name, voc[0].name, voc[19].name) == ("person", "toothbrush", "aeroplane", "tvmonitor")
    assert load_vocabulary("lvis") is lvis


def test_load_vocabulary__real_annotations(data_root):
    assert load_vocabulary(data_root / "coco_mini/annotations/instances_val2017.json") == load_vocabulary("coco")
    assert load_vocabulary(data_root / "lvis_mini/annotations/lvis_v1_val.json") == load_vocabulary("lvis")
    assert load_vocabulary(data_root / "lvis_v1_categories.json") == load_vocabulary("lvis")
    voc = load_vocabulary(data_root / "voc_mini")
    assert set(voc.names) <= set(load_vocabulary("voc").names) and len(voc) > 10
    assert load_vocabulary(data_root / "voc_mini/VOCdevkit/VOC2012").names == voc.names


def test_load_vocabulary__text(tmp_path):
    path = write(tmp_path / "names.txt", "\ufeff# animals\ncat\n\n  hot dog \r\n")
    assert load_vocabulary(str(path)).names == ("cat", "hot dog")
    assert load_vocabulary(write(tmp_path / "names.lst", "cat\n"), form="text").names == ("cat",)


def test_load_vocabulary__classes(tmp_path):
    full = {"name": "cat", "synonyms": ["kitty", "cat"], "descriptions": "furry", "kind": "animal", "similar": ["lynx"]}
    full.update(frequency="r", background=False)
    expected = Vocabulary((
        ClassEntry(name="cat", synonyms=("kitty",), descriptions=("furry",), kind="animal", similar=("lynx",), frequency="r"),
        ClassEntry(name="sky"),
        ClassEntry(name="wall", is_background=True),
    ))
    content = [full, "sky", {"name": "wall", "background": True}]
    assert load_vocabulary(write(tmp_path / "a.json", content)) == expected
    assert load_vocabulary(write(tmp_path / "b.json", {"classes": content})) == expected


def test_load_vocabulary__categories_with_extra_keys(tmp_path):
    categories = [
        {"id": 7, "name": "ring", "kind": "shape", "similar": ["disc"], "descriptions": ["round; hollow"], "def": "a hoop",
         "frequency": "f", "synonyms": ["ring"]},
        {"id": 3, "name": "disc", "def": "a filled circle", "image_count": 4},
    ]
    vocabulary = load_vocabulary(write(tmp_path / "a.json", {"images": [], "categories": categories}))
    assert vocabulary == Vocabulary((
        ClassEntry(name="disc", descriptions=("a filled circle",)),
        ClassEntry(name="ring", kind="shape", similar=("disc",), descriptions=("round; hollow",), frequency="f"),
    ))


def test_load_vocabulary__desco(data_root):
    vocabulary = load_vocabulary(data_root / "descriptions/lvis_v1.description.v1.json")
    assert len(vocabulary) == 1203
    assert vocabulary[0] == ClassEntry(
        name="aerosol_can", kind="container", similar=("spray bottle", "gas canister", "fire extinguisher"),
        descriptions=("cylindrical; could be used to store liquids or gases; could be pressurized; could have a nozzle",),
    )


WRONG_FILES = [  # file name, content, what the message says besides the file's name
    ("a.txt", "cat\nhot dog\nHot  Dog\n", "'Hot  Dog' (class 2) clashes with 'hot dog' (class 1)"),
    ("a.txt", "# nothing\n", "at least one class"),
    ("a.json", '{"classes": ["cat"', "must be JSON"),
    ("a.json", [], "non-empty list"),
    ("a.json", {"names": ["cat"]}, "must hold 'classes' or 'categories'"),
    ("a.json", ["cat", " "], "class 1 must have a non-empty name"),
    ("a.json", ["cat", 3], "class 1 must be a name or an object"),
    ("a.json", [{"name": "cat", "synonym": ["kitty"]}], "did you mean 'synonyms'?"),
    ("a.json", [{"name": "cat", "synonyms": [""]}], "synonyms of class 'cat'"),
    ("a.json", [{"name": "cat", "frequency": "x"}], "frequency must be"),
    ("a.json", [{"name": "cat", "background": "no"}], "background of class 'cat'"),
    ("a.json", [{"name": "cat", "kind": 3}], "kind of class 'cat'"),
    ("a.json", {"categories": [{"id": 1, "name": "cat"}, {"id": 1, "name": "dog"}]}, "id 1 for 'cat' and 'dog'"),
    ("a.json", {"categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "Cat"}]}, "clashes"),
    ("a.json", {"categories": [{"id": 1, "name": ""}]}, "class 0 must have a non-empty name"),
    ("a.json", {"categories": [{"name": "cat"}]}, "integer 'id'"),
    ("a.json", [{"object": "cat", "gpt3_output": "no json"}], "entry 0 ('cat'): gpt3_output must be JSON"),
    ("a.json", [{"object": "cat"}], "'gpt3_output'"),
    ("a.csv", "cat", ".txt or .json"),
]


@pytest.mark.parametrize(("name", "content", "message"), WRONG_FILES)
def test_load_vocabulary__wrong_files_are_named(tmp_path, name, content, message):
    path = write(tmp_path / name, content)
    with pytest.raises(ValueError) as caught:
        load_vocabulary(path)
    assert str(path) in str(caught.value) and message in str(caught.value)


def test_load_vocabulary__wrong_sources(tmp_path):
    with pytest.raises(FileNotFoundError, match="did you mean 'coco'"):
        load_vocabulary("cocoo")
    with pytest.raises(ValueError, match="clashes"):
        load_vocabulary(["cat", "Cat"])
    with pytest.raises(ValueError, match="class 1 must have a non-empty name"):
        load_vocabulary(["cat", ""])
    with pytest.raises(ValueError, match="at least one class"):
        load_vocabulary([])
    with pytest.raises(ValueError, match="form must be one of"):
        load_vocabulary(["cat"], form="csv")
    with pytest.raises(ValueError, match="Annotations"):
        load_vocabulary(tmp_path)


def test_load_vocabulary__broken_voc(tmp_path):
    (tmp_path / "Annotations").mkdir()
    path = write(tmp_path / "Annotations" / "000001.xml", "<annotation><object><name>cat</name></object>")
    with pytest.raises(ValueError, match="000001.xml: must be XML"):
        load_vocabulary(tmp_path)
    write(path, "<annotation><object><name> </name></object></annotation>")
    with pytest.raises(ValueError, match="000001.xml: object 0 must have a name"):
        load_vocabulary(tmp_path)
    write(path, "<annotation><object><name>person</name><part><name>head</name></part></object></annotation>")
    assert load_vocabulary(tmp_path).names == ("person",)  # parts are no classes


def test_with_descriptions__mapping():
    vocabulary = Vocabulary.of(["cat", "hot_dog", "bow_(weapon)", "bow_(ribbon)"])
    said = {"Cat": "furry; small", "hot dog": {"kind": "food", "descriptions": ["in a bun"]}, "bow_(weapon)": ["bent", "long"]}
    told = with_descriptions(vocabulary, said)
    assert told[0].descriptions == ("furry; small",) and told[0].name == "cat"
    assert (told[1].kind, told[1].descriptions) == ("food", ("in a bun",))
    assert told[2].descriptions == ("bent", "long") and told[3] == vocabulary[3]


def test_with_descriptions__definitions_of_lvis(data_root):
    path = data_root / "lvis_v1_categories.json"
    told = with_descriptions(Vocabulary.of(["zebra", "aerosol_can"]), path)  # the file says more than is asked for
    assert told[1].descriptions == ("a dispenser that holds a substance under pressure",) and "striped" in told[0].descriptions[0]
    annotation = data_root / "lvis_mini/annotations/lvis_v1_val.json"
    assert with_descriptions(Vocabulary.of(["zebra", "aerosol_can"]), annotation) == told
    with pytest.raises(ValueError, match="1203 names are not in the vocabulary"):
        with_descriptions(Vocabulary.of(["unicorn"]), path)


LISTS = [  # a list of objects, what the cat is told
    ([{"name": "cat", "def": "furry"}], dict(descriptions=("furry",))),
    ([{"name": "cat", "descriptions": ["furry", "meows"], "def": "a pet", "kind": "animal"}], dict(descriptions=("furry", "meows"), kind="animal")),
    ([{"name": "cat", "similar": ["lynx"], "synonyms": ["kitty"]}, {"name": "dog"}], dict(similar=("lynx",))),  # only what is said about it
    ([{"id": 1, "name": "cat", "def": "furry", "image_count": 3}, {"id": 2, "name": "gnu", "def": "wild"}], dict(descriptions=("furry",))),
]


@pytest.mark.parametrize(("content", "fields"), LISTS)
def test_with_descriptions__lists(tmp_path, content, fields):
    vocabulary = Vocabulary.of(["cat", "dog"])
    for wrapped in (content, {"categories" if "id" in content[0] else "classes": content}):
        told = with_descriptions(vocabulary, write(tmp_path / "said.json", wrapped))
        assert told == Vocabulary((ClassEntry(name="cat", **fields), ClassEntry(name="dog")))


def test_load_vocabulary__def_is_a_description(tmp_path):
    assert load_vocabulary(write(tmp_path / "a.json", [{"name": "cat", "def": "furry"}]))[0].descriptions == ("furry",)


WRONG_LISTS = [
    (["cat"], "must hold objects with 'name' and 'def'"),
    ([{"name": "cat", "def": "furry"}, {"name": "gnu", "def": "wild"}], "1 names are not in the vocabulary of 1 classes: ['gnu']"),
    ([{"name": "cat", "description": "furry"}], "unknown keys ['description']"),
    ([{"name": "cat"}], "at least one class"),
    ([{"def": "furry"}], "the name of entry 0 must be a non-empty string"),
    ([{"object": "cat"}], "entry 0 must have the strings 'object' and 'gpt3_output'"),
]


@pytest.mark.parametrize(("content", "message"), WRONG_LISTS)
def test_with_descriptions__wrong_lists(tmp_path, content, message):
    path = write(tmp_path / "said.json", content)
    with pytest.raises(ValueError) as caught:
        with_descriptions(Vocabulary.of(["cat"]), path)
    assert message in str(caught.value) and str(path) in str(caught.value)


WRONG_DESCRIPTIONS = [
    ({"dogg": "x", "zebra": "y"}, "2 names are not in the vocabulary of 4 classes: ['dogg', 'zebra']; near 'dogg' there are ['dog'"),
    ({"bow": "x"}, "1 names are not in the vocabulary"),  # fits two classes
    ({"cat": "x", "CAT": "y"}, "class 'cat' must be described once, got it under 'cat' and 'CAT'"),
    ({"cat": " "}, "descriptions of class 'cat' must be a non-empty string"),
    ({"cat": []}, "descriptions of class 'cat'"),
    ({"cat": {}}, "class 'cat' must be given"),
    ({"cat": {"type": "animal"}}, "unknown keys ['type']"),
    ({}, "at least one class"),
]


@pytest.mark.parametrize(("said", "message"), WRONG_DESCRIPTIONS)
def test_with_descriptions__errors(tmp_path, said, message):
    vocabulary = Vocabulary.of(["cat", "dog", "bow_(weapon)", "bow_(ribbon)"])
    with pytest.raises(ValueError) as caught:
        with_descriptions(vocabulary, said)
    assert message in str(caught.value)
    path = write(tmp_path / "said.json", said)
    with pytest.raises(ValueError) as caught:
        with_descriptions(vocabulary, path)
    assert message in str(caught.value) and str(path) in str(caught.value)


def test_with_descriptions__published_file_gives_the_published_number_of_prompts(data_root):
    told = with_descriptions(load_vocabulary("lvis"), data_root / "descriptions/lvis_v1.description.v1.json")
    assert told[0].kind == "container" and told[0].synonyms == ("spray can",)
    tokenizer = embedded_tokenizer()
    chunks = chunk_vocabulary(told, tokenizer, "descriptions", max_classes=8)
    assert len(chunks) == 151 and max(tokenizer.count(c.caption) for c in chunks) == 252  # with two special tokens: 254
    assert len(chunk_vocabulary(told, tokenizer, "names", max_classes=40)) == 31
    with pytest.raises(FileNotFoundError):
        with_descriptions(told, data_root / "nothing.json")
