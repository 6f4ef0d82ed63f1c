"""The open-vocabulary form of the segmenter (ours): the same pyramid and head, no weight that knows a class.

The published form makes the score maps channels of the pyramid's input, so that a trained model knows only its K classes. Here
the pyramid gets, at every place, the text that the place looks like; the head's features are compared with the classes' text by
the shared embedding head; and what is done to a class's maps is done to all with the same weights. Permuting or changing the
vocabulary permutes or changes the answer, nothing is built anew.
"""
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovdense.compat.mm_parts import seg_fpn, seg_fpn_head
from ovdense.heads.embedding_head import RowEmbeddingHead
from ovdense.heads.segment import resized
from ovdense.losses import pixel_cross_entropy
from ovdense.methods.denseclip.pixel_text import PixelScores
from ovdense.methods.ranks import over_ranks
from ovdense.registry import MODELS
from ovdense.structures import FeatureMap

REFINE_NUMBERS = 2**20  # between the two convolutions at a time, on a CPU


def matched_text(pixels: PixelScores) -> Tensor:
    """Return (B, C, h, w): the classes' unit vectors mixed by softmax(cosine / tau), what each place looks like in the text's space."""
    weight_BKHW = (pixels.score_BKHW / pixels.tau).softmax(1)
    return torch.einsum("bkhw,bkc->bchw", weight_BKHW, F.normalize(pixels.text_BKC, dim=2))


@MODELS.register_module()
class OpenSemanticFpn(nn.Module):
    """Semantic FPN for any vocabulary.

    logit of class k = a_k + w * s_k + refine(a_k, s_k): a_k from the embedding head on the FPN head's features, s_k = cosine / tau
    resized, w learned and the same for all classes, `refine` two convolutions of `refine_channels` shared by all classes (0:
    none). `embed_width`: the text's width. Losses as the published form's.
    """

    task, is_open = "semantic", True

    def __init__(self, *, in_channels: Sequence[int], embed_width: int, strides: Sequence[int] = (4, 8, 16, 32), score_stride: int = 32, channels: int = 256,
                 head_channels: int = 256, refine_channels: int = 8, temperature: float = 0.07, dropout: float = 0.1, aux_weight: float = 0.4,
                 label_step: int = 1) -> None:
        super().__init__()
        if score_stride not in strides:
            raise ValueError(f"score_stride must be one of the maps' strides {tuple(strides)}, got {score_stride}")
        self.aux_weight, self.label_step = aux_weight, label_step
        self.neck = seg_fpn([c + (embed_width if s == score_stride else 0) for c, s in zip(in_channels, strides, strict=True)], channels)
        self.head = seg_fpn_head(len(strides), strides, in_channels=channels, channels=head_channels, num_classes=head_channels, dropout=dropout)
        self.head.conv_seg = nn.Identity()  # its features are what is wanted
        self.embedding_head = RowEmbeddingHead(in_width=head_channels, row_width=embed_width, temperature=temperature)
        self.score_weight = nn.Parameter(torch.ones(()))
        self.refine = None
        if refine_channels:
            self.refine = nn.Sequential(nn.Conv2d(2, refine_channels, 3, padding=1), nn.ReLU(), nn.Conv2d(refine_channels, 1, 3, padding=1))
            nn.init.zeros_(self.refine[-1].weight)
            nn.init.zeros_(self.refine[-1].bias)

    def logits(self, maps: Sequence[FeatureMap], pixels: PixelScores) -> Tensor:
        """Return (B, K, H, W) logits at the finest map's size."""
        tensors = [torch.cat([m.tensor_BCHW, matched_text(pixels)], 1) if m.stride == pixels.stride else m.tensor_BCHW for m in maps]
        own_BKHW = self.embedding_head(self.head(self.neck(tensors)), pixels.text_BKC).logit_BKHW
        score_BKHW = resized(pixels.score_BKHW / pixels.tau, own_BKHW.shape[2:])
        logit_BKHW = own_BKHW + self.score_weight * score_BKHW
        if self.refine is None:
            return logit_BKHW
        return logit_BKHW + self._refined(own_BKHW, score_BKHW)

    def _refined(self, own_BKHW: Tensor, score_BKHW: Tensor) -> Tensor:
        """Return what the convolutions add, by blocks of classes: of 1,203 at once, what lies between the two would take gibibytes."""
        if torch.compiler.is_compiling():  # an exported network takes any number of classes
            return self.refine(torch.stack([own_BKHW, score_BKHW], 2).flatten(0, 1)).view_as(own_BKHW)
        most = REFINE_NUMBERS if own_BKHW.device.type == "cpu" else 64 * REFINE_NUMBERS
        block = max(1, most // (self.refine[0].out_channels * own_BKHW.shape[2] * own_BKHW.shape[3]))
        parts = zip(*(maps.flatten(0, 1).split(block) for maps in (own_BKHW, score_BKHW)))
        return torch.cat([self.refine(torch.stack(pair, 1)) for pair in parts]).view_as(own_BKHW)

    def losses(self, maps: Sequence[FeatureMap], pixels: PixelScores, label_BHW: Tensor) -> dict[str, Tensor]:
        """Return the losses for label maps at the input's size; the scores have one where something in them is learned."""
        losses = {"loss_ce": over_ranks(*pixel_cross_entropy(self.logits(maps, pixels), label_BHW, step=self.label_step))}
        if self.aux_weight and pixels.score_BKHW.requires_grad:
            aux = pixel_cross_entropy(pixels.score_BKHW / pixels.tau, label_BHW, step=self.label_step)
            losses["loss_aux_ce"] = self.aux_weight * over_ranks(*aux)
        return losses
