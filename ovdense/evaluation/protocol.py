"""What a number depends on, beside what its metric says: versions, fingerprints; several metrics' protocols as one."""
import hashlib
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version

import torch
from torch import Tensor

NOT_STATED = "not stated"
PACKAGES = {"torch": "torch", "numpy": "numpy", "mmengine": "onedl-mmengine", "hotcoco": "hotcoco"}


def package_version(name: str) -> str:
    """Return the version of an installed distribution, "unknown" for one that is none."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"


def software() -> dict[str, str]:
    """Return the versions of what computes the numbers."""
    import ovdense

    return {"ovdense": ovdense.__version__, "python": platform.python_version(), **{name: package_version(dist) for name, dist in PACKAGES.items()}}


def weights_fingerprint(state: Mapping[str, Tensor]) -> str:
    """Return the first 16 hex digits of a SHA-256 of all tensors with their names, types and shapes: the same on every device."""
    digest = hashlib.sha256()
    for name in sorted(state):
        value = state[name]
        if isinstance(value, Tensor):
            held = value.detach().cpu().contiguous()
            digest.update(f"{name} {held.dtype} {tuple(held.shape)}".encode())
            digest.update(held.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def with_told(stated: Mapping[str, object], told: Mapping[str, object]) -> dict[str, object]:
    """Return what a metric states and what the data set and the model tell it; where they differ, the latter is there as "model: line"."""
    own = {k: v for k, v in told.items() if k not in stated}
    return dict(stated) | own | {f"model: {k}": v for k, v in told.items() if k in stated and v != stated[k] and v != NOT_STATED}


def merged(protocols: Sequence[tuple[str, Mapping[str, object]]]) -> dict[str, object]:
    """Return (metric's name, protocol) pairs as one; a line that metrics state differently is there for each, as "name: line"."""
    out: dict[str, object] = {}
    for key in dict.fromkeys(key for _, protocol in protocols for key in protocol if protocol[key] != NOT_STATED):
        stated = [(name, protocol[key]) for name, protocol in protocols if key in protocol and protocol[key] != NOT_STATED]
        if all(value == stated[0][1] for _, value in stated):
            out[key] = stated[0][1]
        else:
            out |= {f"{name}: {key}": value for name, value in stated}
    return out
