"""Pyramid, fusion, BERT layer and dynamic head: exact small cases and invariances."""
import pytest
import torch
from torch.nn import functional as F
from torchvision.ops import deform_conv2d

from ovdense.layers import attention
from ovdense.layers.attention import attend
from ovdense.layers.bert_layer import BertLayer
from ovdense.layers.deform import deform_conv3x3
from ovdense.layers.dyhead import DyConv, DynamicReLU, read_flat
from ovdense.layers.fpn import FeaturePyramid
from ovdense.layers.fusion import FusionBlock
from ovdense.structures import FeatureMap

VALID = torch.tensor([[True, True, True, False, False], [True] * 5])


def _maps(batch=2, channels=16, sides=((8, 10), (4, 5), (2, 3))):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(batch, channels, *s, generator=generator) for s in sides]


def _text(batch=2, width=12, length=5):
    return torch.randn(batch, length, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("stride, size", [(1, (7, 9)), (2, (4, 5)), (1, (1, 1))])
def test_deform_conv__sampling_equals_torchvision_forward_and_backward(stride, size):
    generator = torch.Generator().manual_seed(3)
    source = (7, 9) if size != (1, 1) else (1, 1)
    leaves = [torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_()
              for s in ((2, 4, *source), (2, 18, *size), (2, 9, *size), (6, 4, 3, 3), (6,))]
    x, offset, mask, weight, bias = leaves
    ours = deform_conv3x3(x, 2 * offset, mask.sigmoid(), weight, bias, stride=stride, kernel="sampling")
    theirs = deform_conv2d(x, 2 * offset, weight, bias, stride, 1, 1, mask.sigmoid())
    torch.testing.assert_close(ours, theirs)
    for a, b in zip(torch.autograd.grad(ours.square().sum(), leaves), torch.autograd.grad(theirs.square().sum(), leaves)):
        torch.testing.assert_close(a, b)


def test_deform_conv__unknown_kernel_is_an_error():
    with pytest.raises(ValueError, match='"sampling", "torchvision" or None, got \'cuda\''):
        deform_conv3x3(*(torch.zeros(s) for s in ((1, 1, 2, 2), (1, 18, 2, 2), (1, 9, 2, 2), (1, 1, 3, 3), (1,))), kernel="cuda")


def test_read_flat__takes_the_first_numbers_of_memory():
    x = torch.arange(2 * 2 * 3 * 3.0).reshape(2, 2, 3, 3)
    assert read_flat(x, (2, 2)).tolist() == [[[[0, 1], [2, 3]], [[4, 5], [6, 7]]], [[[18, 19], [20, 21]], [[22, 23], [24, 25]]]]


@pytest.mark.parametrize("kwargs", [dict(deformable=False), dict(coarse_offsets="published"), dict(coarse_offsets="resized")])
def test_dyconv__keeps_shapes_and_a_batch_equals_single_images(kwargs):
    torch.manual_seed(0)
    block, maps = DyConv(16, **kwargs).eval(), _maps()
    out = block(maps)
    assert [o.shape for o in out] == [m.shape for m in maps]
    alone = block([m[1:] for m in maps])
    for whole, single in zip(out, alone):
        torch.testing.assert_close(whole[1:], single)


def test_dyconv__unknown_offsets_are_an_error():
    with pytest.raises(ValueError, match="coarse_offsets must be"):
        DyConv(16, coarse_offsets="cropped")


def test_dynamic_relu__fresh_slopes_by_hand():
    relu = DynamicReLU(8)
    for p in relu.parameters():
        torch.nn.init.zeros_(p)
    # zero network: hard sigmoid gives 1/2, so the lines are 1 * x + 0 and 0 * x + 0: a plain rectifier
    x = torch.tensor([-2.0, 3.0] * 4).reshape(1, 8, 1, 1)
    assert [y.flatten().tolist() for y in relu([x, x[:, :, :, [0, 0]]])] == [[0.0, 3.0] * 4, [0.0, 0.0, 3.0, 3.0] * 4]


def test_dyconv__views_weighed_at_once_equal_those_weighed_one_by_one():
    torch.manual_seed(0)
    block = DyConv(16, deformable=False)
    for p in block.parameters():
        torch.nn.init.normal_(p, std=0.3)
    fine, coarse = torch.randn(2, 16, 6, 8), torch.randn(2, 16, 3, 4)

    def one_by_one(views, relu=block.relu):
        total = sum(v * (F.relu6(F.relu(block.scale_attention(v.mean((2, 3), keepdim=True))) + 3) / 6) for v in views) / len(views)
        a1, b1, a2, b2 = (F.relu6(relu.fc(total.mean((2, 3))) + 3) / 6 - 0.5)[:, :, None, None].chunk(4, dim=1)
        return torch.maximum(total * (2 * a1 + 1) + b1, total * (2 * a2) + b2)

    up = F.interpolate(block.from_coarse(coarse), size=(6, 8), mode="bilinear", align_corners=True)
    want = [one_by_one([block.from_same(fine), up]), one_by_one([block.from_same(coarse), block.from_fine(fine)])]
    for got, wanted in zip(block([fine, coarse]), want, strict=True):
        torch.testing.assert_close(got, wanted)


def test_fusion__padded_tokens_change_nothing():
    torch.manual_seed(0)
    block, maps, text = FusionBlock(16, 12, embed_width=8, num_heads=2, dropout=0.0).eval(), _maps(), _text()
    fused, tokens = block(maps, text, VALID)
    other = text.clone()
    other[0, 3:] = 100.0
    fused_other, tokens_other = block(maps, other, VALID)
    for a, b in zip(fused, fused_other):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(tokens[0, :3], tokens_other[0, :3])
    assert (fused[0][0] - maps[0][0]).abs().max() > 1e-3, "the text must reach the image"


def test_fusion__moving_places_moves_their_features():
    torch.manual_seed(0)
    block, maps, text = FusionBlock(16, 12, embed_width=8, num_heads=2, dropout=0.0).eval(), _maps(), _text()
    fused, tokens = block(maps, text, VALID)
    flipped, tokens_flipped = block([m.flip(-1) for m in maps], text, VALID)
    torch.testing.assert_close(flipped[0], fused[0].flip(-1))
    torch.testing.assert_close(tokens, tokens_flipped)


def test_bert_layer__equals_transformers():
    from transformers import BertConfig
    from transformers.models.bert.modeling_bert import BertLayer as Reference

    torch.manual_seed(0)
    config = BertConfig(hidden_size=12, num_attention_heads=3, intermediate_size=20, attn_implementation="eager")
    theirs, ours = Reference(config).eval(), BertLayer(12, num_heads=3, ffn_width=20).eval()
    ours.load_state_dict(theirs.state_dict())
    bias = (~VALID)[:, None, None].float() * torch.finfo(torch.float32).min
    want = theirs(_text(), bias)
    want = want[0] if isinstance(want, tuple) else want
    torch.testing.assert_close(ours(_text(), VALID)[VALID], want[VALID])


def test_pyramid__strides_sizes_and_top_down_by_hand():
    pyramid = FeaturePyramid((1, 1), out_channels=1, num_extra=2)
    for name, p in pyramid.named_parameters():
        torch.nn.init.constant_(p, 0.0 if name.endswith("bias") else 1.0)
    fine, coarse = torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 2, 2)
    fine[0, 0, 0, 0], coarse[0, 0, 1, 1] = 2.0, 3.0
    out = pyramid([FeatureMap(tensor_BCHW=fine, stride=8), FeatureMap(tensor_BCHW=coarse, stride=16)])
    assert [f.stride for f in out] == [8, 16, 32, 64]
    assert [tuple(f.tensor_BCHW.shape[-2:]) for f in out] == [(4, 4), (2, 2), (1, 1), (1, 1)]
    # a 3x3 box sum of: 2 in the corner, and the coarse 3 copied to the lower right quarter
    assert out[0].tensor_BCHW[0, 0].tolist() == [[2, 2, 0, 0], [2, 5, 6, 6], [0, 6, 12, 12], [0, 6, 12, 12]]


