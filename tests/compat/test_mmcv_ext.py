"""Every operator of the stand-in, forward and backward, through mmcv's own Python layers."""
import functools
import importlib
import importlib.util
import math
import subprocess
import sys
import textwrap
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import gradcheck

from ovdense.compat import mmcv_ext
from ovdense.compat.mmcv_operators import OPERATORS

IS_STAND_IN = mmcv_ext.install()
ops = importlib.import_module("mmcv.ops")


def _noting(name: str, operator: Callable, called: set[str]) -> Callable:
    @functools.wraps(operator)
    def noting(*args, **kwargs):
        called.add(name)
        return operator(*args, **kwargs)

    return noting


@pytest.fixture(scope="module", autouse=True)
def every_operator_is_called(request):
    """Note which operators of the stand-in the tests of this file call, forward and backward; all must be, unless only some tests are run."""
    called: set[str] = set()
    with pytest.MonkeyPatch.context() as patch:
        for name, operator in OPERATORS.items():
            patch.setattr(sys.modules[mmcv_ext.NAME], name, _noting(name, operator, called))
        yield
    run = {item.originalname for item in request.session.items if item.module is request.module}
    if run == {name for name in vars(request.module) if name.startswith("test_")}:
        assert sorted(set(OPERATORS) - called) == [], "the stand-in has operators that no test here calls"


def test_every_operator__that_goes_forward_goes_backward():
    without = {"nms", "get_compiler_version", "get_compiling_cuda_version"}  # nothing to differentiate
    forward = {name.removesuffix("_forward") for name in OPERATORS if name.endswith("_forward")}
    backward = {name.partition("_backward")[0] for name in OPERATORS if "_backward" in name}
    assert forward == backward and set(OPERATORS) == without | {n for n in OPERATORS if "_forward" in n or "_backward" in n}


def draw(*shape: int, seed: int = 0, scale: float = 1.0, grad: bool = False) -> Tensor:
    x = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * scale
    return x.requires_grad_(grad)


# --- the module itself ---


def test_install__twice_gives_the_same_module():
    before = sys.modules["mmcv._ext"]
    assert IS_STAND_IN and mmcv_ext.install() and mmcv_ext.is_stand_in()
    assert sys.modules["mmcv._ext"] is before
    mmcv_ext.register()
    assert sys.meta_path.count(mmcv_ext._FINDER) == 1


def test_find_spec__names_a_real_module():
    from mmengine.utils.dl_utils import mmcv_full_available

    spec = importlib.util.find_spec("mmcv._ext")
    assert spec.name == "mmcv._ext" and spec.loader is not None
    assert mmcv_full_available()
    import mmcv

    assert mmcv._ext is sys.modules["mmcv._ext"] and mmcv._ext.__name__ == "mmcv._ext"


def test_compiler_version__says_what_is_used():
    assert "torchvision" in ops.get_compiler_version() and "torchvision" in ops.get_compiling_cuda_version()


def test_missing_operator__raises_with_its_name_when_called():
    assert callable(sys.modules["mmcv._ext"].softnms)
    with pytest.raises(NotImplementedError, match="'softnms' needs an mmcv with compiled operators"):
        ops.soft_nms(torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([0.5]))
    with pytest.raises(NotImplementedError, match="roi_pool_forward"):
        ops.roi_pool(torch.zeros(1, 1, 4, 4), torch.tensor([[0.0, 0, 0, 2, 2]]), 2)
    with pytest.raises(NotImplementedError, match="pool_mode='max'"):
        ops.roi_align(torch.zeros(1, 1, 4, 4), torch.tensor([[0.0, 0, 0, 2, 2]]), 2, 1.0, 0, "max", True)


def _python(code: str, *args: str) -> str:
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(code), *args], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout


FAKE = """
    import sys, warnings, mmcv
    mmcv.__path__.append(sys.argv[1])  # where a compiled _ext would lie
    from ovdense.compat import mmcv_ext
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        used = mmcv_ext.install(), mmcv_ext.install()
    module = sys.modules["mmcv._ext"]
    told = [str(w.message) for w in caught if "compiled" in str(w.message)]
    print(used, getattr(module, "COMPILED", None) is True, told, mmcv._ext is module)
"""


