"""Published MDETR checkpoints -> our names.

Only names change; every tensor is kept, but for what is computed anew (`position_ids`), never used (RoBERTa's pooler), or derived
(the criterion's `empty_weight`). A released file holds `model`, `model_ema` (the weights that were evaluated) and an argparse.Namespace.
"""
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ovdense.compat.tensor_files import read_tensors
from ovdense.vision.resnet import resnet_from_torchvision

_DROPPED = re.compile(r"(embeddings\.position_ids|text_encoder\.pooler\.dense\.(weight|bias)|empty_weight)$")
_RULES = [
    (re.compile(r"^transformer\.text_encoder\."), "text_encoder.model."),
    (re.compile(r"^transformer\.resizer\.fc\."), "transformer.text_projection.linear."),
    (re.compile(r"^transformer\.resizer\.layer_norm\."), "transformer.text_projection.norm."),
    (re.compile(r"^(transformer\.(?:en|de)coder\.layers\.\d+)\.(linear[12])\."), r"\1.ffn.\2."),
    (re.compile(r"^(transformer\.decoder\.layers\.\d+)\.cross_attn_image\."), r"\1.cross_attn."),
    (re.compile(r"^(transformer\.decoder\.layers\.\d+)\.norm3\."), r"\1.norm2."),
    (re.compile(r"^(transformer\.decoder\.layers\.\d+)\.norm4\."), r"\1.norm3."),
    (re.compile(r"^query_embed\."), "transformer.slots."),
    (re.compile(r"^input_proj\."), "transformer.image_projection."),
    (re.compile(r"^class_embed\."), "head.tokens.project."),
    (re.compile(r"^bbox_embed\."), "head.box."),
    (re.compile(r"^contrastive_align_projection_image\."), "head.align.place_projection."),
    (re.compile(r"^contrastive_align_projection_text\."), "head.align.text_projection."),
    (re.compile(r"^isfinal_embed\."), "head.final."),
    (re.compile(r"^qa_embed\."), "head.answers.slots."),
    (re.compile(r"^answer_(\w+)_head\."), r"head.answers.to_\1."),
    (re.compile(r"^bbox_attention\.q_linear\."), "mask_head.attention.query."),
    (re.compile(r"^bbox_attention\.k_linear\."), "mask_head.attention.key."),
    (re.compile(r"^mask_head\.lay(\d)\."), lambda m: f"mask_head.convs.{int(m[1]) - 1}."),
    (re.compile(r"^mask_head\.gn(\d)\."), lambda m: f"mask_head.norms.{int(m[1]) - 1}."),
    (re.compile(r"^mask_head\.adapter(\d)\."), lambda m: f"mask_head.adapters.{int(m[1]) - 1}."),
    (re.compile(r"^mask_head\.out_lay\."), "mask_head.out."),
]
_BODY = "backbone.0.body."


def is_published(names: Mapping[str, Any]) -> bool:
    """Return whether a state dict has the release's names."""
    return any(n.removeprefix("module.").removeprefix("detr.") in ("query_embed.weight", "class_embed.weight") for n in names)


def convert_published(checkpoint: Mapping[str, Any], *, ema: bool = True) -> dict[str, Tensor]:
    """Return the state dict of `Mdetr` from a released checkpoint, or from the bare state dict.

    `ema`: take `model_ema`, the weights that the published figures are of (the hub's own loader takes `model`); where a file has
    none, `model`. KeyError names tensors that are unknown.
    """
    state = (checkpoint.get("model_ema") if ema else None) or checkpoint.get("model") or checkpoint
    ours, body, unknown = {}, {}, []
    for name, tensor in state.items():
        name = name.removeprefix("module.")
        name = name.removeprefix("detr.")
        if _DROPPED.search(name) or not isinstance(tensor, Tensor):
            continue
        if name.startswith(_BODY):
            body[name.removeprefix(_BODY)] = tensor
            continue
        for pattern, replacement in _RULES:
            new, count = pattern.subn(replacement, name)
            if count:
                break
        if not count and not re.match(r"^transformer\.(en|de)coder\.(layers\.\d+\.(self_attn|norm\d)|norm)\.", name):
            unknown.append(name)
        ours[new] = tensor
    if unknown or not body:
        what = f"{len(unknown)} tensors, the first: {unknown[:3]}" if unknown else f"no tensor under {_BODY}"
        raise KeyError(f"the checkpoint must be MDETR's, but it has {what}")
    if "conv_stem.weight" in body:  # timm's EfficientNets
        return ours | {f"backbone.net.{n}": t for n, t in body.items()}
    return ours | {f"backbone.{n}": t for n, t in resnet_from_torchvision(body).items()}


def read_published(path: str | Path) -> dict[str, Any]:
    """Return a released file's `model` and `model_ema`, tensors only: nothing in the file can run code.

    The file's argparse.Namespace of settings becomes a plain object whose content is dropped; any other class is refused with a ValueError.
    """
    content = read_tensors(path)
    kept = {k: content[k] for k in ("model", "model_ema") if isinstance(content.get(k), Mapping)}
    return kept or {k: v for k, v in content.items() if isinstance(v, Tensor)}
