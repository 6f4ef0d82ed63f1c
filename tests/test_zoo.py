import re
from pathlib import Path

import pytest

from ovdense import zoo

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def test_zoo__has_every_config_and_no_name_twice():
    there = {p.stem for p in CONFIGS.glob("*.py")} - set(zoo.PARTS)
    assert {card.config for card in zoo.cards()} == there
    names = zoo.names()
    assert len(names) == len(set(names))
    assert all(zoo.find(name).path.is_file() for name in names)


def test_zoo__says_what_a_model_is_and_needs():
    card = zoo.find("mini")
    assert card is not None and card == zoo.find("MaskCLIP") == zoo.find("maskclip-voc")
    assert card.method == "MaskCLIP" and card.about.startswith("Zero-shot masks") and "works at once" in card.advice
    assert "tools/train.py configs/desco_lvis_mini.py" in zoo.find("desco_mini").advice and not zoo.find("desco_mini").trained_on


def test_zoo__small_models_of_photos_say_that_they_need_some():
    for card in zoo.cards():
        if card.needs == "training":
            assert bool(card.trained_on) == ("coco_mini/" in _with_bases(card.path)), card.config
    assert "ReCo's labels" in zoo.find("reco_plus_mini").advice


def _with_bases(path: Path) -> str:
    """Return a config's text, and that of what it takes from _base_ by `from ._base_.NAME import ...`."""
    text = path.read_text()
    return text + "".join((CONFIGS / "_base_" / f"{name}.py").read_text() for name in re.findall(r"from \._base_\.(\w+) import", text))


def test_zoo__of_what_it_needs_the_configs_say_the_same():
    """A model that is not trained needs no checkpoint, and every other one needs one."""
    from ovdense.api import load_config
    from ovdense.methods.base import is_training_free

    for card in zoo.cards():
        assert is_training_free(load_config(card.path)) == (card.needs in ("nothing", "photos", "files")), card.config


def test_find__unknown_names_suggest_near_ones():
    with pytest.raises(KeyError, match="desco_mini"):
        zoo.find("dseco_mini")
    with pytest.raises(KeyError, match="'mini'|short names are"):
        zoo.find("xyzzy")


def test_config_path__names_files_and_configs_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for given in ("desco_swin_t", "configs/desco_lvis.py", CONFIGS / "desco_lvis.py"):
        assert zoo.config_path(given).samefile(CONFIGS / "desco_lvis.py")
    (tmp_path / "mine.py").write_text("model = dict()\n")
    assert zoo.config_path("mine.py") == Path("mine.py") and zoo.card_of("mine.py") is None
    with pytest.raises(FileNotFoundError, match="desco_lvis.py"):
        zoo.config_path("configs/desco_lvsi.py")


def test_work_dir__of_a_short_name_is_where_its_weights_are_looked_for(tmp_path, monkeypatch):
    """`ovdense train desco_mini` and `ovdense predict --model desco_mini` mean one folder."""
    from argparse import Namespace

    from ovdense.runs import configure

    monkeypatch.chdir(tmp_path)
    for given in ("desco_mini", "desco-mini", str(CONFIGS / "desco_lvis_mini.py")):
        cfg = configure(Namespace(config=given, cfg_options=None, work_dir=None, data_root=None, launcher="none", local_rank=0))
        assert cfg.work_dir == "work_dirs/desco_lvis_mini"