def test_pyramid__wrong_number_of_maps_is_an_error():
    with pytest.raises(ValueError, match="built for 2 feature maps, got 1"):
        FeaturePyramid((1, 1))([FeatureMap(tensor_BCHW=torch.zeros(1, 1, 2, 2), stride=8)])


# attention


def attention_inputs(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 3, n, 4, dtype=dtype, generator=generator).requires_grad_() for n in (5, 7, 7))
    valid = torch.rand(2, 7, generator=generator) > 0.3
    valid[:, 0] = True
    return query, key, value, valid


@pytest.fixture(params=[0, 2**23], ids=["head by head", "all heads at once"])
def either_path(request, monkeypatch):
    monkeypatch.setattr(attention, "LARGE_WEIGHTS", request.param)


@pytest.mark.usefixtures("either_path")
@pytest.mark.parametrize("shape", ["none", "keys", "queries"])
def test_attend__dropout_has_the_gradient_of_what_it_computes(shape):
    query, key, value, valid = attention_inputs()
    mask = {"none": None, "keys": valid, "queries": valid[:, None].expand(2, 5, 7)}[shape]

    def same_draws(*tensors):
        torch.manual_seed(3)
        return attend(*tensors, mask, dropout=0.3)

    assert torch.autograd.gradcheck(same_draws, (query, key, value))


@pytest.mark.usefixtures("either_path")
def test_attend__dropout_is_right_on_average_and_vanishes_with_its_rate():
    query, key, value, valid = attention_inputs()
    exact = attend(query, key, value, valid)
    torch.testing.assert_close(attend(query, key, value, valid, dropout=1e-12), exact)
    torch.manual_seed(0)
    with torch.no_grad():
        drawn = torch.stack([attend(query, key, value, valid, dropout=0.3) for _ in range(2000)])
    spread = drawn.std(0) / 2000**0.5
    assert ((drawn.mean(0) - exact).abs() <= 5 * spread + 1e-9).all() and float(spread.max()) > 0


@pytest.mark.usefixtures("either_path")
def test_attend__dropout_never_looks_at_padding():
    query, key, value, valid = attention_inputs(torch.float32)
    torch.manual_seed(0)
    first = attend(query, key, value, valid, dropout=0.3)
    with torch.no_grad():
        other_key, other_value = (t.masked_fill(~valid[:, None, :, None], 1e3) for t in (key, value))
    torch.manual_seed(0)
    torch.testing.assert_close(attend(query, other_key, other_value, valid, dropout=0.3), first)