def test_install__a_compiled_one_wins(tmp_path):
    (tmp_path / "_ext.py").write_text("COMPILED = True\n")
    assert _python(FAKE, str(tmp_path)).strip() == "(False, False) True [] True"


def test_install__a_broken_compiled_one_is_told_and_replaced(tmp_path):
    (tmp_path / "_ext.py").write_text("raise ImportError('undefined symbol: at_foo')\n")
    out = _python(FAKE, str(tmp_path))
    assert out.startswith("(True, True) False") and "undefined symbol: at_foo" in out and "rebuild mmcv" in out


def test_register__is_light_and_enough_for_mmcv_ops():
    code = """
        import sys
        from ovdense.compat import mmcv_ext
        mmcv_ext.register()
        assert not {"torch", "torchvision", "mmcv"} & set(sys.modules)
        import importlib.util
        assert importlib.util.find_spec("mmcv._ext") is not None
        from mmcv.ops import nms, DeformConv2d
        assert mmcv_ext.install() and mmcv_ext.is_stand_in()
    """
    _python(code)


# --- operators: values by hand, gradients by float64 finite differences ---


@pytest.mark.parametrize(
    ("offset", "threshold", "kept", "reason"),
    [
        (0, 0.5, [2, 0, 3], "box 1 overlaps box 0 by 9x10/(100+100-90) = 0.82; box 3 is far away"),
        (0, 0.9, [2, 0, 1, 3], "0.82 is below the threshold"),
        (0, 0.25, [2, 3], "boxes 0 and 2 share 5x10/150 = 0.33; 1 and 2 share 6x10/140"),
        (1, 0.34, [2, 3], "with one pixel more, 0 and 2 share 6x11/(2*121-66) = 0.375"),
        (0, 0.34, [2, 0, 3], "without it 0.33 is below, and 1 (0.43 with 2) goes"),
    ],
)
def test_nms__by_hand(offset, threshold, kept, reason):
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10], [5, 0, 15, 10], [40, 40, 50, 50]])
    scores = torch.tensor([0.8, 0.7, 0.9, 0.1])
    dets, index = ops.nms(boxes, scores, threshold, offset=offset)
    assert index.tolist() == kept, reason
    assert torch.equal(dets, torch.cat([boxes, scores[:, None]], 1)[kept])


def test_nms__empty_mixed_dtypes_and_batched():
    assert ops.nms(torch.zeros(0, 4), torch.zeros(0), 0.5)[1].tolist() == []
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10]])
    scores = torch.tensor([0.8, 0.7])
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        assert ops.nms(boxes, scores.to(dtype), 0.5)[1].tolist() == [0]
        assert ops.nms(boxes.to(dtype), scores, 0.5)[1].tolist() == [0]
    labels = torch.tensor([0, 1])  # other classes do not suppress each other
    assert ops.batched_nms(boxes, scores, labels, dict(type="nms", iou_threshold=0.5))[1].tolist() == [0, 1]
    assert ops.batched_nms(boxes, scores, labels, dict(type="nms", iou_threshold=0.5, class_agnostic=True))[1].tolist() == [0]


def test_roi_align__reads_a_ramp_at_the_middle_of_each_bin():
    y, x = torch.meshgrid(torch.arange(8.0), torch.arange(9.0), indexing="ij")
    ramp = torch.stack([x + 10 * y, -x])[None]  # bilinear sampling of a ramp is exact
    rois = torch.tensor([[0.0, 1, 1, 3, 3]])
    assert torch.allclose(ops.roi_align(ramp, rois, 1, 1.0, 2, "avg", True), torch.tensor([16.5, -1.5]).view(1, 2, 1, 1))
    assert torch.allclose(ops.roi_align(ramp, rois, 1, 1.0, 2, "avg", False), torch.tensor([22.0, -2.0]).view(1, 2, 1, 1))
    out = ops.roi_align(ramp, rois * 4, (1, 2), 0.25, 0, "avg", True)  # bins of x 1..2 and 2..3
    assert torch.allclose(out[0, 0], torch.tensor([[1.0 + 15, 2.0 + 15]]))
    assert ops.roi_align(ramp, torch.zeros(0, 5), 7).shape == (0, 2, 7, 7)


