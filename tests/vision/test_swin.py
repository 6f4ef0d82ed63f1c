"""Swin at any size, its freezing, its conversions."""
import pytest
import torch

from ovdense.vision.backbones import SwinBackbone
from ovdense.vision.swin import BETWEEN_REGIONS, PatchMerging, WindowAttention, from_windows, shift_mask, swin_published_to_ours, to_windows

TINY = dict(embed_dim=12, depths=(2, 2, 2, 2), num_heads=(1, 2, 3, 4), window=3, drop_path_rate=0.0)


def _images(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size_hw", [(64, 96), (37, 50), (8, 5), (1, 1)])
def test_swin__maps_of_any_image_size(size_hw):
    backbone = SwinBackbone(**TINY)
    maps = backbone(_images(2, 3, *size_hw))
    assert backbone.strides == (8, 16, 32) and backbone.channels == (24, 48, 96)
    assert [m.stride for m in maps] == [8, 16, 32]
    for m, c in zip(maps, backbone.channels):
        assert m.tensor_BCHW.shape == (2, c, *(-(-n // m.stride) for n in size_hw))


def test_swin__batch_is_singles_and_padding_within_windows_is_local():
    backbone = SwinBackbone(**TINY).eval()
    images = _images(2, 3, 48, 60)
    both = backbone(images)
    for b in range(2):
        for whole, single in zip(both, backbone(images[b : b + 1])):
            assert torch.allclose(whole.tensor_BCHW[b], single.tensor_BCHW[0], atol=1e-5)


def test_windows__go_and_come_back():
    x = torch.arange(2 * 4 * 6 * 3.0).view(2, 4, 6, 3)
    windows = to_windows(x, 2)
    assert windows.shape == (2, 6, 4, 3)
    assert torch.equal(windows[0, 1, :, 0], x[0, :2, 2:4, 0].flatten())
    assert torch.equal(from_windows(windows, 2, (4, 6)), x)


def test_shift_mask__separates_what_was_not_together():
    mask = shift_mask((4, 4), 2, 1, torch.zeros(1))
    assert mask.shape == (4, 4, 4) and not mask[0].any()  # the first window was whole
    # the second window (upper right) holds columns 2 and 3 of the shifted map, and column 3 came from the left edge
    assert mask[1, 0].tolist() == [0, BETWEEN_REGIONS, 0, BETWEEN_REGIONS]
    assert (mask[3] == 0).sum() == 4  # four corners that know only themselves


def test_window_attention__is_the_formula():
    torch.manual_seed(0)
    attention = WindowAttention(8, num_heads=2, window=2)
    x, mask = torch.randn(1, 3, 4, 8), torch.randn(3, 4, 4)
    query, key, value = attention.qkv(x).view(3, 4, 3, 2, 4).permute(2, 0, 3, 1, 4)
    logit = query @ key.transpose(-1, -2) / 2.0
    for i in range(4):
        for j in range(4):
            dy, dx = i // 2 - j // 2 + 1, i % 2 - j % 2 + 1
            logit[:, :, i, j] += attention.relative_position_bias_table[dy * 3 + dx] + mask[:, i, j, None]
    expected = attention.proj((logit.softmax(-1) @ value).transpose(1, 2).reshape(1, 3, 4, 8))
    assert torch.allclose(attention(x, mask), expected, atol=1e-6)


def test_patch_merging__order_of_the_four():
    merge = PatchMerging(1)
    merge.norm, merge.reduction = torch.nn.Identity(), torch.nn.Identity()
    x = torch.tensor([[1.0, 2, 3], [4, 5, 6], [7, 8, 9]])[None, ..., None]
    assert merge(x)[0].tolist() == [[[1, 4, 2, 5], [3, 6, 0, 0]], [[7, 0, 8, 0], [9, 0, 0, 0]]]


@pytest.mark.parametrize(("frozen", "free"), [(-1, None), (0, "layers.0"), (2, "layers.2"), (4, "norm")])
def test_frozen_stages__keep_weights_without_gradients(frozen, free):
    backbone = SwinBackbone(**TINY, frozen_stages=frozen).train()
    sum(m.tensor_BCHW.sum() for m in backbone(_images(1, 3, 32, 32))).backward()
    trained = [n for n, p in backbone.named_parameters() if p.grad is not None]
    assert trained[0].startswith(free or "patch_embed")
    assert backbone.patch_embed.training == (frozen < 0)


def test_checkpointing__same_numbers_and_gradients():
    torch.manual_seed(0)
    plain = SwinBackbone(**TINY)
    saving = SwinBackbone(**TINY, use_checkpoint=True)
    saving.load_state_dict(plain.state_dict())
    images = _images(1, 3, 40, 44)
    for backbone in (plain, saving):
        sum(m.tensor_BCHW.square().sum() for m in backbone(images)).backward()
    for a, b in zip(plain.parameters(), saving.parameters()):
        assert torch.equal(a.grad, b.grad)


def test_weights__a_classifier_file_lacks_output_norms_and_says_so(tmp_path, printed):
    source = SwinBackbone(**TINY)
    state = {k: v for k, v in source.state_dict().items() if not k.startswith("norm")}
    extra = {"norm.weight": torch.ones(96), "head.weight": torch.ones(10, 96), "layers.0.blocks.1.attn_mask": torch.ones(1),
             "layers.0.blocks.0.attn.relative_position_index": torch.ones(9, 9).long()}
    torch.save({"model": state | extra}, tmp_path / "swin.pth")
    loaded = SwinBackbone(**TINY, weights=tmp_path / "swin.pth")
    assert len(printed) == 1 and "kept as they are: norm1.weight" in printed[0]
    for name, value in state.items():
        assert torch.equal(loaded.state_dict()[name], value)
    with pytest.raises(ValueError, match="wrong shape"):
        SwinBackbone(**TINY | dict(embed_dim=24), weights=tmp_path / "swin.pth")
    state.pop("layers.1.blocks.0.attn.qkv.bias")
    torch.save(state, tmp_path / "cut.pth")
    with pytest.raises(ValueError, match=r"missing layers\.1\.blocks\.0\.attn\.qkv\.bias"):
        SwinBackbone(**TINY, weights=tmp_path / "cut.pth")


def test_conversion__takes_only_the_backbone_and_turns_bgr():
    state = {f"module.backbone.body.{k}": v for k, v in SwinBackbone(**TINY).state_dict().items()}
    ours = swin_published_to_ours(state | {"module.rpn.head.log_scale": torch.zeros(1)}, bgr_to_rgb=True)
    rgb, bgr = SwinBackbone(**TINY).eval(), SwinBackbone(**TINY).eval()
    rgb.load_state_dict(ours)
    bgr.load_state_dict(swin_published_to_ours(state))
    images = _images(1, 3, 32, 32)
    for a, b in zip(rgb(images), bgr(images.flip(1))):
        assert torch.allclose(a.tensor_BCHW, b.tensor_BCHW, atol=1e-5)
    with pytest.raises(ValueError, match="must hold '...patch_embed.proj.weight'"):
        swin_published_to_ours({"conv1.weight": torch.zeros(1)})


@pytest.mark.parametrize(
    "wrong", [dict(out_strides=(64,)), dict(out_strides=()), dict(out_strides=(16, 8)), dict(frozen_stages=5), dict(num_heads=(1,))]
)
def test_swin__wrong_settings_raise(wrong):
    with pytest.raises(ValueError, match="must"):
        SwinBackbone(**TINY | wrong)
