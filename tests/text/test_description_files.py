"""DesCo's files of descriptions, written and read back, and what broken ones say."""
import json
import warnings

import pytest

from ovdense.structures import ClassEntry, Vocabulary
from ovdense.text.description_files import format_gpt3_output, read_altered, read_nouns, without_stop_words, write_desco_list, write_nouns
from ovdense.text.vocabulary import load_vocabulary, with_descriptions

CAT = ClassEntry(name="cat", kind="animal", descriptions=("furry; meows",), similar=("lynx",))
VOCABULARY = Vocabulary((CAT, ClassEntry(name="hot_dog", kind="food"), ClassEntry(name="thing")))
GOOD = json.dumps({"type": "animal", "description": "furry; meows", "similar objects": ["lynx"]})


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_list__is_read_as_it_was_written(tmp_path):
    path = tmp_path / "said.json"
    assert write_desco_list(path, VOCABULARY, altered={"cat": ["bald;  barks", "striped"]}) == 2
    items = json.loads(path.read_text())
    assert [(i["object"], i["object_id"]) for i in items] == [("cat", 1), ("hot_dog", 2)]
    assert load_vocabulary(path) == Vocabulary(VOCABULARY.entries[:2])
    assert read_altered(path) == {"cat": ("bald; barks", "striped")}
    with pytest.warns(UserWarning, match="leaves 1 of 3 classes undescribed: 0 keep .* 1 only their name .*'thing'"):
        assert with_descriptions(Vocabulary.of(VOCABULARY.names), path) == VOCABULARY


def test_list__what_cannot_be_written(tmp_path):
    with pytest.raises(ValueError, match="class 'cat' has 2"):
        format_gpt3_output(ClassEntry(name="cat", descriptions=("a", "b")))
    with pytest.raises(ValueError, match="none has"):
        write_desco_list(tmp_path / "a.json", Vocabulary.of(["cat"]))
    with pytest.raises(ValueError, match="of the vocabulary"):
        write_desco_list(tmp_path / "a.json", VOCABULARY, altered={"dog": ["x"]})
    with pytest.raises(ValueError, match="the folder must exist"):
        write_desco_list(tmp_path / "none" / "a.json", VOCABULARY)


BROKEN_LISTS = [
    ([{"object": "cat", "gpt3_output": "cat: furry"}], "entry 0 ('cat'): gpt3_output must be JSON"),
    ([{"object": "cat", "gpt3_output": "[1]"}], "entry 0 ('cat'): gpt3_output must be a JSON object, got list"),
    ([{"object": "cat", "gpt3_output": "{}"}], "entry 0 ('cat'): gpt3_output must hold 'type'"),
    ([{"object": "cat", "gpt3_output": '{"type": 3}'}], "entry 0 ('cat'): type must be a non-empty string, got 3"),
    ([{"object": "cat", "gpt3_output": '{"type": "a", "similar objects": [""]}'}], "entry 0 ('cat'): 'similar objects'"),
    ([{"object": "cat", "gpt3_output": "__import__('os').getcwd()"}], "gpt3_output must be JSON"),
    ([{"object": "cat", "gpt3_output": GOOD}, {"gpt3_output": GOOD}], "entry 1 must have the strings 'object'"),
]


@pytest.mark.parametrize(("content", "message"), BROKEN_LISTS)
def test_list__broken_entries_are_named(tmp_path, content, message):
    path = write(tmp_path / "said.json", content)
    for read in (load_vocabulary, lambda p: with_descriptions(VOCABULARY, p)):
        with pytest.raises(ValueError) as caught:
            read(path)
        assert str(path) in str(caught.value) and message in str(caught.value)


BROKEN_ALTERED = [
    ({"object": "cat"}, "must be a list"),
    ([{"object": "cat"}], "must have 'chatgpt_negatives', none has"),
    ([{"object": "cat", "chatgpt_negatives": " \n"}], "entry 0 ('cat'): chatgpt_negatives must be a non-empty string"),
    ([{"object": "cat", "chatgpt_negatives": "a"}, {"object": "cat", "chatgpt_negatives": "b"}], "'cat' is there twice"),
    ([{"chatgpt_negatives": "a"}], "entry 0 must have the string 'object'"),
]


