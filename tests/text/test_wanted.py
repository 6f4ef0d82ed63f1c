import json

import pytest

from ovdense.structures import Vocabulary
from ovdense.text.wanted import wanted_of


def _names(wanted):
    return wanted.vocabulary.names, tuple(entry.name for entry in wanted.negatives), wanted.prompt


@pytest.mark.parametrize(
    "asked, said",
    [
        (["cat", "not: dog"], (("cat",), ("dog",), "names")),
        ("cat. a red chair. Not: a dog", (("cat", "a red chair"), ("a dog",), "names")),
        ("cat", (("cat",), (), "names")),
        ("traffic light. tv/monitor", (("traffic light", "tv/monitor"), (), "names")),
        (Vocabulary.of(["a", "b"]), (("a", "b"), (), "names")),
        ({"cat": "a small furry animal", "not: dog": ["it barks"]}, (("cat",), ("dog",), "descriptions")),
    ],
)
def test_wanted__every_form(asked, said):
    assert _names(wanted_of(asked)) == said


def test_wanted__built_in_and_files(tmp_path):
    assert len(wanted_of("voc").vocabulary) == 20
    (tmp_path / "mine.txt").write_text("cat\nnot: dog\n")
    assert _names(wanted_of(tmp_path / "mine.txt", negatives="a fox. a wolf")) == (("cat",), ("dog", "a fox", "a wolf"), "names")
    (tmp_path / "said.json").write_text(json.dumps({"cat": "it purrs"}))
    wanted = wanted_of(str(tmp_path / "said.json"))
    assert wanted.prompt == "descriptions" and wanted.vocabulary[0].descriptions == ("it purrs",)
    (tmp_path / "classes.json").write_text(json.dumps({"classes": ["cat", "dog"]}))
    assert _names(wanted_of(tmp_path / "classes.json")) == (("cat", "dog"), (), "names")


@pytest.mark.parametrize(
    "asked, message",
    [
        (["not: dog"], "besides what is not wanted"),
        (["cat", "not: "], "must name a thing"),
        (["dog", "not: dog"], "unique"),
        ({}, "empty mapping"),
        ("lvsi", "did you mean 'lvis'"),
        ("...", "at least one thing"),
    ],
)
def test_wanted__what_cannot_be_asked(asked, message):
    with pytest.raises(ValueError, match=message):
        wanted_of(asked)


def test_wanted__a_lone_name_with_a_slash_is_told_how_to_be_asked():
    with pytest.raises(FileNotFoundError, match=r"a list of names: \['tv/monitor'\]"):
        wanted_of("tv/monitor")
    assert wanted_of(["tv/monitor"]).vocabulary.names == ("tv/monitor",)


def test_wanted__a_missing_file_is_no_class():
    with pytest.raises(FileNotFoundError, match="mine.txt"):
        wanted_of("mine.txt")


@pytest.mark.parametrize("asked", ["", " ", "\n"])
def test_wanted_of__nothing_is_not_the_current_folder(asked, tmp_path, monkeypatch):
    from ovdense.support.sources import example_pictures

    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "a.jpg").touch()
    monkeypatch.chdir(tmp_path)
    assert example_pictures(asked) is None and example_pictures(".") is not None
    with pytest.raises(ValueError, match="something to look for"):
        wanted_of(asked)


@pytest.mark.parametrize("given", [None, 3])
def test_wanted_of__a_description_that_is_none(given):
    from ovdense.support.sources import example_pictures

    assert example_pictures({"cat": given}) is None
    with pytest.raises(ValueError, match="class 'cat' must be a string"):
        wanted_of({"cat": given})


def test_example_pictures__of_any_collection_of_files(tmp_path):
    from ovdense.support.sources import example_pictures

    files = {tmp_path / f"{n}.jpg": n for n in "ab"}
    for file in files:
        file.touch()
    for given in (list(files), tuple(files), files.keys(), tmp_path / "a.jpg", str(tmp_path / "a.jpg")):
        assert example_pictures({"cat": given})[1] == ("cat",)
