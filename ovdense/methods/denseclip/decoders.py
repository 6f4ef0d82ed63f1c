"""What reads the maps and the pixel-text scores: semantic FPN, RetinaNet, Mask R-CNN, each as published.

These know their classes by number: the score maps are channels of the pyramid's input, so that another vocabulary does not fit
(`open_decoder.py` has the form that it fits). Without scores they are the plain CLIP-FPN baselines.
"""
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovdense.compat.mm_parts import (
    det_fpn,
    mask_rcnn_detections,
    mask_rcnn_heads,
    mask_rcnn_losses,
    retina_detections,
    retina_head,
    retina_losses,
    seg_fpn,
    seg_fpn_head,
)
from ovdense.losses import box_label_maps, covered_cross_entropy, pixel_cross_entropy
from ovdense.methods.denseclip.pixel_text import PixelScores
from ovdense.methods.ranks import over_ranks
from ovdense.registry import MODELS
from ovdense.structures import FeatureMap, ImageTarget, Results

BOX_STRIDE = 4  # of the map that boxes are painted on


def with_scores(maps: Sequence[FeatureMap], pixels: PixelScores | None, *, divided: bool) -> list[Tensor]:
    """Return the maps' tensors, the scores joined to the one of their stride; `divided` by tau, as the detectors have it."""
    tensors = [m.tensor_BCHW for m in maps]
    if pixels is not None:
        level = [m.stride for m in maps].index(pixels.stride)
        tensors[level] = torch.cat([tensors[level], pixels.score_BKHW / pixels.tau if divided else pixels.score_BKHW], 1)
    return tensors


def stacked_labels(targets: Sequence[ImageTarget], input_hw: tuple[int, int], ignore_label: int) -> Tensor:
    """Return the label maps of a batch, (B, H, W), padded with `ignore_label` to the input's size."""
    lacking = [t.file_name for t in targets if t.label_map_HW is None or tuple(t.label_map_HW.shape) != tuple(t.size_hw)]
    if lacking:
        raise ValueError(f"a segmenter must be trained on label maps of the input's size, {lacking[0]!r} has none; put LoadLabelMap before the resize")
    rows = [F.pad(t.label_map_HW, (0, input_hw[1] - t.size_hw[1], 0, input_hw[0] - t.size_hw[0]), value=ignore_label) for t in targets]
    return torch.stack(rows)


def _channels(channels: Sequence[int], strides: Sequence[int], score_stride: int | None, num_classes: int) -> list[int]:
    return [c + (num_classes if s == score_stride else 0) for c, s in zip(channels, strides, strict=True)]


@MODELS.register_module()
class SemanticFpn(nn.Module):
    """The published segmenter's neck and head (mmseg's FPN and FPNHead), logits at the finest map's stride.

    `num_classes` K; the scores' K channels join the map of `score_stride` (None: no text, plain CLIP-FPN). Losses: cross entropy of
    the logits, and `aux_weight` times that of the scores over tau, each over all pixels, ignored ones included; `label_step` > 1: over one
    pixel of every block of that side.
    """

    task, is_open = "semantic", False

    def __init__(self, num_classes: int, *, in_channels: Sequence[int], strides: Sequence[int] = (4, 8, 16, 32), score_stride: int | None = 32,
                 channels: int = 256, head_channels: int = 256, dropout: float = 0.1, aux_weight: float = 0.4, label_step: int = 1) -> None:
        super().__init__()
        self.num_classes, self.aux_weight, self.label_step = num_classes, aux_weight, label_step
        self.neck = seg_fpn(_channels(in_channels, strides, score_stride, num_classes), channels)
        self.head = seg_fpn_head(len(strides), strides, in_channels=channels, channels=head_channels, num_classes=num_classes, dropout=dropout)

    def logits(self, maps: Sequence[FeatureMap], pixels: PixelScores | None) -> Tensor:
        """Return (B, K, H, W) logits at the finest map's size."""
        return self.head(self.neck(with_scores(maps, pixels, divided=False)))

    def losses(self, maps: Sequence[FeatureMap], pixels: PixelScores | None, label_BHW: Tensor) -> dict[str, Tensor]:
        """Return the losses for label maps at the input's size."""
        losses = {"loss_ce": over_ranks(*pixel_cross_entropy(self.logits(maps, pixels), label_BHW, step=self.label_step))}
        if pixels is not None and self.aux_weight:
            aux = pixel_cross_entropy(pixels.score_BKHW / pixels.tau, label_BHW, step=self.label_step)
            losses["loss_aux_ce"] = self.aux_weight * over_ranks(*aux)
        return losses