@pytest.mark.parametrize("aligned", [True, False])
def test_roi_align__gradient(aligned):
    rois = torch.tensor([[0, 0.3, 0.2, 4.1, 3.3], [1, 1.2, 0.7, 5.0, 2.9]], dtype=torch.float64)
    assert gradcheck(lambda x: ops.roi_align(x, rois, (2, 3), 0.9, 2, "avg", aligned), draw(2, 2, 5, 6, grad=True))


def _bilinear(plane: Tensor, y: float, x: float) -> float:
    """Return the value of `plane` at (y, x), zero outside."""
    total = 0.0
    for r in (math.floor(y), math.floor(y) + 1):
        for c in (math.floor(x), math.floor(x) + 1):
            if 0 <= r < plane.size(0) and 0 <= c < plane.size(1):
                total += (1 - abs(y - r)) * (1 - abs(x - c)) * plane[r, c].item()
    return total


def deform_conv_by_hand(x, offset, weight, mask=None, bias=None, stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1, deform_groups=1):
    """Return the deformable convolution (arXiv 1811.11168, Eq. 1), term by term. Pairs are (vertical, horizontal)."""
    batch, channels = x.shape[:2]
    c_out, c_group, kh, kw = weight.shape
    h = (x.size(2) + 2 * padding[0] - dilation[0] * (kh - 1) - 1) // stride[0] + 1
    w = (x.size(3) + 2 * padding[1] - dilation[1] * (kw - 1) - 1) // stride[1] + 1
    out = torch.zeros(batch, c_out, h, w, dtype=x.dtype)
    for b, o, i, j in torch.cartesian_prod(*map(torch.arange, (batch, c_out, h, w))).tolist():
        total = 0.0 if bias is None else bias[o].item()
        for c in range(c_group):
            channel = o // (c_out // groups) * c_group + c
            for k in range(kh * kw):
                tap = channel // (channels // deform_groups) * kh * kw + k
                y = i * stride[0] - padding[0] + k // kw * dilation[0] + offset[b, 2 * tap, i, j].item()
                z = j * stride[1] - padding[1] + k % kw * dilation[1] + offset[b, 2 * tap + 1, i, j].item()
                strength = 1.0 if mask is None else mask[b, tap, i, j].item()
                total += weight[o, c, k // kw, k % kw].item() * strength * _bilinear(x[b, channel], y, z)
        out[b, o, i, j] = total
    return out


SETTINGS = [
    dict(stride=(1, 1), padding=(1, 1), dilation=(1, 1), groups=1, deform_groups=1),
    dict(stride=(2, 1), padding=(1, 2), dilation=(1, 2), groups=2, deform_groups=2),  # nothing is square
]


def _deform_inputs(settings, grad: bool):
    x, weight = draw(2, 4, 5, 6, seed=1), draw(2, 4 // settings["groups"], 2, 3, seed=2)
    h, w = F.conv2d(x, draw(1, 4, 2, 3), stride=settings["stride"], padding=settings["padding"], dilation=settings["dilation"]).shape[2:]
    taps = 6 * settings["deform_groups"]
    offset, mask = draw(2, 2 * taps, h, w, seed=3), draw(2, taps, h, w, seed=4).sigmoid()
    return [t.detach().requires_grad_(grad) for t in (x, offset, mask, weight, draw(2, seed=5))]


@pytest.mark.parametrize("settings", SETTINGS)
def test_deform_conv2d__values_and_gradients(settings):
    x, offset, _, weight, _ = _deform_inputs(settings, grad=True)
    assert torch.allclose(ops.deform_conv2d(x, offset, weight, *settings.values()), deform_conv_by_hand(x, offset, weight, **settings))
    assert gradcheck(lambda *t: ops.deform_conv2d(*t, *settings.values()), (x, offset, weight), fast_mode=True)


def test_deform_conv2d__zero_offsets_are_a_plain_convolution():
    x, weight = draw(1, 3, 6, 7), draw(4, 3, 3, 3, seed=1)
    out = ops.deform_conv2d(x, torch.zeros(1, 18, 6, 7, dtype=x.dtype), weight, 1, 1)
    assert torch.allclose(out, F.conv2d(x, weight, padding=1))


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("with_bias", [True, False])
def test_modulated_deform_conv2d__values_and_gradients(settings, with_bias):
    x, offset, mask, weight, bias = _deform_inputs(settings, grad=True)
    bias = bias if with_bias else None
    out = ops.modulated_deform_conv2d(x, offset, mask, weight, bias, *settings.values())
    assert torch.allclose(out, deform_conv_by_hand(x, offset, weight, mask, bias, **settings))
    inputs = (x, offset, mask, weight, bias) if with_bias else (x, offset, mask, weight)
    assert gradcheck(lambda *t: ops.modulated_deform_conv2d(*t, *([] if with_bias else [None]), *settings.values()), inputs, fast_mode=True)


def test_modulated_deform_conv2d__offsets_of_a_larger_map_are_read_as_flat_memory():
    """DyHead convolves a coarse level with the finer level's offsets."""
    x, weight = draw(2, 3, 4, 5), draw(2, 3, 3, 3, seed=1)
    offset = draw(2, 18, 8, 10, seed=2, grad=True)
    mask = draw(2, 9, 8, 10, seed=3).sigmoid().requires_grad_()
    read_offset = offset.reshape(2, -1)[:, : 18 * 4 * 5].reshape(2, 18, 4, 5)
    read_mask = mask.reshape(2, -1)[:, : 9 * 4 * 5].reshape(2, 9, 4, 5)
    out = ops.modulated_deform_conv2d(x, offset, mask, weight, None, 1, 1, 1, 1, 1)
    assert torch.allclose(out, deform_conv_by_hand(x, read_offset, weight, read_mask, padding=(1, 1)))
    assert gradcheck(lambda o, m: ops.modulated_deform_conv2d(x, o, m, weight, None, 1, 1, 1, 1, 1), (offset, mask), fast_mode=True)
    unread = torch.autograd.grad(out.sum(), offset)[0].reshape(2, -1)[:, 18 * 4 * 5 :]
    assert not unread.any()
    # DyHead cuts both out of one tensor, which leaves them with gaps between samples
    joint = torch.cat([offset, mask], 1)
    sliced = ops.modulated_deform_conv2d(x, joint[:, :18], joint[:, 18:], weight, None, 1, 1, 1, 1, 1)
    assert torch.equal(sliced, out)


def test_modulated_deform_conv2d__offsets_of_a_smaller_map_raise():
    with pytest.raises(ValueError, match=r"must cover the output of \(4, 5\), got \(2, 3\)"):
        ops.modulated_deform_conv2d(draw(1, 3, 4, 5), draw(1, 18, 2, 3), draw(1, 9, 2, 3), draw(2, 3, 3, 3), None, 1, 1, 1, 1, 1)


def test_sigmoid_focal_loss__values_and_gradients():
    logit = draw(4, 3, grad=True)
    target, gamma, alpha = torch.tensor([0, 2, 3, 1]), 1.5, 0.3  # 3 = background
    by_hand = torch.zeros(4, 3, dtype=torch.float64)
    for n in range(4):
        for c in range(3):
            p = 1 / (1 + math.exp(-logit[n, c].item()))
            by_hand[n, c] = -alpha * (1 - p) ** gamma * math.log(p) if target[n] == c else -(1 - alpha) * p**gamma * math.log(1 - p)
    assert torch.allclose(ops.sigmoid_focal_loss(logit, target, gamma, alpha, None, "none"), by_hand)
    assert torch.allclose(ops.sigmoid_focal_loss(logit, target, gamma, alpha, None, "mean"), by_hand.sum() / 4)
    for reduction in ("none", "sum", "mean"):
        # mmcv's layer multiplies by the gradient of the output, so that unequal gradients are checked as well
        assert gradcheck(lambda x, reduction=reduction: ops.sigmoid_focal_loss(x, target, gamma, alpha, None, reduction), logit)
    weight, known = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64), torch.tensor([0, 2, 2, 1])
    plain = ops.sigmoid_focal_loss(logit, known, gamma, alpha, None, "none")
    weighted = ops.sigmoid_focal_loss(logit, known, gamma, alpha, weight, "none")
    assert torch.allclose(weighted, plain * weight[known][:, None])
    assert gradcheck(lambda x: ops.sigmoid_focal_loss(x, known, gamma, alpha, weight, "none"), logit)
    with pytest.raises(ValueError, match="background has none"):
        ops.sigmoid_focal_loss(logit, target, gamma, alpha, weight, "none")
    assert ops.sigmoid_focal_loss(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long), gamma, alpha, None, "sum") == 0


