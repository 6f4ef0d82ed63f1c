"""Converting DenseCLIP's files by the tool: released names to ours and back, CLIP's positions for longer names, what does not fit."""
import pytest
import torch

from ovdense.methods.denseclip.convert import to_published
from tests.methods.denseclip.tiny import images, make
from tests.tiny_run import load_script

_CONFIG = """
from ovdense.methods.denseclip.decoders import SemanticFpn
from ovdense.methods.denseclip.model import DenseClip
from ovdense.text.clip_context import ClipContextEncoder
from ovdense.vision.clip import ClipResNet

model = dict(
    type=DenseClip,
    backbone=dict(type=ClipResNet, layers=(1, 1, 1, 1), width=8, embed_width=12, table_size=3),
    text_encoder=dict(type=ClipContextEncoder, embed_width=12, width=16, heads=2, layers=2, context_length=LENGTH),
    pixel_text=dict(num_contexts=4, decoder=dict(width=8, heads=2, num_layers=1, dropout=0.0)),
    decoder=dict(type=SemanticFpn, num_classes=3, in_channels=(32, 64, 128, 256), channels=8, head_channels=8),
    vocabulary=("cat", "sofa", "potted plant"),
)
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Return a model, its weights as a released file (saved from several GPUs), and configs with 9 and 77 positions."""
    folder, model = tmp_path_factory.mktemp("convert"), make()
    state = model.state_dict()
    name = "text_encoder.text.positional_embedding"
    short = state | {name: state[name][:9]}
    torch.save({"state_dict": {f"module.{k}": v for k, v in to_published(short).items()}, "meta": {}}, folder / "released.pth")
    torch.save({"positional_embedding": torch.full((77, 16), 7.0), "logit_scale": torch.tensor(4.6)}, folder / "clip.pt")
    for length in (9, 77):
        (folder / f"config{length}.py").write_text(_CONFIG.replace("LENGTH", str(length)))
    return folder, model, short


def convert(files, *arguments) -> int:
    return load_script("tools/convert_weights.py").main([str(a) for a in arguments])


def test_released_file__there_and_back(files, capsys):
    folder, _, short = files
    config = ["--config", folder / "config9.py"]
    assert convert(files, folder / "released.pth", folder / "ours.pth", *config) == 0
    ours = torch.load(folder / "ours.pth", weights_only=True)["state_dict"]
    assert ours.keys() == short.keys() and all(torch.equal(ours[k], v) for k, v in short.items())
    assert convert(files, folder / "ours.pth", folder / "plain.pth", "--to-published", *config) == 0
    plain, released = torch.load(folder / "plain.pth", weights_only=True), torch.load(folder / "released.pth", weights_only=True)["state_dict"]
    assert all(torch.equal(plain[k.removeprefix("module.")], v) for k, v in released.items()) and len(plain) == len(released)
    capsys.readouterr()


@torch.no_grad()
def test_longer_names__by_clips_positions(files, capsys):
    from ovdense.api import load_model

    folder, model, short = files
    assert convert(files, folder / "released.pth", folder / "long.pth", "--config", folder / "config77.py", "--clip", folder / "clip.pt") == 0
    long = load_model(folder / "config77.py", folder / "long.pth", "cpu")
    table = long.text_encoder.text.positional_embedding
    assert torch.equal(table[:9], short["text_encoder.text.positional_embedding"]) and (table[9:] == 7).all()
    long.set_vocabulary(model.vocabulary)
    assert torch.allclose(long.segment(images()), model.segment(images()), atol=1e-6)  # short names: nothing changes
    capsys.readouterr()


def test_what_does_not_fit__is_said(files, capsys):
    folder, *_ = files
    with pytest.raises(SystemExit):
        convert(files, folder / "released.pth", folder / "x.pth", "--config", folder / "config77.py")
    assert "text_encoder.text.positional_embedding (9, 16) for (77, 16)" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        convert(files, folder / "released.pth", folder / "x.pth", "--config", folder / "config77.py", "--clip", folder / "released.pth")
    assert "must be a CLIP model" in capsys.readouterr().err


def test_keep_bgr__is_refused_where_no_channel_was_ever_turned(files, capsys):
    folder, *_ = files
    with pytest.raises(SystemExit) as error:
        convert(files, folder / "released.pth", folder / "bgr.pth", "--config", folder / "config9.py", "--keep-bgr")
    assert error.value.code == 2 and "trained on RGB" in capsys.readouterr().err and not (folder / "bgr.pth").exists()
