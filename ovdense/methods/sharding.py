"""Models that do not fit one device: weights, gradients and optimiser states shared out over the ranks (FSDP, arXiv 2304.11277; PyTorch's fully_shard).

In a config: `model_wrapper_cfg = dict(type=ShardedModel, shard=("BertLayer", ...))`, `optim_wrapper.type = ShardedOptimWrapper`, and
`ShardedCheckpointHook` in place of the checkpoint hook. Checkpoints hold whole tensors: they are read by any number of ranks, and without sharding.
"""
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.dist import broadcast, is_main_process
from mmengine.optim import OptimWrapper
from mmengine.registry import MODEL_WRAPPERS
from mmengine.runner import Runner
from torch import Tensor, distributed, nn

from ovdense.layers.rank_norm import norms_over_ranks
from ovdense.methods.checkpoints import AtomicCheckpointHook
from ovdense.registry import HOOKS, OPTIM_WRAPPERS


def is_sharded(value: Any) -> bool:
    """Return whether a tensor is a rank's part of a larger one."""
    return hasattr(value, "full_tensor")


def whole(value: Any) -> Any:
    """Return the whole of what may be a part, on every rank; all must ask at once."""
    return value.full_tensor() if is_sharded(value) else value


def part_like(value: Tensor, sharded: Tensor) -> Tensor:
    """Return this rank's part of a whole tensor that all ranks have, shared out as `sharded` is."""
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.detach().to(sharded.device), sharded.device_mesh, sharded.placements, src_data_rank=None)


CALLED_OUTSIDE = ("set_vocabulary", "train_on", "protocol")  # what hooks call beside forward, and what may encode text


class _Done:
    """What a shared-out model has as `init_weights`: nothing, so that the runner does not initialise and broadcast parts."""

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        raise AttributeError("the weights were initialised before they were shared out")


@MODEL_WRAPPERS.register_module()
class ShardedModel(nn.Module):
    """`module` with its weights shared out over all ranks; every submodule whose class is named in `shard` is gathered, run and let go by itself.

    `param_dtype`: "float32", or "bfloat16" for the gathered weights and activations (gradients are summed in float32). `sync_norms`: BatchNorm over all
    ranks. What is called outside of the model's forward sees parts only, but for CALLED_OUTSIDE.
    """

    def __init__(self, module: nn.Module, *, shard: Sequence[str], param_dtype: str = "float32", sync_norms: bool = False) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

        super().__init__()
        if not distributed.is_initialized():
            raise ValueError("weights are shared out over ranks, there is one process only; start with torchrun and --launcher pytorch")
        if param_dtype not in ("float32", "bfloat16"):
            raise ValueError(f'param_dtype must be "float32" or "bfloat16", got {param_dtype!r}')
        if sync_norms:
            norms_over_ranks(module)
        device = next(module.parameters()).device.type
        settings = dict(mesh=init_device_mesh(device, (distributed.get_world_size(),)),
                        mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32) if param_dtype == "bfloat16"
                        else MixedPrecisionPolicy())  # fmt: skip
        parts = [m for m in module.modules() if type(m).__name__ in shard]
        unknown = set(shard) - {type(m).__name__ for m in parts}
        if unknown or not shard:
            found = sorted({type(m).__name__ for m in module.modules()})
            raise ValueError(f"shard must name classes of the model's modules, got {tuple(shard)}; {sorted(unknown)} are none of {', '.join(found)}")
        if hasattr(module, "init_weights"):
            module.init_weights()
        for value in module.state_dict().values():
            broadcast(value)
        for part in reversed(parts):  # from the inside out
            fully_shard(part, **settings)
        fully_shard(module, **settings)
        type(module).init_weights = _Done()  # of the class that fully_shard has made
        for name in CALLED_OUTSIDE:
            if hasattr(module, name):
                register_fsdp_forward_method(module, name)
        self.module = module
        module._register_load_state_dict_pre_hook(self._share_out)

    def _share_out(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        for name, own in self.module.named_parameters():
            given = state.get(prefix + name)
            if is_sharded(own) and isinstance(given, Tensor) and not is_sharded(given) and given.shape == own.shape:
                state[prefix + name] = part_like(given.to(own.dtype), own)

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """While gradients are added up over several batches: leave them on their ranks."""
        self.module.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            self.module.set_requires_gradient_sync(True)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)

    def train_step(self, data: Any, optim_wrapper: OptimWrapper) -> dict[str, Tensor]:
        with optim_wrapper.optim_context(self):
            losses = self.module(**self.module.data_preprocessor(data, True), mode="loss")
        loss, said = self.module.parse_losses(losses)
        optim_wrapper.update_params(loss)
        return said

    def val_step(self, data: Any) -> list:
        return self.module(**self.module.data_preprocessor(data, False), mode="predict")

    test_step = val_step


@OPTIM_WRAPPERS.register_module()
class ShardedOptimWrapper(OptimWrapper):
    """MMEngine's OptimWrapper for sharded weights: norms of gradients over all ranks, states taken from whole tensors."""

    def _clip_grad(self) -> None:
        found = [p for group in self.optimizer.param_groups for p in group["params"] if p.requires_grad and p.grad is not None]
        norm = whole(self.clip_func(found, **self.clip_grad_kwargs)) if found else None
        if norm is not None:
            self.message_hub.update_scalar(f"train/{self.grad_name}", float(norm))

    def load_state_dict(self, state_dict: dict) -> None:
        own = dict(enumerate(p for group in self.optimizer.param_groups for p in group["params"]))
        shared = {
            n: {k: part_like(v, own[n]) if isinstance(v, Tensor) and is_sharded(own[n]) and v.shape == own[n].shape else v for k, v in state.items()}
            for n, state in state_dict["state"].items()
        }
        super().load_state_dict(state_dict | {"state": shared})


def _gathered(state: Any) -> Any:
    """Return nested dicts and lists with whole tensors, on the CPU, on the main rank; the others take part and keep nothing."""
    if isinstance(state, Mapping):
        return type(state)((k, _gathered(v)) for k, v in state.items())
    if isinstance(state, list):
        return [_gathered(v) for v in state]
    if is_sharded(state):
        value = whole(state)
        return value.cpu() if is_main_process() else None
    return state


@contextmanager
def whole_states(runner: Runner) -> Iterator[None]:
    """Let the runner's model and optimiser say their whole states, gathered once on entering, by all ranks."""
    model, optimizer = getattr(runner.model, "module", runner.model), runner.optim_wrapper
    kept = {part: _gathered(part.state_dict()) for part in (model, optimizer)}

    def saying(state: Any) -> Callable[..., Any]:
        return lambda *args, **kwargs: state

    for part, state in kept.items():
        object.__setattr__(part, "state_dict", saying(state))
    try:
        yield
    finally:
        for part in kept:
            object.__delattr__(part, "state_dict")


@HOOKS.register_module()
class ShardedCheckpointHook(AtomicCheckpointHook):
    """AtomicCheckpointHook (same arguments) for sharded weights: what is written is whole."""

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        with whole_states(runner):
            super()._save_checkpoint_with_step(runner, step, meta)

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        with whole_states(runner):
            super()._save_best_checkpoint(runner, metrics)
