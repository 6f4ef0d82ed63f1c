"""mmdet's GLIP files: its own Swin and pyramid give the same maps as ours with the converted weights, and every name has its way back."""
import json
import re

import pytest
import torch

from ovdense.layers.fpn import FeaturePyramid
from ovdense.methods.desco.convert import convert_fpn, convert_published, is_mmdet, published_from_mmdet, split_published
from ovdense.vision.backbones import SwinBackbone, swin_published_to_ours


@pytest.fixture(scope="module")
def mmdet_parts():
    """mmdet's own modules at a small size, with their names as in a file of GLIP."""
    from mmdet.models import FPN, SwinTransformer

    torch.manual_seed(0)
    swin = SwinTransformer(embed_dims=16, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8), window_size=7, out_indices=(1, 2, 3), drop_path_rate=0.0)
    fpn = FPN(in_channels=[32, 64, 128], out_channels=24, num_outs=5, add_extra_convs="on_output", relu_before_extra_convs=True)
    for parameter in [*swin.parameters(), *fpn.parameters()]:
        parameter.data.normal_(0, 0.1)
    swin.eval()  # mmdet's returns nothing
    fpn.eval()
    return swin, fpn


@torch.no_grad()
def test_mmdet__swin_and_pyramid_give_the_same_maps(mmdet_parts):
    swin, fpn = mmdet_parts
    published = published_from_mmdet({**{f"backbone.{n}": t for n, t in swin.state_dict().items()}, **{f"neck.{n}": t for n, t in fpn.state_dict().items()}})
    ours = SwinBackbone(embed_dim=16, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8), window=7, out_strides=(8, 16, 32)).eval()
    body = {n.removeprefix("backbone.body."): t for n, t in published.items() if n.startswith("backbone.body.")}
    missing = ours.load_state_dict(swin_published_to_ours({f"backbone.{n}": t for n, t in body.items()}), strict=False)
    assert not missing.unexpected_keys and all(n.startswith("norm0") for n in missing.missing_keys), missing
    neck = FeaturePyramid((32, 64, 128), out_channels=24, num_extra=2).eval()
    neck.load_state_dict(convert_fpn({n.removeprefix("backbone.fpn."): t for n, t in published.items() if n.startswith("backbone.fpn.")}))
    image = torch.randn(1, 3, 96, 128)
    theirs = swin(image)
    for mine, other in zip(ours(image), theirs, strict=True):
        torch.testing.assert_close(mine.tensor_BCHW, other, atol=1e-4, rtol=1e-4)
    for mine, other in zip(neck(ours(image)), fpn(theirs), strict=True):
        torch.testing.assert_close(mine.tensor_BCHW, other, atol=1e-4, rtol=1e-4)


def mmdet_name(name):
    """Return mmdet's name of a published tensor, None for one that its files leave out."""
    if "cls_logits" in name:
        return None
    name = name.replace("patch_embed.proj", "patch_embed.projection") if name.startswith("backbone.body.") else name
    if name.startswith("backbone.body."):
        name = name.replace("backbone.body.", "backbone.").replace("layers", "stages").replace("mlp.fc1", "ffn.layers.0.0").replace("mlp.fc2", "ffn.layers.1")
        return name.replace(".attn.", ".attn.w_msa.")
    found = re.match(r"backbone\.fpn\.(fpn_inner|fpn_layer|top_blocks\.p)(\d)\.(.*)", name)
    if found:
        kind, n = ("lateral_convs", int(found[2]) - 2) if found[1] == "fpn_inner" else ("fpn_convs", int(found[2]) - (2 if found[1] == "fpn_layer" else 3))
        return f"neck.{kind}.{n}.conv.{found[3]}"
    if name.startswith("language_backbone"):
        return f"language_model.{name}"
    return name.replace("rpn.head.", "bbox_head.head.").replace("DyConv", "dyconvs").replace("AttnConv", "attnconv")


def test_mmdet__every_name_of_the_full_size_model_finds_its_way(golden_root):
    spec = json.loads((golden_root / "desco" / "fullsize_spec" / "spec.json").read_text())
    published = {n: torch.zeros(1).expand(e["shape"] or [1]) for n, e in spec.items()}
    mmdet = {mmdet_name(n): t for n, t in published.items() if mmdet_name(n) is not None}
    assert is_mmdet(mmdet) and not is_mmdet(published)
    back = published_from_mmdet(mmdet)
    assert set(back) == {n for n in published if "cls_logits" not in n}
    assert all(back[n].shape == published[n].shape for n in back)
    assert set(convert_published(mmdet)) == {n for n in convert_published(published) if "cls_logits" not in n}
    assert all(split_published(mmdet).values())
