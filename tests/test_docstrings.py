"""The examples in docstrings of the public modules run and give what they say."""
import doctest
from importlib import import_module

import pytest

MODULES = ("ovdense.api", "ovdense.results", "ovdense.zoo", "ovdense.text.wanted", "ovdense.text.caption_prompts")


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples__give_what_they_say(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = doctest.testmod(import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert found.attempted > 0, f"{name} has no example"
    assert found.failed == 0