class _Detector(nn.Module):
    """What both detectors share: the neck, and the score maps' loss on boxes, which it is trained with beside its own."""

    task, is_open = "detection", False
    retina = False

    def __init__(self, num_classes: int, *, in_channels: Sequence[int], strides: Sequence[int], score_stride: int | None, channels: int,
                 aux_weight: float) -> None:
        super().__init__()
        self.num_classes, self.aux_weight = num_classes, aux_weight
        self.neck = det_fpn(_channels(in_channels, strides, score_stride, num_classes), channels, retina=self.retina)

    def pyramid(self, maps: Sequence[FeatureMap], pixels: PixelScores | None) -> tuple[Tensor, ...]:
        """Return the neck's five maps."""
        return self.neck(with_scores(maps, pixels, divided=True))

    def box_loss(self, pixels: PixelScores, targets: Sequence[ImageTarget], fine_hw: tuple[int, int]) -> Tensor:
        """Return the binary cross entropy of the scores, resized to the finest map, against filled boxes, inside their union."""
        logit_BKHW = F.interpolate(pixels.score_BKHW / pixels.tau, size=fine_hw, mode="bilinear", align_corners=False)
        device = logit_BKHW.device
        boxes, labels = [t.boxes_xyxy.to(device) for t in targets], [t.labels.to(device) for t in targets]
        target, covered = box_label_maps(boxes, labels, self.num_classes, fine_hw, BOX_STRIDE)
        return self.aux_weight * over_ranks(*covered_cross_entropy(logit_BKHW, target, covered))

    def losses(self, maps: Sequence[FeatureMap], pixels: PixelScores | None, targets: Sequence[ImageTarget], input_hw: tuple[int, int]) -> dict[str, Tensor]:
        """Return the detector's losses, and the scores' own."""
        losses = self.own_losses(self.pyramid(maps, pixels), targets, input_hw)
        if pixels is not None and self.aux_weight:
            losses["loss_aux_box"] = self.box_loss(pixels, targets, tuple(maps[0].tensor_BCHW.shape[2:]))
        return losses

    def own_losses(self, pyramid: Sequence[Tensor], targets: Sequence[ImageTarget], input_hw: tuple[int, int]) -> dict[str, Any]:
        raise NotImplementedError

    def detections(self, pyramid: Sequence[Tensor], targets: Sequence[ImageTarget], input_hw: tuple[int, int], names: Sequence[str]) -> list[Results]:
        raise NotImplementedError


@MODELS.register_module()
class RetinaNetDecoder(_Detector):
    """RetinaNet (mmdet's) on the maps and scores. Maps of stride 4 to 32; the pyramid starts at 8."""

    retina = True

    def __init__(self, num_classes: int, *, in_channels: Sequence[int], strides: Sequence[int] = (4, 8, 16, 32), score_stride: int | None = 32,
                 channels: int = 256, stacked_convs: int = 4, aux_weight: float = 1.0) -> None:
        super().__init__(num_classes, in_channels=in_channels, strides=strides, score_stride=score_stride, channels=channels, aux_weight=aux_weight)
        self.bbox_head = retina_head(num_classes, channels=channels, stacked_convs=stacked_convs)

    def own_losses(self, pyramid, targets, input_hw):
        return retina_losses(self.bbox_head, pyramid, targets, input_hw)

    def detections(self, pyramid, targets, input_hw, names):
        return retina_detections(self.bbox_head, pyramid, targets, input_hw, names)


@MODELS.register_module()
class MaskRcnnDecoder(_Detector):
    """Mask R-CNN (mmdet's) on the maps and scores; detections have masks. Maps of stride 4 to 32."""

    def __init__(self, num_classes: int, *, in_channels: Sequence[int], strides: Sequence[int] = (4, 8, 16, 32), score_stride: int | None = 32,
                 channels: int = 256, aux_weight: float = 1.0) -> None:
        super().__init__(num_classes, in_channels=in_channels, strides=strides, score_stride=score_stride, channels=channels, aux_weight=aux_weight)
        self.rpn_head, self.roi_head = mask_rcnn_heads(num_classes, channels=channels)

    def own_losses(self, pyramid, targets, input_hw):
        return mask_rcnn_losses(self.rpn_head, self.roi_head, pyramid, targets, input_hw)

    def detections(self, pyramid, targets, input_hw, names):
        return mask_rcnn_detections(self.rpn_head, self.roi_head, pyramid, targets, input_hw, names)
