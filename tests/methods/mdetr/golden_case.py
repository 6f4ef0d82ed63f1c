"""A parity case of MDETR as our model: weights, tokenizer and inputs."""
import json
from pathlib import Path

import numpy as np
import torch

from ovdense.methods.mdetr.convert import convert_published
from ovdense.methods.mdetr.model import Mdetr
from ovdense.structures import ImageTarget
from ovdense.text.encoders import RobertaTextEncoder
from ovdense.text.tokenizers import Tokenizer
from ovdense.vision.resnet import FrozenNormResNet
from tests.golden import load_fill


class Case:
    """One folder of the parity cases."""

    def __init__(self, golden_root: Path, name: str) -> None:
        self.root, self.folder = golden_root / "mdetr", golden_root / "mdetr" / name
        self.config = json.loads((self.folder / "config.json").read_text())
        self.inputs = {k: v for k, v in np.load(self.folder / "inputs.npz").items()}
        self.outputs = {k: v for k, v in np.load(self.folder / "outputs.npz").items()}
        self.fill = load_fill(golden_root)

    def tensor(self, name: str) -> torch.Tensor:
        return torch.from_numpy((self.inputs | self.outputs)[name])

    def state(self) -> dict[str, torch.Tensor]:
        """Return the published state dict."""
        state = self.fill.fill(self.folder / "spec.json", self.config["seed"])
        for name, factor in self.config["overrides_mul"].items():
            state[name] = state[name] * factor
        with np.load(self.folder / "overrides.npz") as z:
            state.update({n: torch.from_numpy(z[n]) for n in z.files})
        return state

    def tokenizer(self) -> Tokenizer:
        return Tokenizer.from_byte_level_bpe(self.root / "tokenizer" / "vocab.json", self.root / "tokenizer" / "merges.txt")

    def model(self, *, published: bool = True, dropout: float = 0.0, **test) -> Mdetr:
        """Return the case's model with its weights, in eval mode."""
        sizes, masks = self.config["model"], "mask_model" in self.config["model"]
        shapes = {n.removeprefix("detr."): s["shape"] for n, s in json.loads((self.folder / "spec.json").read_text()).items()}
        align_width = shapes.get("contrastive_align_projection_image.weight", [0])[0]
        text = RobertaTextEncoder(weights=None, tokenizer=self.tokenizer(), frozen=False,
                                  config=self.config["text"] | {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout})
        model = Mdetr(
            backbone=FrozenNormResNet(int(sizes["backbone"].removeprefix("resnet")), out_strides=(4, 8, 16, 32) if masks else (32,)),
            text_encoder=text,
            transformer=dict(width=sizes["hidden_dim"], num_heads=sizes["nheads"], encoder_layers=sizes["enc_layers"], decoder_layers=sizes["dec_layers"],
                             ffn_width=sizes["dim_feedforward"], num_slots=sizes["num_queries"], dropout=dropout, text_dropout=dropout),
            head=dict(columns=shapes["class_embed.weight"][0], align_width=align_width, temperature=self.config.get("temperature", 0.07)),
            masks=masks,
            criterion=self.criterion(published=published),
            test=dict(clip=False, published=published, **test),
        )
        model.load_state_dict(convert_published(self.state()), strict=True)
        return model.eval()

    def criterion(self, *, published: bool) -> dict:
        """Return the criterion's settings as the case has them; what it does not say is as released."""
        weights, costs = self.config.get("weight_dict", {}), self.config.get("matcher", {})
        named = {"token_weight": "loss_ce", "box_weight": "loss_bbox", "giou_weight": "loss_giou", "align_weight": "loss_contrastive_align",
                 "mask_weight": "loss_mask", "dice_weight": "loss_dice"}
        said = {ours: float(weights[theirs]) for ours, theirs in named.items() if theirs in weights}
        said |= {f"{name}_cost": float(costs[key]) for name, key in (("class", "class"), ("box", "bbox"), ("giou", "giou")) if key in costs}
        return said | {"no_object_weight": self.config.get("eos_coef", 0.1), "published": published}

    def images(self) -> tuple[torch.Tensor, list[tuple[int, int]]]:
        """Return the normalised, padded images and their sizes."""
        return self.tensor("samples"), [tuple(s) for s in self.inputs["size"].tolist()]

    def targets(self, counts: list[int] | None = None) -> list[ImageTarget]:
        """Return the case's targets; `counts` keeps only so many boxes of each image."""
        spans: dict[int, list[tuple[int, int]]] = {}
        for n, begin, end in self.inputs["tokens_positive"].tolist():
            spans.setdefault(n, []).append((begin, end))
        found, start = [], 0
        for b, count in enumerate(self.inputs["num_boxes"].tolist()):
            keep = count if counts is None else counts[b]
            size = tuple(self.inputs["size"][b].tolist())
            h, w = size
            cx, cy, bw, bh = self.tensor("boxes")[start : start + keep].unbind(1)
            boxes = torch.stack([cx - bw / 2, cy - bh / 2, cx + bw / 2, cy + bh / 2], 1) * torch.tensor([w, h, w, h])
            masks = None
            if f"target_masks_packed_{b}" in self.inputs:
                shape = self.inputs[f"target_masks_shape_{b}"].tolist()
                bits = np.unpackbits(self.inputs[f"target_masks_packed_{b}"], axis=1)[:, : h * w].reshape(shape)
                masks = torch.from_numpy(bits.astype(bool))[:keep]
            found.append(ImageTarget(
                image_id=b, file_name=f"{b}", size_hw=size, original_size_hw=tuple(self.inputs["orig_size"][b].tolist()), boxes_xyxy=boxes,
                labels=torch.zeros(keep, dtype=torch.int64), caption=str(self.inputs["captions"][b]),
                positive_spans=tuple(tuple(spans.get(start + n, ())) for n in range(keep)), masks_NHW=masks,
            ))
            start += count
        return found
