"""Weights of open_clip's towers: OpenAI's archives and plain files, read as data."""
import json
import warnings

import open_clip
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ovdense.methods.dual_encoder import ClipDualEncoder
from ovdense.text.encoders import OpenClipTextEncoder
from ovdense.vision.dense_clip import ClipDenseEncoder

TEXT = dict(context_length=77, vocab_size=49408, width=16, heads=2, layers=1)
VISION = {"resnet": dict(image_size=64, layers=[1, 1, 1, 1], width=8, patch_size=None), "vit": dict(image_size=32, layers=2, width=64, patch_size=8)}


class Archived(nn.Module):
    """A model that can be written as a TorchScript archive without its forward pass."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        for name, part in [*model.named_children(), *model.named_parameters(recurse=False)]:
            setattr(self, name, part)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.logit_scale


@pytest.fixture(params=["resnet", "vit"])
def model(request, tmp_path):
    """A tiny CLIP with random weights, known to open_clip as "tiny-resnet" or "tiny-vit"."""
    name = f"tiny-{request.param}"
    (tmp_path / f"{name}.json").write_text(json.dumps(dict(embed_dim=12, quick_gelu=True, vision_cfg=VISION[request.param], text_cfg=TEXT)))
    open_clip.add_model_config(tmp_path / f"{name}.json")
    torch.manual_seed(1)
    return name, open_clip.create_model(name).eval()


def written(model: nn.Module, path, kind: str):
    if kind == "archive":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.jit is on its way out
            torch.jit.trace(Archived(model), torch.zeros(1)).save(str(path))
    elif kind == "half":
        torch.save({name: value.half() for name, value in model.state_dict().items()}, path)
    elif kind == "custom":  # open_clip's other form, whose text tower is a part of its own
        plain = ("visual.", "logit_")
        torch.save({name if name.startswith(plain) else f"text.{name}": value for name, value in model.state_dict().items()}, path)
    else:
        torch.save({"state_dict": {f"module.{name}": value for name, value in model.state_dict().items()}}, path)
    return path


@pytest.mark.parametrize("kind", ["archive", "half", "custom", "training"])
@torch.no_grad()
def test_dual_encoder__reads_the_files_that_clip_is_given_away_in(model, tmp_path, kind, caplog):
    name, theirs = model
    caplog.clear()
    ours = ClipDualEncoder(name, pretrained=written(theirs, tmp_path / "clip.pt", kind), templates="plain")
    tolerance = dict(atol=5e-3, rtol=5e-2) if kind == "half" else {}
    side = VISION[name.removeprefix("tiny-")]["image_size"]
    image = torch.rand(1, 3, side, side)
    torch.testing.assert_close(ours.encode_image(image), F.normalize(theirs.visual(image), dim=1), **tolerance)
    tokens = open_clip.get_tokenizer(name)(["a cat"])
    assert "initialized randomly" not in caplog.text  # open_clip's word on a model that it gave no weights
    torch.testing.assert_close(ours.encode_text(["a cat"]).rows_MD, F.normalize(theirs.encode_text(tokens), dim=1), **tolerance)


def test_towers__name_a_file_of_another_architecture(model, tmp_path):
    name, theirs = model
    file = written(theirs, tmp_path / "clip.pt", "training")
    for encoder in (lambda: ClipDenseEncoder("RN50", pretrained=file), lambda: OpenClipTextEncoder(model_name="RN50", pretrained=str(file))):
        with pytest.raises(ValueError, match="clip.pt does not fit"):
            encoder()
    with pytest.raises(KeyError, match="unknown open_clip model"):
        OpenClipTextEncoder(model_name="RN51", pretrained=str(file))
