"""BatchNorm over all ranks of a distributed run, on any device: PyTorch's SyncBatchNorm has no CPU form, and its conversion drops timm's activations.

`norms_over_ranks` changes a model's norms in place; names of parameters and buffers stay.
"""
import torch
from torch import Tensor, distributed, nn


class _SumOverRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx, value: Tensor) -> Tensor:
        value = value.clone()
        distributed.all_reduce(value)
        return value

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        grad = grad.clone()
        distributed.all_reduce(grad)
        return grad


class RankBatchNorm(nn.modules.batchnorm._BatchNorm):
    """BatchNorm of any number of dimensions whose statistics in training are those of all ranks' batches; in eval mode BatchNorm itself.

    Mean first, then the squared distances from it, so that it agrees with one process to rounding.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise ValueError(f"the input must have at least 2 dimensions (B, C, ...), got {tuple(input.shape)}")

    def forward(self, x: Tensor) -> Tensor:
        together = self.training and distributed.is_initialized() and distributed.get_world_size() > 1
        if not together:
            return super().forward(x)
        self._check_input_dim(x)
        axes, shape = [0, *range(2, x.ndim)], (1, -1, *[1] * (x.ndim - 2))
        wide = x.float()
        count = wide.new_tensor(float(x.numel() // x.shape[1]))
        distributed.all_reduce(count)
        mean_C = _SumOverRanks.apply(wide.sum(axes)) / count
        apart = wide - mean_C.view(shape)
        var_C = _SumOverRanks.apply(apart.square().sum(axes)) / count
        if self.track_running_stats:
            self._follow(mean_C.detach(), var_C.detach() * (count / (count - 1).clamp(min=1)))
        out = apart * (var_C + self.eps).rsqrt().view(shape)
        if self.affine:
            out = out * self.weight.view(shape) + self.bias.view(shape)
        return out.to(x.dtype)

    @torch.no_grad()
    def _follow(self, mean_C: Tensor, var_C: Tensor) -> None:
        self.num_batches_tracked.add_(1)
        share = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean_C.to(self.running_mean), share)
        self.running_var.lerp_(var_C.to(self.running_var), share)


class RankBatchNormAct(RankBatchNorm):
    """The same with what timm's BatchNormAct2d does after it: dropout (`drop`) and activation (`act`)."""

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(x)))


_PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def norms_over_ranks(model: nn.Module) -> int:
    """Turn every BatchNorm of `model` into one over all ranks, in place; return how many there are. ValueError for a kind that is not known."""
    changed = 0
    for name, module in model.named_modules():
        if not isinstance(module, nn.modules.batchnorm._BatchNorm) or isinstance(module, RankBatchNorm):
            continue
        if type(module) is nn.SyncBatchNorm and module.weight is not None and module.weight.is_cuda:
            continue  # is one already, with kernels of its own
        if type(module) in _PLAIN:
            module.__class__ = RankBatchNorm
        elif hasattr(module, "act") and hasattr(module, "drop"):
            module.__class__ = RankBatchNormAct
        else:
            raise ValueError(f"{name}: a norm must be one of PyTorch's BatchNorms or timm's BatchNormAct2d to be synchronised, got {type(module).__name__}; "
                             "give model_wrapper_cfg=dict(type=RankedDataParallel, sync_norms=False)")
        changed += 1
    return changed