def _attention(value, locations, weights, shapes):
    from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction

    shapes = torch.tensor(shapes)
    starts = torch.cat([shapes.new_zeros(1), shapes.prod(1).cumsum(0)[:-1]])
    return MultiScaleDeformableAttnFunction.apply(value, shapes, starts, locations, weights, 64)


def test_ms_deform_attn__values_and_gradients():
    shapes = [(4, 5), (2, 3)]
    value, locations = draw(2, 26, 2, 3, grad=True), draw(2, 3, 2, 2, 2, 2, seed=1, scale=0.4).add(0.5).requires_grad_()
    weights = draw(2, 3, 2, 2, 2, seed=2).flatten(3).softmax(-1).unflatten(3, (2, 2)).detach().requires_grad_()
    out = _attention(value, locations, weights, shapes)
    by_hand = torch.zeros(2, 3, 6, dtype=torch.float64)
    for b, q, m, d, level, point in torch.cartesian_prod(*map(torch.arange, (2, 3, 2, 3, 2, 2))).tolist():
        (h, w), start = shapes[level], (0, 20)[level]
        plane = value[b, start : start + h * w, m, d].reshape(h, w)
        x, y = locations[b, q, m, level, point].tolist()
        by_hand[b, q, m * 3 + d] += weights[b, q, m, level, point].detach() * _bilinear(plane, y * h - 0.5, x * w - 0.5)
    assert torch.allclose(out, by_hand)
    assert gradcheck(lambda *t: _attention(*t, shapes), (value, locations, weights), fast_mode=True)


