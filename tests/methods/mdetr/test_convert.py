"""Released MDETR files: read as data, converted with the weights that were evaluated."""
import argparse
import pickle

import pytest
import torch

from ovdense.methods.mdetr.convert import convert_published, is_published, read_published
from ovdense.vision.backbones import TimmBackbone


def released(tmp_path, **more):
    state = {"query_embed.weight": torch.zeros(2, 4), "backbone.0.body.conv1.weight": torch.zeros(1), "class_embed.bias": torch.ones(3)}
    ema = {n: t + 7 for n, t in state.items()}
    content = {"model": state, "model_ema": ema, "optimizer": {"state": {}}, "epoch": 3, "args": argparse.Namespace(lr=1e-4, masks=False), **more}
    torch.save(content, tmp_path / "released.pth")
    return tmp_path / "released.pth"


def test_read__a_namespace_of_settings_is_harmless_and_dropped(tmp_path):
    content = read_published(released(tmp_path))
    assert set(content) == {"model", "model_ema"} and is_published(content["model"])


def test_convert__takes_the_averaged_weights_unless_told(tmp_path):
    content = read_published(released(tmp_path))
    assert float(convert_published(content)["head.tokens.project.bias"][0]) == 8
    assert float(convert_published(content, ema=False)["head.tokens.project.bias"][0]) == 1
    assert float(convert_published(read_published(released(tmp_path, model_ema=None)))["head.tokens.project.bias"][0]) == 1


class Evil:
    def __reduce__(self):
        return (print, ("ran",))


def test_read__what_could_run_code_is_refused(tmp_path, capsys):
    torch.save({"model": {}, "args": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match="could run code"):
        read_published(tmp_path / "evil.pth")
    (tmp_path / "cut.pth").write_bytes(pickle.dumps([1])[:3])
    with pytest.raises(ValueError, match="cut short"):
        read_published(tmp_path / "cut.pth")
    assert "ran" not in capsys.readouterr().out
    with pytest.raises(FileNotFoundError):
        read_published(tmp_path / "none.pth")


def test_convert__unknown_tensors_are_named():
    with pytest.raises(KeyError, match="transformer.CLS.weight"):
        convert_published({"query_embed.weight": torch.zeros(1), "backbone.0.body.conv1.weight": torch.zeros(1), "transformer.CLS.weight": torch.zeros(1)})
    with pytest.raises(KeyError, match="no tensor under backbone.0.body"):
        convert_published({"query_embed.weight": torch.zeros(1)})


@pytest.mark.parametrize("name", ["tf_efficientnet_b3", "tf_efficientnet_b5"])
def test_convert__efficientnets_keep_timms_names(name):
    with torch.device("meta"):
        backbone = TimmBackbone(name, out_strides=(32,), norm_frozen=True, norm_eps=1e-5)
    own = {n: t for n, t in backbone.state_dict().items() if not n.endswith("num_batches_tracked")}
    published = {f"backbone.0.body.{n.removeprefix('net.')}": t for n, t in own.items()}
    converted = convert_published(published | {"query_embed.weight": torch.zeros(1)})
    assert {n.removeprefix("backbone.") for n in converted if n.startswith("backbone.")} == set(own)
    trained = [n for n, p in backbone.named_parameters() if p.requires_grad]
    assert trained and not any(".bn" in n for n in trained)
    assert {m.eps for m in backbone.modules() if isinstance(m, torch.nn.BatchNorm2d)} == {1e-5}
