"""Published DenseCLIP checkpoints and CLIP-FPN baselines -> our names, and back.

Only names change; every tensor is kept, in both directions. `module.` prefixes (files saved from several GPUs) are dropped.
"""
import re
from collections.abc import Mapping

from torch import Tensor

# published -> ours, the first that matches; tried in order
_RULES = [
    (re.compile(r"^backbone\.fpn([1-4])\."), lambda m: f"backbone.pyramid.{int(m[1]) - 1}."),
    (re.compile(r"^backbone\."), "backbone.net."),
    (re.compile(r"^text_encoder\."), "text_encoder.text."),
    (re.compile(r"^(?=(?:contexts|gamma)$|context_decoder\.)"), "pixel_text."),
    (re.compile(r"^decode_head\."), "decoder.head."),
    (re.compile(r"^(?=neck\.|bbox_head\.|rpn_head\.|roi_head\.)"), "decoder."),
]
_BACK = [
    (re.compile(r"^backbone\.pyramid\.([0-3])\."), lambda m: f"backbone.fpn{int(m[1]) + 1}."),
    (re.compile(r"^backbone\.net\."), "backbone."),
    (re.compile(r"^text_encoder\.text\."), "text_encoder."),
    (re.compile(r"^pixel_text\."), ""),
    (re.compile(r"^decoder\.head\."), "decode_head."),
    (re.compile(r"^decoder\."), ""),
]
_KNOWN = ("contexts", "gamma", "context_decoder.", "backbone.", "text_encoder.", "neck.", "decode_head.", "bbox_head.", "rpn_head.", "roi_head.")


def convert_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a published checkpoint under our names; KeyError for a name that is not DenseCLIP's."""
    plain = {name.removeprefix("module."): value for name, value in state.items()}
    unknown = [name for name in plain if not name.startswith(_KNOWN)]
    if unknown:
        raise KeyError(f"a DenseCLIP checkpoint has names that begin with {', '.join(_KNOWN)}; got {len(unknown)} others, such as {unknown[:3]}")
    return {_renamed(name, _RULES): value for name, value in plain.items()}


def to_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of our model as a plain state dict under the published names; the inverse of `convert_published`."""
    return {_renamed(name, _BACK): value for name, value in state.items()}


def is_denseclip(state: Mapping[str, Tensor]) -> bool:
    """Return whether a state dict has the published names of DenseCLIP or of its CLIP-FPN baselines."""
    names = {name.removeprefix("module.") for name in state}
    towers = any(name in names for name in ("backbone.class_embedding", "backbone.layer1.0.conv1.weight"))
    return towers and any(name.startswith("neck.lateral_convs.") for name in names)


def with_longer_contexts(state: Mapping[str, Tensor], clip_positions_LD: Tensor) -> dict[str, Tensor]:
    """Return our tensors with the text tower's table of positions (13 rows in released files) continued by CLIP's own rows.

    Names of more than five tokens then have places. What the file has stays as it is: the release changes the text tower
    a little (its rate is 0, but the schedule's floor of 1e-6 lifts it), so that the new rows are CLIP's, not the run's.
    """
    name = "text_encoder.text.positional_embedding"
    table = state[name]
    if clip_positions_LD.shape[1] != table.shape[1] or len(clip_positions_LD) < len(table):
        raise ValueError(f"CLIP's positions must be a table at least {len(table)} long and {table.shape[1]} wide, got {tuple(clip_positions_LD.shape)}")
    longer = clip_positions_LD.to(table).clone()
    longer[: len(table)] = table
    return {**state, name: longer}


def _renamed(name: str, rules: list) -> str:
    for pattern, new in rules:
        found, count = pattern.subn(new, name, count=1)
        if count:
            return found
    return name