def test_ms_deform_attn__levels_out_of_order_raise():
    from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction

    with pytest.raises(ValueError, match=r"must be \[0, 4\]"):
        MultiScaleDeformableAttnFunction.apply(
            draw(1, 8, 1, 2), torch.tensor([[2, 2], [2, 2]]), torch.tensor([4, 0]), draw(1, 1, 1, 2, 1, 2), draw(1, 1, 1, 2, 1), 64)


# --- half precision ---


def _half_cases():
    x, offset, mask, weight, bias = (t.detach() for t in _deform_inputs(SETTINGS[0], grad=False))
    rois, target = torch.tensor([[0, 0.25, 0.5, 4, 3.25], [1, 1.25, 0.75, 5, 3]]), torch.tensor([0, 2, 3, 1])
    attention = (draw(1, 20, 2, 3), draw(1, 3, 2, 1, 2, 2, seed=1).sigmoid(), draw(1, 3, 2, 1, 2, seed=2).sigmoid())
    return {
        "roi_align": (lambda x: ops.roi_align(x, rois.to(x), (2, 2), 1.0, 2, "avg", True), (x,)),
        "deform_conv2d": (lambda x, o, w: ops.deform_conv2d(x, o, w, 1, 1), (x, offset, weight)),
        "modulated_deform_conv2d": (lambda *t: ops.modulated_deform_conv2d(*t, 1, 1, 1, 1, 1), (x, offset, mask, weight, bias)),
        "sigmoid_focal_loss": (lambda x: ops.sigmoid_focal_loss(x, target, 2.0, 0.25, None, "none"), (draw(4, 3),)),
        "ms_deform_attn": (lambda *t: _attention(*t, [(4, 5)]), attention),
    }


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", list(_half_cases()))
def test_half_precision__is_float32_rounded_once(name, dtype):
    function, inputs = _half_cases()[name]
    half = [t.to(dtype).requires_grad_() for t in inputs]
    single = [t.detach().float().requires_grad_() for t in half]
    out, expected = function(*half), function(*single)
    assert out.dtype == dtype and torch.equal(out, expected.to(dtype))
    grad = torch.ones_like(out)
    for got, want in zip(torch.autograd.grad(out, half, grad), torch.autograd.grad(expected, single, grad.float())):
        assert got.dtype == dtype and torch.equal(got, want.to(dtype))


def test_autocast__modulated_deform_conv2d_trains_in_bfloat16():
    conv, offsets = torch.nn.Conv2d(3, 27, 3, padding=1), ops.ModulatedDeformConv2d(3, 4, 3, padding=1)
    x = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        both = conv(x)
        out = offsets(x, both[:, :18], both[:, 18:].sigmoid())
    out.float().sum().backward()
    assert out.dtype == torch.bfloat16 and offsets.weight.grad.abs().sum() > 0 and conv.weight.grad.abs().sum() > 0
