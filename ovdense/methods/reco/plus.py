"""ReCo+ (arXiv 2206.07045, Sec. 3.5): an ordinary segmenter, DeepLabV3+, trained on ReCo's answers as labels.

Its classes are those of the pseudo-labels; asked for some of them, in any order, it answers with these. B images, K classes.
"""
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.registry import build_from_cfg
from torch import Tensor, nn

from ovdense.compat.mm_parts import deeplab_plus_head, seg_resnet
from ovdense.compat.paths import data_path
from ovdense.compat.weights import load_checked, read_state_dict
from ovdense.heads.segment import label_maps, resized, without_padding
from ovdense.losses import pixel_cross_entropy
from ovdense.methods.base import OpenVocabModel, asked_vocabulary, only_names
from ovdense.methods.ranks import over_ranks
from ovdense.registry import MODELS
from ovdense.structures import FeatureMap, ImageTarget, Results, Vocabulary
from ovdense.text.vocabulary import class_finder, load_vocabulary


@MODELS.register_module()
class DilatedResNet(nn.Module):
    """mmseg's ResNet with output stride 8 as a backbone: maps of strides 4, 8, 8, 8. `weights`: ImageNet's, torchvision's names, or None."""

    mean, std = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
    channels, strides = (256, 512, 1024, 2048), (4, 8, 8, 8)

    def __init__(self, depth: int = 101, *, weights: str | Path | None = None) -> None:
        super().__init__()
        if depth not in (50, 101, 152):
            raise ValueError(f"depth must be 50, 101 or 152, got {depth}")
        self.net = seg_resnet(depth)
        if weights is not None:
            load_checked(self.net, read_state_dict(weights), str(weights))

    def forward(self, images_BCHW: Tensor) -> list[FeatureMap]:
        return [FeatureMap(tensor_BCHW=x, stride=s) for x, s in zip(self.net(images_BCHW), self.strides)]


