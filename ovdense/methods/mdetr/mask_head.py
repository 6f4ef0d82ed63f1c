"""MDETR's mask head (DETR's, arXiv 2005.12872, Sec. 4.3): a slot's attention over the image, refined with finer and finer features.

N slots (of any images), A attention heads.
"""
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

GROUPS = 8


class AttentionMaps(nn.Module):
    """Softmax over the places of an image, for each slot and head.

    As released for MDETR; DETR's own code takes one softmax over the places of all heads together.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        for linear in (self.query, self.key):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, slot_NC: Tensor, image_N: Tensor, memory_BPC: Tensor, valid_BP: Tensor) -> Tensor:
        """Return (N, A, P): slot n looks at the places P of image `image_N[n]`; padded places get 0."""
        query = self.query(slot_NC).unflatten(-1, (self.num_heads, -1))
        key = self.key(memory_BPC).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)[image_N]  # (N, A, P, C / A)
        logit = (key @ (query * query.shape[-1] ** -0.5)[..., None]).squeeze(-1)
        return logit.masked_fill(~valid_BP[image_N][:, None], float("-inf")).softmax(-1)


class MaskHead(nn.Module):
    """Convolutions, group norms and a pyramid: attention maps at the coarsest stride to mask logits at the finest.

    `fine_channels`: channels of the finer maps, coarse to fine (strides 16, 8, 4 as published). `boxes`: it also sees, at each of these strides,
    where a place lies in the slot's box (`box_places`); ours, for short trainings: attention at the coarsest stride alone tells neighbours apart late.
    """

    def __init__(self, width: int, num_heads: int, fine_channels: Sequence[int], *, boxes: bool = False) -> None:
        super().__init__()
        first = width + num_heads
        widths = [width // 2 ** (n + 1) for n in range(len(fine_channels) + 1)]
        if first % GROUPS or any(w % GROUPS for w in widths):
            raise ValueError(f"channels must be multiples of {GROUPS} at every step, got {[first, *widths]}; width / {2 ** len(widths)} must be one")
        self.attention = AttentionMaps(width, num_heads)
        ins = [first, first, *widths[:-1]]
        outs = [first, *widths]
        self.convs = nn.ModuleList(nn.Conv2d(i, o, 3, padding=1) for i, o in zip(ins, outs))
        self.norms = nn.ModuleList(nn.GroupNorm(GROUPS, o) for o in outs)
        self.adapters = nn.ModuleList(nn.Conv2d(c, w, 1) for c, w in zip(fine_channels, widths))
        self.places = nn.ModuleList(nn.Conv2d(3, w, 1, bias=False) for w in widths[:-1]) if boxes else None
        self.out = nn.Conv2d(widths[-1], 1, 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, slot_NC: Tensor, image_N: Tensor, source_BCHW: Tensor, memory_BPC: Tensor, valid_BP: Tensor, fine: Sequence[Tensor],
                boxes_N4: Tensor | None = None) -> Tensor:
        """Return mask logits (N, H, W) at the finest of `fine` (coarse to fine; without any, at the source's size).

        `source_BCHW`: the projected image features before the encoder; `memory_BPC`, `valid_BP`: its image tokens after it, P = H * W.
        `boxes_N4`: the slots' boxes, cxcywh in shares of the padded input, where the head sees boxes. Slots are independent of each other: any of
        them may be asked for.
        """
        if (self.places is None) != (boxes_N4 is None):
            raise ValueError("boxes_N4 must be given to a head made with boxes=True, and to no other")
        maps = self.attention(slot_NC, image_N, memory_BPC, valid_BP).unflatten(-1, source_BCHW.shape[-2:])
        first, width = self.convs[0], source_BCHW.shape[1]
        # the image's part of the first convolution is the same for all slots: it is computed once an image
        shared = F.conv2d(source_BCHW, first.weight[:, :width], first.bias, padding=1)
        x = F.conv2d(maps, first.weight[:, width:], padding=1) + shared[image_N]
        x = F.relu(self.norms[0](x))
        x = F.relu(self.norms[1](self.convs[1](x)))
        for n, (conv, norm, adapter, finer) in enumerate(zip(self.convs[2:], self.norms[2:], self.adapters, fine, strict=True)):
            x = adapter(finer)[image_N] + F.interpolate(x, size=finer.shape[-2:], mode="nearest")
            if self.places is not None:
                x = x + self.places[n](box_places(boxes_N4, finer.shape[-2:]).to(x.dtype))
            x = F.relu(norm(conv(x)))
        return self.out(x).squeeze(1)


def box_places(boxes_N4: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Return (N, 3, H, W): how far the places of a map lie right of and below the box's centre, and whether inside; `boxes_N4` cxcywh in shares of the map.

    In half sides of the box, -2..2, as relative coordinates in CondInst (arXiv 2003.05664, Sec. 3.1) are in pixels; inside is 1, 0 outside, at a border
    the share of the place's side.
    """
    inside, away = torch.ones((), device=boxes_N4.device), []
    for axis, places in ((0, size_hw[1]), (1, size_hw[0])):
        centre, half = boxes_N4[:, axis, None] * places, (boxes_N4[:, axis + 2, None] * places / 2).clamp(min=0.5)
        offset = torch.arange(places, device=boxes_N4.device) + 0.5 - centre  # (N, places)
        covered, far = (half - offset.abs() + 0.5).clamp(0, 1), (offset / half).clamp(-2, 2)
        view = (-1, 1, places) if axis == 0 else (-1, places, 1)
        inside = inside * covered.view(view)
        away.append(far.view(view))
    return torch.stack([*(a.expand_as(inside) for a in away), inside], dim=1)


def resize_masks(logit_NHW: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Return the logits at another size, bilinear."""
    if not len(logit_NHW):
        return logit_NHW.new_zeros(0, *size_hw)
    return F.interpolate(logit_NHW[:, None].float(), size=size_hw, mode="bilinear", align_corners=False)[:, 0]


def file_masks(logit_NHW: Tensor, padded_hw: tuple[int, int], size_hw: tuple[int, int], original_hw: tuple[int, int], *, threshold: float = 0.5,
               block: int = 16) -> Tensor:
    """Return bool (N, H, W) at the file's size: up to the padded input, padding cut off, to the file's size, then the threshold."""
    parts = [torch.zeros(0, *original_hw, dtype=torch.bool, device=logit_NHW.device)]
    for some in logit_NHW.split(block):
        inside = resize_masks(some, padded_hw)[:, : size_hw[0], : size_hw[1]]
        parts.append(resize_masks(inside, original_hw).sigmoid() > threshold)
    return torch.cat(parts)
