"""ovdense support build: which classes it makes; and archives that are not there."""
from argparse import Namespace
from pathlib import Path

import pytest
from mmengine.config import Config

from ovdense.cli.support_build import _vocabulary
from ovdense.methods.ovdiff.retrieved import RetrievedSupport
from ovdense.methods.reco.archive import archive_paths
from ovdense.structures import ClassEntry


@pytest.mark.parametrize(
    ("vocabulary", "names"),
    [(None, ("cup", "red mug")), ("mug", ("mug",)), ("mug, cup", ("mug", "cup")), ("voc", None), ("{tmp}/names.txt", ("lamp",))],
)  # fmt: skip
def test_support_build__classes_of_the_pictures_or_as_said(vocabulary, names, tmp_path):
    for name in ("red mug", "cup", ".git"):
        (tmp_path / "mine" / name).mkdir(parents=True)
    (tmp_path / "names.txt").write_text("lamp\n")
    said = vocabulary and vocabulary.format(tmp=tmp_path)
    found = _vocabulary(Namespace(config="x.py", vocabulary=said, pictures=str(tmp_path / "mine")), Config({})).names
    assert found == names if names else len(found) == 20
    with pytest.raises(ValueError, match="give --vocabulary"):
        _vocabulary(Namespace(config="x.py", vocabulary=None, pictures=None), Config({}))


def test_archive__that_is_not_there_is_said_with_the_option_that_names_another(tmp_path):
    with pytest.raises(FileNotFoundError, match="model.retrieval.archive=/FOLDER"):
        archive_paths("nothing", str(tmp_path))
    support = RetrievedSupport(object(), archive="nothing", data_root=str(tmp_path), store=Path(tmp_path))
    with pytest.raises(FileNotFoundError, match="model.support.archive=/FOLDER"):
        support.support_set(ClassEntry(name="cat"))
