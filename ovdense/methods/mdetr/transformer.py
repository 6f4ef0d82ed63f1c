"""From image maps and text to slots: projections, the joint encoder, the decoder, and where slots come from.

B images (or pairs of an image and a caption), P image places, L text tokens, Q slots, C width.
"""
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovdense.layers.joint_transformer import JointEncoder, SlotDecoder, sine_of_points, sine_positions
from ovdense.methods.mdetr.head import MdetrOutputs
from ovdense.structures import FeatureMap

_OF_IMAGES = ("source_BCHW", "valid_BHW", "positions_BPC")


@dataclass(frozen=True, kw_only=True)
class ImageTokens:
    """An image before it meets a caption: `source_BCHW` projected features, `valid_BHW` True where the image is, `positions_BPC` codes.

    `fine`: finer maps for masks, coarse to fine.
    """

    source_BCHW: Tensor
    valid_BHW: Tensor
    positions_BPC: Tensor
    fine: tuple[Tensor, ...] = ()

    def take(self, index: Tensor) -> "ImageTokens":
        """Return the images of `index`, which may name one several times; one image alone is not copied. `fine` stays as it is."""
        if len(self.source_BCHW) == 1:
            return replace(self, **{n: (t := getattr(self, n)).expand(len(index), *t.shape[1:]) for n in _OF_IMAGES})
        return replace(self, **{n: getattr(self, n)[index] for n in _OF_IMAGES})


@dataclass(frozen=True, kw_only=True)
class Memory:
    """What the encoder gives: image tokens, then text tokens, their codes, and which of them are real (None: all)."""

    tokens_BLC: Tensor
    positions_BLC: Tensor
    valid_BL: Tensor | None
    num_places: int

    @property
    def image_BPC(self) -> Tensor:
        return self.tokens_BLC[:, : self.num_places]

    @property
    def text_BLC(self) -> Tensor:
        return self.tokens_BLC[:, self.num_places :]


class TextProjection(nn.Module):
    """Linear map to the transformer's width, layer norm, dropout (0.1 in every published run)."""

    def __init__(self, text_width: int, width: int, dropout: float) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(text_width, width), nn.LayerNorm(width, eps=1e-12)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden_BLD: Tensor) -> Tensor:
        return self.dropout(self.norm(self.linear(hidden_BLD)))