@pytest.mark.parametrize(("content", "message"), BROKEN_ALTERED)
def test_altered__broken_entries_are_named(tmp_path, content, message):
    path = write(tmp_path / "said.json", content)
    with pytest.raises(ValueError) as caught:
        read_altered(path)
    assert str(path) in str(caught.value) and message in str(caught.value)


def test_nouns__are_read_as_they_were_written(tmp_path):
    path = write(tmp_path / "nouns.json", {"cat": [GOOD, 5], "hot dog": ['{"type": "food"}', 0]})
    nouns = read_nouns(path)
    assert nouns.entries["cat"] == CAT and nouns.frequencies == {"cat": 5, "hot dog": 0} and nouns.nouns == ("cat", "hot dog")
    write_nouns(tmp_path / "again.json", nouns)
    assert read_nouns(tmp_path / "again.json") == nouns
    assert [nouns.find(n) for n in ("cat", "the Cat", "Hot  dog", "dog", "the")] == ["cat", "cat", "hot dog", None, None]


BROKEN_NOUNS = [
    ([], "nouns must be a non-empty object"),
    ({}, "nouns must be a non-empty object"),
    ({"cat": GOOD}, "noun 'cat' must be a word with [gpt3_output, frequency >= 0]"),
    ({"cat": [GOOD, -1]}, "noun 'cat'"),
    ({"cat": [GOOD, "5"]}, "noun 'cat'"),
    ({" ": [GOOD, 5]}, "noun ' '"),
    ({"cat": [GOOD, 5], "dog": ["furry", 5]}, "noun 'dog': gpt3_output must be JSON"),
]


@pytest.mark.parametrize(("content", "message"), BROKEN_NOUNS)
def test_nouns__broken_entries_are_named(tmp_path, content, message):
    path = write(tmp_path / "nouns.json", content)
    with pytest.raises(ValueError) as caught:
        read_nouns(path)
    assert str(path) in str(caught.value) and message in str(caught.value)


def test_nouns__broken_entries_can_be_left_out(tmp_path):
    path = write(tmp_path / "nouns.json", {"cat": [GOOD, 5], "dog": ["furry", 5]})
    with pytest.warns(UserWarning, match="1 of 2 nouns are left out.*noun 'dog'"):
        nouns = read_nouns(path, on_broken="skip")
    assert set(nouns.entries) == {"cat"} and set(nouns.outputs) == {"cat", "dog"}
    with pytest.raises(ValueError, match="on_broken"):
        read_nouns(path, on_broken="ignore")
    with pytest.raises(FileNotFoundError):
        read_nouns(tmp_path / "nothing.json")


def test_with_descriptions__from_nouns_of_captions(tmp_path):
    path = write(tmp_path / "nouns.json", {"Cat": ['{"type": "pet"}', 2], "cat": [GOOD, 5], "zebra": ['{"type": "animal"}', 1]})
    told = with_descriptions(Vocabulary.of(["cat"]), path)  # the file says more than is asked for; the frequent spelling counts
    assert told == Vocabulary((CAT,))


def test_with_descriptions__what_is_left_keeps_its_definition(tmp_path):
    lvis = load_vocabulary("lvis").subset(["zebra", "aerosol_can"])
    path = write(tmp_path / "said.json", [{"object": "zebra", "gpt3_output": GOOD}])
    with pytest.warns(UserWarning, match="leaves 1 of 2 classes undescribed: 1 keep the description that they had; add"):
        told = with_descriptions(lvis, path)
    assert told[1] == lvis[1] and told[0].descriptions == ("furry; meows",)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with_descriptions(lvis, path, tell_missing=False)
        with_descriptions(lvis, {"zebra": "striped"})


def test_stop_words():
    assert without_stop_words("can of the soda") == "soda" and without_stop_words("The dog") == "The dog"
