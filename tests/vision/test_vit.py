"""ViT backbones: ReCo's DeiT encoder, and sizes it was not trained for."""
import json

import numpy as np
import pytest
import torch
from timm.models.deit import VisionTransformerDistilled

from ovdense.vision.vit import VitBackbone
from tests.golden import load_fill, stated


def golden_net(folder, fill) -> VisionTransformerDistilled:
    spec = json.loads((folder / "spec.json").read_text())
    state = fill(spec, stated(folder, "seed"))
    width, side = state["pos_embed"].shape[2], round((state["pos_embed"].shape[1] - 2) ** 0.5)
    patch = state["patch_embed.proj.weight"].shape[-1]
    depth = len({k.split(".")[1] for k in state if k.startswith("blocks.")})
    heads = stated(folder, "heads")  # the weights do not show it
    net = VisionTransformerDistilled(img_size=side * patch, patch_size=patch, embed_dim=width, depth=depth, num_heads=heads, num_classes=0)
    net.load_state_dict(state)
    return net


def test_vit__gives_the_published_encoders_tokens(golden_root):
    folder = golden_root / "reco" / "encoder_deit"
    backbone = VitBackbone(net=golden_net(folder, load_fill(golden_root).fill))
    given, wanted = np.load(folder / "inputs.npz"), np.load(folder / "outputs.npz")
    assert given.files
    for case in given.files:
        got = backbone(torch.from_numpy(given[case]))[0]
        assert got.stride == backbone.strides[0]
        np.testing.assert_allclose(got.tensor_BCHW.numpy(), wanted[case], atol=1e-4, rtol=1e-4, err_msg=case)


def test_vit__reads_a_release_with_its_classifier(tmp_path):
    torch.manual_seed(0)
    kwargs = dict(img_size=32, patch_size=8, embed_dim=24, depth=1, num_heads=3)
    full = VisionTransformerDistilled(**kwargs, num_classes=5)
    torch.save({"model": full.state_dict()}, tmp_path / "deit.pth")
    backbone = VitBackbone(net=VisionTransformerDistilled(**kwargs, num_classes=0), weights=tmp_path / "deit.pth")
    image = torch.rand(2, 3, 32, 32)
    want = full.eval().forward_features(image)[:, 2:].transpose(1, 2).unflatten(2, (4, 4))
    torch.testing.assert_close(backbone(image)[0].tensor_BCHW, want)
    assert not any(p.requires_grad for p in backbone.parameters()) and not backbone.train().training


def test_vit__names_what_is_no_vit():
    with pytest.raises(ValueError, match="plain vision transformer"):
        VitBackbone("resnet18")
