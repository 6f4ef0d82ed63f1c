"""ovdense support build: which classes it makes; and archives that are not there."""
import json
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from ovdense.cli import predict, support_build
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


@pytest.mark.slow
def test_support_build__its_file_answers_for_the_pictures_in_another_order(tmp_path, monkeypatch, capsys):
    """From the user's pictures to labels by the commands of the docs; no archive is at hand, so that nothing else can have answered."""
    monkeypatch.setenv("OVDENSE_CACHE", str(tmp_path / "cache"))
    colours, bank = {"cup": (220, 30, 30), "hot_dog": (30, 60, 230), "猫": (40, 200, 60)}, tmp_path / "mine.safetensors"
    for name, colour in colours.items():
        (tmp_path / "mine" / name).mkdir(parents=True)
        picture, mask = np.full((96, 128, 3), 128, np.uint8), np.zeros((96, 128), np.uint8)
        picture[16:80, 24:104], mask[16:80, 24:104] = colour, 255
        Image.fromarray(picture).save(tmp_path / "mine" / name / "0.png")
        Image.fromarray(mask).save(tmp_path / "mine" / name / "0.mask.png")
    config = ["ovdiff_voc_mini", "--data-root", str(tmp_path)]
    assert support_build.main([*config, "--pictures", str(tmp_path / "mine"), "--out", str(bank), "--sheet", str(tmp_path / "sheets"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [c["name"] for c in said["classes"]] == sorted(colours) and {p.stem for p in (tmp_path / "sheets").iterdir()} == set(colours)
    photo = np.full((96, 128, 3), 128, np.uint8)
    photo[16:80, 24:104] = colours["hot_dog"]
    Image.fromarray(photo).save(tmp_path / "photo.png")
    asked = ["--texts", "hot dog. cup", "--cfg-options", f"model.bank_file={bank}", "model.prefilter=None"]
    assert predict.main([str(tmp_path / "photo.png"), "--model", config[0], *config[1:], *asked, "--out", str(tmp_path / "out")]) == 0
    found = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert found["info"]["support"] == "folder" and found["info"]["num_parts"] == 4
    assert {a["category_name"] for a in found["annotations"] if a["area"] > 1000} == {"hot dog"}
