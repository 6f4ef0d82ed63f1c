"""Every config loads, touches only what exists, builds, and survives a dump."""
import inspect
from pathlib import Path

import pytest
from mmengine.config import Config, ConfigDict

from ovdense.methods.dense_model import TrainingFreeSegmenter
from ovdense.methods.desco.settings import TestSettings
from ovdense.methods.ovdiff.model import OVDiff
from ovdense.methods.reco.plus import RecoPlus
from ovdense.runs import is_training_free

CONFIGS = sorted((Path(__file__).resolve().parents[1] / "configs").glob("*.py"))


def nodes(value, path=""):
    """Yield (path, dict) for every dict with a type in a config."""
    if isinstance(value, dict):
        if "type" in value:
            yield path, value
        for key, child in value.items():
            yield from nodes(child, f"{path}.{key}")
    elif isinstance(value, (list, tuple)):
        for i, child in enumerate(value):
            yield from nodes(child, f"{path}.{i}")


def unknown_keys(node: dict) -> set[str]:
    """Return the keys that the class of a config node does not take."""
    kind = node["type"]
    if not inspect.isclass(kind):
        return set()
    parameters = inspect.signature(kind.__init__).parameters
    if any(p.kind == p.VAR_KEYWORD for p in parameters.values()):
        return set()
    handled = {"type", "priority", "convert_to_iter_based"}  # read before the class is made
    if "optimizer" in parameters:
        handled |= {"constructor", "paramwise_cfg"}
    return set(node) - handled - set(parameters)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_config__types_are_classes_and_keys_exist(path):
    cfg = Config.fromfile(str(path))
    found = list(nodes(cfg.to_dict()))
    assert len(found) > 10
    for where, node in found:
        assert callable(node["type"]) or isinstance(node["type"], str) and "." in node["type"], f"{where}: {node['type']!r}"
    plain = dict(cfg.items())
    for where, node in nodes({k: v for k, v in plain.items() if isinstance(v, (dict, list, ConfigDict))}):
        assert not unknown_keys(node), f"{path.name}{where}: {node['type'].__name__} has no {sorted(unknown_keys(node))}"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_config__has_the_header_with_its_commands(path):
    header = path.read_text().split('"""')[1]
    assert "Train:" in header and "Test:" in header and f"configs/{path.name}" in header


def named(value):
    """Return a config's content with classes and functions as their dotted names, tuples as lists."""
    if isinstance(value, dict):
        return {k: named(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [named(v) for v in value]
    return f"{value.__module__}.{value.__qualname__}" if callable(value) else value


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_config__dump_and_reload_is_the_same(path, tmp_path):
    cfg = Config.fromfile(str(path))
    cfg.dump(str(tmp_path / "dumped.py"))
    assert named(Config.fromfile(str(tmp_path / "dumped.py")).to_dict()) == named(cfg.to_dict())


SMALL = [p for p in CONFIGS if p.stem.endswith(("_mini", "_photos"))]


@pytest.mark.parametrize("path", [p for p in CONFIGS if p not in SMALL and p.stem.startswith("desco")], ids=lambda p: p.stem)
def test_config__full_size_ones_share_the_published_model(path):
    """That model is built, counted and compared with the release in tests/methods/desco/test_full_size.py."""
    published, own = (dict(Config.fromfile(str(p)).model) for p in (path.with_name("desco_lvis.py"), path))
    assert {k: v for k, v in own.items() if k != "test"} == {k: v for k, v in published.items() if k != "test"}
    TestSettings(**own["test"])


@pytest.mark.parametrize("path", SMALL, ids=lambda p: p.stem)
def test_config__model_builds(path):
    from ovdense.registry import MODELS

    cfg = Config.fromfile(str(path))
    model = MODELS.build(cfg.model)
    if not is_training_free(cfg):
        assert sum(p.numel() for p in model.parameters() if p.requires_grad) > 1e5


@pytest.mark.parametrize("path", [p for p in CONFIGS if "photos" in p.stem], ids=lambda p: p.stem)
def test_config__finds_its_photos_below_the_data_root(path, data_root, monkeypatch):
    from ovdense.registry import DATASETS

    monkeypatch.setenv("OVDENSE_DATA", str(data_root))
    cfg = Config.fromfile(str(path))
    for loader in ("train_dataloader", "val_dataloader" if "val_dataloader" in cfg else "test_dataloader"):
        sample = DATASETS.build(cfg[loader].dataset)[0]
        assert sample["image"].ndim == 3
        if path.stem.startswith(("desco", "mdetr")):
            assert (sample["target"].caption is not None) == (loader.startswith("train") or path.stem.startswith("mdetr"))
        else:
            assert (sample["target"].label_map_HW >= 0).all()


def test_unknown_keys__finds_a_misspelt_argument():
    from ovdense.layers.fpn import FeaturePyramid

    assert unknown_keys(dict(type=FeaturePyramid, in_channels=(1,), out_chanels=2)) == {"out_chanels"}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_config__of_a_model_asked_by_names_has_data_that_ask_by_names(path):
    """The data set says how the classes are asked; a model that knows names alone refuses descriptions."""
    cfg = Config.fromfile(str(path))
    dataset = (cfg.get("test_dataloader") or {}).get("dataset")
    if dataset is None or not issubclass(cfg.model.type, (TrainingFreeSegmenter, OVDiff, RecoPlus)):
        return
    default = inspect.signature(dataset.type.__init__).parameters["prompt"].default
    assert (dataset.get("prompt") or (None if default is inspect.Parameter.empty else default) or "names") == "names"
