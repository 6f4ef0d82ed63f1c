"""mmcv's operators on torchvision's kernels: what `mmcv._ext` holds when no compiled one is there.

Each function has the name, argument order and in-place convention of the compiled one, so that mmcv's Python layers
(autograd functions, modules, registries) are used unchanged. Half precision is computed in float32 (torchvision has
few half kernels on CPU); float64 stays. Measured against compiled ones: nms, roi_align and deformable attention equal,
deformable convolutions within 8e-7. Only equal operators are offered: torchvision's roi_pool rounds boxes and mmcv's
does not, so there is none.
"""
from collections.abc import Callable, Sequence

import torch
import torchvision.ops as tv
from torch import Tensor

OPERATORS: dict[str, Callable] = {}


def _operator(function: Callable) -> Callable:
    OPERATORS[function.__name__] = function
    return function


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _in_float32(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return `function` with its tensors raised to float32 at least."""
    return lambda *tensors: function(*map(_at_least_float32, tensors))


def _write_gradients(function: Callable[..., Tensor], inputs: Sequence[Tensor], grad_output: Tensor, grads: Sequence[Tensor]) -> None:
    """Run `function` again and write the gradients of its `inputs` into `grads`."""
    inputs = [x.detach().requires_grad_() for x in inputs]
    with torch.enable_grad():
        output = function(*inputs)
    values = torch.autograd.grad(output, inputs, grad_output.to(output), materialize_grads=True)
    for grad, value in zip(grads, values):
        grad.copy_(value)


@_operator
def get_compiler_version() -> str:
    return "none (torchvision's operators through ovdense)"


@_operator
def get_compiling_cuda_version() -> str:
    return "none (torchvision's operators through ovdense)"


@_operator
def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Return the indices that are kept, best first; with `offset` 1 a box is x2 - x1 + 1 wide."""
    dtype = torch.promote_types(torch.promote_types(boxes.dtype, scores.dtype), torch.float32)
    boxes, scores = boxes.to(dtype), scores.to(dtype)
    if offset:
        boxes = boxes + boxes.new_tensor([0, 0, offset, offset])
    return tv.nms(boxes, scores, iou_threshold)


def _roi_align(
    rois: Tensor, *, aligned_height: int, aligned_width: int, spatial_scale: float, sampling_ratio: int, pool_mode: int, aligned: bool
) -> Callable[[Tensor], Tensor]:
    if pool_mode != 1:
        raise NotImplementedError("mmcv's 'roi_align' with pool_mode='max' needs an mmcv with compiled operators; use pool_mode='avg'")
    size_hw = (aligned_height, aligned_width)
    return _in_float32(lambda x: tv.roi_align(x, rois.to(x), size_hw, spatial_scale, sampling_ratio, aligned))


@_operator
def roi_align_forward(input: Tensor, rois: Tensor, output: Tensor, argmax_y: Tensor, argmax_x: Tensor, **settings) -> None:
    output.copy_(_roi_align(rois, **settings)(input))


@_operator
def roi_align_backward(grad_output: Tensor, rois: Tensor, argmax_y: Tensor, argmax_x: Tensor, grad_input: Tensor, **settings) -> None:
    # linear in the input, so that its values do not matter: any tensor of its shape will do
    _write_gradients(_roi_align(rois, **settings), [grad_input], grad_output, [grad_input])


def _deform_conv(
    *, kW: int, kH: int, dW: int, dH: int, padW: int, padH: int, dilationW: int, dilationH: int,
    group: int, deformable_group: int, im2col_step: int,
) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    # kernel size and groups follow from the shapes of weight and offset
    return _in_float32(
        lambda input, offset, weight: tv.deform_conv2d(input, offset, weight, None, (dH, dW), (padH, padW), (dilationH, dilationW))
    )


@_operator
def deform_conv_forward(input: Tensor, weight: Tensor, offset: Tensor, output: Tensor, columns: Tensor, ones: Tensor, **settings) -> None:
    output.copy_(_deform_conv(**settings)(input, offset, weight))


@_operator
def deform_conv_backward_input(
    input: Tensor, offset: Tensor, grad_output: Tensor, grad_input: Tensor, grad_offset: Tensor, weight: Tensor, columns: Tensor, **settings
) -> None:
    conv = _deform_conv(**settings)
    _write_gradients(lambda i, o: conv(i, o, weight), [input, offset], grad_output, [grad_input, grad_offset])


@_operator
def deform_conv_backward_parameters(
    input: Tensor, offset: Tensor, grad_output: Tensor, grad_weight: Tensor, columns: Tensor, ones: Tensor, *, scale: float, **settings
) -> None:
    conv = _deform_conv(**settings)  # linear in the weight
    _write_gradients(lambda w: scale * conv(input, offset, w), [grad_weight], grad_output, [grad_weight])


def _first_floats(x: Tensor, size_hw: Sequence[int]) -> Tensor:
    """Return (B, C, h, w): the first C*h*w floats of each sample of `x` (B, C, H, W), whatever H and W are.

    DyHead gives the offsets of a larger map, and the compiled kernels read the sample's memory as if it had the
    output's size; published weights were trained that way.
    """
    needed = x.size(1) * size_hw[0] * size_hw[1]
    flat = x.flatten(1)
    if flat.size(1) < needed:
        raise ValueError(
            f"offsets and masks must cover the output of {tuple(size_hw)}, got {tuple(x.shape[2:])}; "
            "give the offsets of this map or of a larger one"
        )
    return flat[:, :needed].unflatten(1, (x.size(1), *size_hw))


def _modulated_deform_conv(
    size_hw: Sequence[int], *, kernel_h: int, kernel_w: int, stride_h: int, stride_w: int, pad_h: int, pad_w: int,
    dilation_h: int, dilation_w: int, group: int, deformable_group: int, with_bias: bool,
) -> Callable[..., Tensor]:
    def conv(input, weight, bias, offset, mask):
        offset, mask = _first_floats(offset, size_hw), _first_floats(mask, size_hw)
        bias = bias if with_bias else None
        return tv.deform_conv2d(input, offset, weight, bias, (stride_h, stride_w), (pad_h, pad_w), (dilation_h, dilation_w), mask)

    return _in_float32(conv)


@_operator
def modulated_deform_conv_forward(
    input: Tensor, weight: Tensor, bias: Tensor, ones: Tensor, offset: Tensor, mask: Tensor, output: Tensor, columns: Tensor, **settings
) -> None:
    output.copy_(_modulated_deform_conv(output.shape[2:], **settings)(input, weight, bias, offset, mask))


@_operator
def modulated_deform_conv_backward(
    input: Tensor, weight: Tensor, bias: Tensor, ones: Tensor, offset: Tensor, mask: Tensor, columns: Tensor, grad_input: Tensor,
    grad_weight: Tensor, grad_bias: Tensor, grad_offset: Tensor, grad_mask: Tensor, grad_output: Tensor, **settings,
) -> None:
    _write_gradients(
        _modulated_deform_conv(grad_output.shape[2:], **settings), [input, weight, bias, offset, mask], grad_output,
        [grad_input, grad_weight, grad_bias, grad_offset, grad_mask],
    )


def _sigmoid_focal_loss(target: Tensor, weight: Tensor, gamma: float, alpha: float) -> Callable[[Tensor], Tensor]:
    """Return input (N, C) -> loss (N, C). A target that is no class index (C, by custom) is background."""

    def loss_of(input):
        num_classes = input.size(1)
        one_hot = (target[:, None] == torch.arange(num_classes, device=input.device)).to(input)
        loss = tv.sigmoid_focal_loss(input, one_hot, alpha, gamma)
        if not weight.numel():
            return loss
        if len(target) and not 0 <= int(target.min()) <= int(target.max()) < num_classes:
            raise ValueError(f"with class weights targets must be in 0..{num_classes - 1}: background has none; weight the loss outside")
        return loss * weight.to(input)[target][:, None]

    return _in_float32(loss_of)


@_operator
def sigmoid_focal_loss_forward(input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float) -> None:
    output.copy_(_sigmoid_focal_loss(target, weight, gamma, alpha)(input))


@_operator
def sigmoid_focal_loss_backward(input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float) -> None:
    _write_gradients(_sigmoid_focal_loss(target, weight, gamma, alpha), [input], torch.ones_like(input), [grad_input])


def _ms_deform_attn(spatial_shapes: Tensor, level_start_index: Tensor) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

    sizes = spatial_shapes.prod(1)
    starts = (sizes.cumsum(0) - sizes).tolist()
    if level_start_index.tolist() != starts:
        raise ValueError(f"level_start_index must be {starts} (one level after the other), got {level_start_index.tolist()}; store them so")
    return _in_float32(lambda value, locations, weights: multi_scale_deformable_attn_pytorch(value, spatial_shapes, locations, weights))


@_operator
def ms_deform_attn_forward(
    value: Tensor, spatial_shapes: Tensor, level_start_index: Tensor, sampling_locations: Tensor, attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    return _ms_deform_attn(spatial_shapes, level_start_index)(value, sampling_locations, attention_weights).to(value)


@_operator
def ms_deform_attn_backward(
    value: Tensor, spatial_shapes: Tensor, level_start_index: Tensor, sampling_locations: Tensor, attention_weights: Tensor,
    grad_output: Tensor, grad_value: Tensor, grad_sampling_loc: Tensor, grad_attn_weight: Tensor, im2col_step: int,
) -> None:
    _write_gradients(
        _ms_deform_attn(spatial_shapes, level_start_index), [value, sampling_locations, attention_weights], grad_output,
        [grad_value, grad_sampling_loc, grad_attn_weight],
    )
