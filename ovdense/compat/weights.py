"""Reading weights files of towers and backbones: nothing in them may run code, and nothing is dropped without a word."""
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from ovdense.compat.tensor_files import read_tensors
from ovdense.compat.torchscript import is_torchscript, torchscript_tensors


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Return the state dict in a checkpoint file, looked for at its top and under 'state_dict' and 'model'.

    Also of a TorchScript archive, such as OpenAI's CLIP files; its program is not loaded. FileNotFoundError for a missing
    file, ValueError for one that is broken, could run code, or has no tensors.
    """
    path = Path(path).expanduser()
    if path.is_file() and is_torchscript(path):
        return torchscript_tensors(path)
    content = read_tensors(path, what="weights")
    for key in ("state_dict", "model"):
        if isinstance(content.get(key), dict):
            content = content[key]
    tensors = {k: v for k, v in content.items() if isinstance(v, Tensor)}
    if not tensors:
        got = f"{type(content).__name__} without tensors"
        raise ValueError(f"{path} must hold a state dict (at the top, under 'state_dict' or 'model'), got {got}")
    return tensors


def load_checked(module: nn.Module, state: dict[str, Tensor], origin: str, may_miss: Callable[[str], bool] = lambda name: False) -> None:
    """Load `state` into `module`: every tensor of the module must be there and fit; print what else the file holds.

    Names for which `may_miss` is true may be absent (they keep their values, which is printed); BatchNorm's step
    counters may always be. ValueError lists what is missing or has another shape, and names a tensor that holds nan.
    """
    own = module.state_dict()
    missing = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]
    lacking = [k for k in missing if not may_miss(k)]
    wrong = [f"{k} {tuple(state[k].shape)} for {tuple(v.shape)}" for k, v in own.items() if k in state and state[k].shape != v.shape]
    unused = [k for k in state if k not in own]
    if lacking or wrong:
        raise ValueError(
            f"{origin} does not fit {type(module).__name__}: missing {_some(lacking)}; wrong shape {_some(wrong)}; "
            f"unknown {_some(unused)}; give the weights of this architecture"
        )
    broken = [k for k in own if k in state and state[k].is_floating_point() and bool(state[k].isnan().any())]
    if broken:
        raise ValueError(f"{origin} must hold numbers, but {len(broken)} tensors hold nan: {_some(broken)}; the training that wrote it has diverged")
    module.load_state_dict({k: v for k, v in state.items() if k in own}, strict=False)
    for what, names in (("not in the file, kept as they are", missing), ("not used", unused)):
        if names:
            print_log(f"{origin}: {what}: {_some(names)}", logger="current")


def _some(names: list[str], most: int = 6) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) + more) or "none"


def call_after_load(module: nn.Module, method: str) -> None:
    """Call this method of the module whenever weights were loaded into it as a whole; models stay such that they can be copied and pickled."""
    module.register_load_state_dict_post_hook(_AfterLoad(method))


class _AfterLoad:
    def __init__(self, method: str) -> None:
        self.method = method

    def __call__(self, module: nn.Module, keys: object) -> None:
        getattr(module, self.method)()


def weights_state(module: object) -> tuple[int, ...]:
    """Return numbers that change when a parameter or buffer is written to or replaced, () of what is no module: the key of what memory keeps.

    A move to another device or a copy may look like a change. What is written through `.data`, or by a fused optimizer, is not seen.
    """
    found, waiting = [], [module] if isinstance(module, nn.Module) else []
    while waiting:  # by hand: a tenth of the time of parameters() and buffers(), and this is asked for each image
        part = waiting.pop()
        for tensor in (*part._parameters.values(), *part._buffers.values()):
            if tensor is not None:
                found += id(tensor), 0 if tensor.is_inference() else tensor._version
        waiting += (child for child in part._modules.values() if child is not None)
    return tuple(found)


def weights_fingerprint(module: nn.Module, settings: object = None) -> str:
    """Return a hash of a module's class, `settings` (JSON values), parameters and buffers: the key of everything computed with it."""
    digest = hashlib.sha256(json.dumps([type(module).__name__, settings], sort_keys=True).encode())
    for name, value in [*module.named_parameters(), *module.named_buffers()]:
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:32]
