"""Published GLIP / DesCo-GLIP checkpoints, and mmdet's of GLIP -> our names.

Only names and layouts change; every tensor is kept. `module.` prefixes (files saved from several GPUs) and buffers
that the model computes itself (`position_ids`, `relative_position_index`, `cell_anchors`, `attn_mask`) are dropped.
"""
import re
from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from ovdense.vision.swin import swin_published_to_ours

_BUFFERS = re.compile(r"(position_ids|relative_position_index|cell_anchors\.\d+|attn_mask)$")

# In a head block of three parts: fusion (3i), BERT layer (3i + 1), dynamic head (3i + 2).
_PARTS = ("fuse", "text", "image")
_HEAD_RULES = [
    (re.compile(r"^(fuse)\.b_attn\."), r"\1."),
    (re.compile(r"^(image)\.DyConv\.0\."), r"\1.from_coarse."),
    (re.compile(r"^(image)\.DyConv\.1\."), r"\1.from_same."),
    (re.compile(r"^(image)\.DyConv\.2\."), r"\1.from_fine."),
    (re.compile(r"^(image)\.AttnConv\.1\."), r"\1.scale_attention."),
]
_FPN = {"fpn_inner2": "lateral.0", "fpn_inner3": "lateral.1", "fpn_inner4": "lateral.2", "fpn_layer2": "output.0", "fpn_layer3": "output.1",
        "fpn_layer4": "output.2", "top_blocks.p6": "extra.0", "top_blocks.p7": "extra.1"}


# mmdet's names of GLIP, turned back into the published ones
_MMDET_RULES = [
    (re.compile(r"^backbone\.patch_embed\.projection\."), "backbone.body.patch_embed.proj."),
    (re.compile(r"^backbone\.stages\."), "backbone.body.layers."),
    (re.compile(r"^backbone\.(?!body\.)"), "backbone.body."),
    (re.compile(r"^(backbone\..*)\.ffn\.layers\.0\.0\."), r"\1.mlp.fc1."),
    (re.compile(r"^(backbone\..*)\.ffn\.layers\.1\."), r"\1.mlp.fc2."),
    (re.compile(r"^(backbone\..*)\.attn\.w_msa\."), r"\1.attn."),
    (re.compile(r"^neck\.lateral_convs\.([0-2])\.conv\."), lambda m: f"backbone.fpn.fpn_inner{int(m[1]) + 2}."),
    (re.compile(r"^neck\.fpn_convs\.([0-2])\.conv\."), lambda m: f"backbone.fpn.fpn_layer{int(m[1]) + 2}."),
    (re.compile(r"^neck\.fpn_convs\.([34])\.conv\."), lambda m: f"backbone.fpn.top_blocks.p{int(m[1]) + 3}."),
    (re.compile(r"^language_model\.(?=language_backbone\.)"), ""),
    (re.compile(r"^bbox_head\.head\."), "rpn.head."),
    (re.compile(r"\.dyconvs\."), ".DyConv."),
    (re.compile(r"\.attnconv\."), ".AttnConv."),
]


def is_mmdet(names: Collection[str]) -> bool:
    """Return whether a state dict has mmdet's names of GLIP."""
    return any(name.startswith("bbox_head.head.") for name in names)