class MdetrTransformer(nn.Module):
    """Projections, encoder, decoder and slots.

    `channels`, `strides`: of the backbone's maps; the last `joined` of them make the image tokens, at the coarsest's size: MDETR takes the
    coarsest alone. Of a finer map all places that a token covers go into it, side by side as channels. `slots_from`: "learned"
    (published), or "proposals": the encoder's image tokens each propose a box, and the `num_slots` that look most like an object go
    on, as in two-stage Deformable DETR (arXiv 2010.04159, Sec. 4.2): a short training finds boxes much sooner.
    `proposal_share`: side of the box a proposal starts from.
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[int], text_width: int, *, width: int = 256, num_heads: int = 8, encoder_layers: int = 6,
                 decoder_layers: int = 6, ffn_width: int = 2048, dropout: float = 0.1, text_dropout: float = 0.1, num_slots: int = 100,
                 slots_from: str = "learned", joined: int = 1, proposal_share: float = 0.2) -> None:
        super().__init__()
        if slots_from not in ("learned", "proposals"):
            raise ValueError(f'slots_from must be "learned" or "proposals", got {slots_from!r}')
        if not 1 <= joined <= len(channels):
            raise ValueError(f"joined must be in 1..{len(channels)}, got {joined}")
        self.width, self.num_heads, self.num_slots, self.slots_from = width, num_heads, num_slots, slots_from
        self.proposal_share = proposal_share
        self.shrinks = tuple(strides[-1] // s for s in strides[-joined:])
        total = sum(c * k * k for c, k in zip(channels[-joined:], self.shrinks))
        # maps of several strides differ in scale; one map alone is projected as it is, as published
        self.image_norm = nn.BatchNorm2d(total, affine=False) if joined > 1 else nn.Identity()
        self.image_projection = nn.Conv2d(total, width, 1)
        self.text_projection = TextProjection(text_width, width, text_dropout)
        self.encoder = JointEncoder(width, encoder_layers, num_heads, ffn_width, dropout)
        self.decoder = SlotDecoder(width, decoder_layers, num_heads, ffn_width, dropout)
        self.slots = nn.Embedding(num_slots, width) if slots_from == "learned" else None
        self.proposal = nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width)) if slots_from == "proposals" else None

    def image_tokens(self, maps: Sequence[FeatureMap], valid_BHW: Tensor, fine: int = 0) -> ImageTokens:
        """Return the tokens of images whose pixels count where `valid_BHW` is True; keep the `fine` maps before the coarsest for masks."""
        size = maps[-1].tensor_BCHW.shape[-2:]
        joined = [_gathered(m.tensor_BCHW, k, size) for m, k in zip(maps[-len(self.shrinks) :], self.shrinks)]
        source = self.image_projection(self.image_norm(torch.cat(joined, dim=1) if len(joined) > 1 else joined[0]))
        # nearest, as released: a place counts where the pixel at its upper left does
        inside = F.interpolate(valid_BHW[:, None].float(), size=size)[:, 0].bool()
        return ImageTokens(source_BCHW=source, valid_BHW=inside, positions_BPC=sine_positions(inside, self.width).to(source.dtype),
                           fine=tuple(m.tensor_BCHW for m in reversed(maps[len(maps) - 1 - fine : -1])))

    def encode(self, image: ImageTokens, text_BLC: Tensor, valid_BL: Tensor) -> Memory:
        """Return image and text tokens after the joint encoder."""
        source = image.source_BCHW.flatten(2).transpose(1, 2)
        tokens = torch.cat([source, text_BLC], dim=1)
        positions = F.pad(image.positions_BPC, (0, 0, 0, text_BLC.shape[1]))
        valid = torch.cat([image.valid_BHW.flatten(1), valid_BL], dim=1)
        valid = None if bool(valid.all()) else valid
        return Memory(tokens_BLC=self.encoder(tokens, positions, valid), positions_BLC=positions, valid_BL=valid, num_places=source.shape[1])

    def decode(self, memory: Memory, image: ImageTokens, propose: Callable[[Tensor, Tensor], MdetrOutputs], extra_slots: Tensor | None = None, *,
               last_only: bool = False) -> tuple[Tensor, Tensor | None, MdetrOutputs | None]:
        """Return the slots' states (layers, B, Q, C), the boxes that they start from (B, Q, 4) or None, and the proposals or None.

        `propose` gives predictions for (image tokens, boxes to start from); `extra_slots` (A, C) come after the others.
        """
        batch = len(memory.tokens_BLC)
        reference = proposals = None
        if self.slots is not None:
            codes = self.slots.weight if extra_slots is None else torch.cat([self.slots.weight, extra_slots])
            codes = codes.expand(batch, -1, -1)
            content = torch.zeros_like(codes)
        else:
            proposals = propose(memory.image_BPC[None], self.starts(image.valid_BHW))
            content, codes, reference = self._chosen(memory, image, proposals)
            if extra_slots is not None:
                more = extra_slots.expand(batch, -1, -1)
                codes, content = torch.cat([codes, more], dim=1), torch.cat([content, torch.zeros_like(more)], dim=1)
        states = self.decoder(content, codes, memory.tokens_BLC, memory.positions_BLC, memory.valid_BL, last_only=last_only)
        return states, reference, proposals

    def starts(self, valid_BHW: Tensor) -> Tensor:
        """Return (B, P, 4) the square at each place's centre, in shares of the image's own size."""
        valid = valid_BHW.float()
        rows, columns = valid.cumsum(1), valid.cumsum(2)
        x = (columns - 0.5).clamp(min=0) / columns.amax((1, 2), keepdim=True)
        y = (rows - 0.5).clamp(min=0) / rows.amax((1, 2), keepdim=True)
        side = torch.full_like(x, self.proposal_share)
        return torch.stack([x, y, side, side], dim=-1).flatten(1, 2)

    def _chosen(self, memory: Memory, image: ImageTokens, proposals: MdetrOutputs) -> tuple[Tensor, Tensor, Tensor]:
        looks = 1 - proposals.logit_NBQT[-1].detach().float().softmax(-1)[..., -1]
        looks = looks.masked_fill(~image.valid_BHW.flatten(1), -1)
        best = looks.topk(min(self.num_slots, looks.shape[1]), dim=1).indices[..., None]
        content = self.proposal(memory.image_BPC.gather(1, best.expand(-1, -1, self.width)))
        reference = proposals.boxes_NBQ4[-1].detach().gather(1, best.expand(-1, -1, 4))
        return content, sine_of_points(reference[..., :2], self.width).to(content.dtype), reference


def _gathered(x: Tensor, shrink: int, size: tuple[int, int]) -> Tensor:
    """Return (B, C * shrink^2, *size): the `shrink` x `shrink` places that each coarse place covers, as channels; what is lacking at the border is 0."""
    if shrink == 1:
        return x
    below, right = (n * shrink - have for n, have in zip(size, x.shape[-2:]))
    return F.pixel_unshuffle(F.pad(x, (0, right, 0, below)), shrink)