@MODELS.register_module()
class RecoPlus(OpenVocabModel):
    """DeepLabV3+ on a backbone's finest and coarsest maps, trained on pseudo-labels.

    `classes`: the vocabulary of the pseudo-labels: the classes.json that tools/pseudo_label.py leaves beside them (below the data root unless
    absolute), or what `load_vocabulary` reads. `channels`, `low_channels`, `dilations`, `dropout`: of mmseg's DepthwiseSeparableASPPHead.
    `background_weight`: what a background pixel counts beside one of another class (the release has no background; ReCo's labels of few photos are nearly
    all background, and a short training answers nothing else). `loss_step` n: the loss looks at one pixel of every n x n. Convolutions and the head's
    pooling of the whole input see the padding of a batch, as in mmseg: images of several sizes are answered as by themselves only one at a time.
    """

    def __init__(
        self,
        backbone: dict | nn.Module,
        *,
        classes: str | Sequence[str] | Vocabulary,
        channels: int = 512,
        low_channels: int = 48,
        dilations: Sequence[int] = (1, 12, 24, 36),
        dropout: float = 0.1,
        background_weight: float = 1.0,
        loss_step: int = 1,
    ) -> None:
        if not 0 < background_weight <= 1 or loss_step < 1:
            raise ValueError(f"background_weight must lie in (0, 1] and loss_step be at least 1, got {background_weight} and {loss_step}")
        backbone = backbone if isinstance(backbone, nn.Module) else build_from_cfg(backbone, MODELS)
        super().__init__(mean=backbone.mean, std=backbone.std)
        self.backbone = backbone
        if isinstance(classes, str) and data_path(classes).is_file():
            classes = str(data_path(classes))
        self.classes = load_vocabulary(classes)
        self.loss_step = loss_step
        weights = [background_weight if entry.is_background else 1.0 for entry in self.classes]
        self.register_buffer("weight_K", torch.tensor(weights), persistent=False)
        self.head = deeplab_plus_head(backbone.channels[-1], backbone.channels[0], len(self.classes), channels=channels, low_out=low_channels,
                                      dilations=dilations, dropout=dropout)  # fmt: skip

    def set_vocabulary(self, vocabulary: Vocabulary, prompt: str = "names") -> None:
        """Predict these classes from now on, some or all of the trained ones in any order; KeyError for another."""
        only_names(self, prompt)
        self.encode_text(vocabulary)
        super().set_vocabulary(vocabulary)

    def encode_image(self, images: Tensor) -> list[Tensor]:
        return [level.tensor_BCHW for level in self.backbone(images)]

    def encode_text(self, vocabulary: Vocabulary) -> Tensor:
        """Return (K,) int64, the trained class of each asked one: of its name, or of its noun where one class alone has it.

        KeyError for a class that was not trained, or of whose noun there are several.
        """
        named, find = {entry.name: k for k, entry in enumerate(self.classes)}, class_finder(self.classes)
        trained = [next((k for k in (named.get(e.name), find(e.name), find(e.noun)) if k is not None), None) for e in vocabulary]
        unknown = [entry.name for entry, k in zip(vocabulary, trained) if k is None]
        if unknown:
            raise KeyError(f"ReCo+ knows the classes of its pseudo-labels only, and {unknown[:5]} are none of them ({', '.join(list(named)[:8])}, ...), or "
                           "several; ask ReCo itself, or make pseudo-labels with them")  # fmt: skip
        return torch.tensor(trained)

    def score(self, features: list[Tensor], text: Tensor) -> Tensor:
        """Return logits (B, K, H/s, W/s) of the asked classes at the finest map's stride."""
        return self.head(features)[:, text.to(features[0].device)]

    def decode(self, scored: Tensor, targets: Sequence[ImageTarget]) -> list[Results]:
        raise NotImplementedError("predict knows the input's size")

    @torch.no_grad()
    def predict(self, images: Tensor, targets: Sequence[ImageTarget]) -> list[Results]:
        text = self.encode_text(asked_vocabulary(self))
        logit_BKHW = self.score(self.features(images), text)
        return label_maps(logit_BKHW, targets, self.vocabulary.names, tuple(images.shape[2:]))

    @torch.no_grad()
    def score_maps(self, images: Tensor, targets: Sequence[ImageTarget]) -> list[Tensor]:
        """Return each asked class's probability among the asked ones at every place."""
        text = self.encode_text(asked_vocabulary(self))
        score = self.score(self.features(images), text).softmax(1)
        return [without_padding(s, t.size_hw, tuple(images.shape[-2:])) for s, t in zip(score, targets, strict=True)]

    def loss(self, images: Tensor, targets: Sequence[ImageTarget]) -> dict[str, Tensor]:
        """Return the cross entropy over the pixels that have a label, and the share of them that is right."""
        label_BHW = self._labels(targets, tuple(images.shape[2:])).to(images.device)
        logit_BKHW = self.head(self.encode_image(images))
        with torch.no_grad():
            counted = label_BHW != 255
            right = (resized(logit_BKHW, label_BHW.shape[1:]).argmax(1) == label_BHW) & counted
        weight_K = None if bool((self.weight_K == 1).all()) else self.weight_K
        loss = pixel_cross_entropy(logit_BKHW, label_BHW, over="labelled", step=self.loss_step, weight_K=weight_K)
        return {"loss_seg": over_ranks(*loss), "pixel_acc": right.sum() / counted.sum().clamp(min=1)}

    def _labels(self, targets: Sequence[ImageTarget], input_hw: tuple[int, int]) -> Tensor:
        out = torch.full((len(targets), *input_hw), 255, dtype=torch.int64)
        for row, target in zip(out, targets):
            if target.label_map_HW is None:
                raise ValueError(f"{target.file_name}: training needs label maps; put LoadLabelMap among the transforms")
            h, w = target.label_map_HW.shape
            row[:h, :w] = target.label_map_HW
        return out

    def protocol(self) -> dict[str, Any]:
        return {**super().protocol(), "trained_classes": len(self.classes), "labels": "pseudo"}