def published_from_mmdet(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return mmdet's GLIP tensors under the published names; patch merging goes back to the published order of its inputs.

    mmdet takes 2x2 places row by row and channel by channel (`nn.Unfold`), the release column by column and place by place.
    """
    ours = {}
    for name, tensor in state.items():
        if re.search(r"^backbone\..*\.downsample\.(norm|reduction)\.", name):
            places = tensor.unflatten(-1, (-1, 4)).transpose(-1, -2)  # (..., place, channel)
            tensor = places[..., [0, 2, 1, 3], :].flatten(-2)
        for pattern, replacement in _MMDET_RULES:
            name = pattern.sub(replacement, name)
        ours[name] = tensor
    return ours


def head_name(name: str) -> str | None:
    """Return our name of a published head tensor (without "rpn.head."), None for one that is handled apart (level scales)."""
    tower = re.match(r"^dyhead_tower\.(\d+)\.(.*)$", name)
    if tower:
        block, part = divmod(int(tower[1]), 3)
        rest = f"{_PARTS[part]}.{tower[2]}"
        for pattern, replacement in _HEAD_RULES:
            rest = pattern.sub(replacement, rest)
        return f"blocks.{block}.{rest}"
    if re.match(r"^scales\.\d+\.scale$", name):
        return None
    for old, new in (("dot_product_projection_text.", "embedding_head.text_projection."), ("bbox_pred.", "box."), ("centerness.", "centerness."),
                     ("cls_logits.", "cls_logits.")):
        if name.startswith(old):
            return new + name.removeprefix(old)
    if name in ("log_scale", "bias_lang", "bias0"):
        return f"embedding_head.{name}"
    raise KeyError(f"head tensor {name!r} has no counterpart here; is this a GLIP or DesCo-GLIP checkpoint?")


def convert_head(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state dict of `DescoHead` from published names without "rpn.head."."""
    ours = {new: t for name, t in published.items() if (new := head_name(name)) is not None}
    scales = sorted((n for n in published if n.startswith("scales.")), key=lambda n: int(n.split(".")[1]))
    ours["level_scale"] = torch.cat([published[n].reshape(1) for n in scales])
    return ours


def convert_fpn(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state dict of `FeaturePyramid` from published names without "backbone.fpn."."""
    ours = {}
    for name, tensor in published.items():
        stem, leaf = name.rsplit(".", 1)
        if stem not in _FPN:
            raise KeyError(f"pyramid tensor {name!r} has no counterpart here; known: {', '.join(_FPN)}")
        ours[f"{_FPN[stem]}.{leaf}"] = tensor
    return ours


def split_published(checkpoint: Mapping) -> dict[str, dict[str, Tensor]]:
    """Return the tensors of a published checkpoint by part: "body", "fpn", "language", "head"; prefixes cut.

    Accepts the bare state dict or the file's {"model": ...}; unknown names raise KeyError.
    """
    state = checkpoint.get("model", checkpoint)
    if is_mmdet(state):
        state = published_from_mmdet(state)
    prefixes = {"backbone.body.": "body", "backbone.fpn.": "fpn", "language_backbone.body.model.": "language", "rpn.head.": "head"}
    parts: dict[str, dict[str, Tensor]] = {p: {} for p in prefixes.values()}
    unknown = []
    for name, tensor in state.items():
        name = name.removeprefix("module.")
        if _BUFFERS.search(name) or name.startswith("rpn.anchor_generator."):
            continue
        for prefix, part in prefixes.items():
            if name.startswith(prefix):
                parts[part][name.removeprefix(prefix)] = tensor
                break
        else:
            unknown.append(name)
    if unknown:
        raise KeyError(f"{len(unknown)} tensors are not those of GLIP or DesCo-GLIP, the first: {unknown[:3]}")
    return parts


def convert_published(checkpoint: Mapping, *, bgr_to_rgb: bool = True) -> dict[str, Tensor]:
    """Return the state dict of a full-size `Desco` (Swin body, three-level pyramid, BERT) from a published checkpoint.

    The releases read images as BGR, we read RGB: the first convolution's input channels are turned round unless
    `bgr_to_rgb` is off. KeyError names tensors that are unknown.
    """
    parts = split_published(checkpoint)
    ours = {f"backbone.{n}": t for n, t in swin_published_to_ours(parts["body"], bgr_to_rgb=bgr_to_rgb).items()}
    ours |= {f"neck.{n}": t for n, t in convert_fpn(parts["fpn"]).items()}
    ours |= {f"text_encoder.model.{n}": t for n, t in parts["language"].items()}
    ours |= {f"head.{n}": t for n, t in convert_head(parts["head"]).items()}
    return ours
