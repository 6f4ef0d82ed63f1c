"""DesCo's detection head (GLIP's VLDyHead): fusion, then text and image paths, then boxes and token logits.

One block = deep fusion over all levels at once, a BERT layer on the tokens, a dynamic-head block on the maps.
"""
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ovdense.heads.embedding_head import TokenEmbeddingHead
from ovdense.layers.bert_layer import BertLayer
from ovdense.layers.dyhead import DyConv
from ovdense.layers.fusion import FusionBlock
from ovdense.structures import TokenLogits


@dataclass(frozen=True, kw_only=True)
class HeadOutputs:
    """Predictions at all places, levels concatenated finest first.

    `tokens`: logits (B, Q, L); `delta_BQ4`: box deltas; `centerness_BQ`: logits; `sizes_hw`: one per level.
    """

    tokens: TokenLogits
    delta_BQ4: Tensor
    centerness_BQ: Tensor
    sizes_hw: tuple[tuple[int, int], ...]


class FusionTowerBlock(nn.Module):
    """Fuse, update tokens, update maps.

    `checkpointing` keeps neither half's insides for the backward pass, but recomputes one half at a time.
    """

    def __init__(self, channels: int, text_width: int, *, num_blocks: int, embed_width: int, num_heads: int, bert_heads: int,
                 bert_ffn: int, dropout: float, deformable: bool, coarse_offsets: str) -> None:
        super().__init__()
        self.fuse = FusionBlock(channels, text_width, embed_width=embed_width, num_heads=num_heads, dropout=dropout, layer_scale=1 / num_blocks)
        self.text = BertLayer(text_width, num_heads=bert_heads, ffn_width=bert_ffn, dropout=dropout)
        self.image = DyConv(channels, deformable=deformable, coarse_offsets=coarse_offsets)

    def _fuse(self, text_BLD: Tensor, valid_BL: Tensor, *maps: Tensor) -> tuple[Tensor, ...]:
        fused, text = self.fuse(list(maps), text_BLD, valid_BL)
        return text, *fused

    def _update(self, text_BLD: Tensor, together: Tensor, *maps: Tensor) -> tuple[Tensor, ...]:
        return self.text(text_BLD, together), *self.image(list(maps))

    def forward(self, text_BLD: Tensor, valid_BL: Tensor, together: Tensor, maps: Sequence[Tensor], *, checkpointing: bool = False) -> tuple[Tensor, ...]:
        """Return the tokens and then the maps."""
        run = partial(checkpoint, use_reentrant=False) if checkpointing else lambda part, *given: part(*given)
        text, *fused = run(self._fuse, text_BLD, valid_BL, *maps)
        return run(self._update, text, together, *fused)


class DescoHead(nn.Module):
    """Predict token logits, box deltas and centerness at every place of the pyramid.

    `closed_set_classes` adds the published files' unused classification branch, frozen, so that they load strictly.
    `checkpointing` recomputes blocks in the backward pass: memory for time.
    """

    def __init__(self, *, channels: int = 256, text_width: int = 768, num_blocks: int = 6, num_levels: int = 5, embed_width: int = 2048,
                 num_heads: int = 8, bert_heads: int = 12, bert_ffn: int = 3072, dropout: float = 0.1, deformable: bool = True,
                 coarse_offsets: Literal["published", "resized"] = "published", prior: float = 0.01, log_scale: float = 0.0,
                 closed_set_classes: int = 0, checkpointing: bool = False) -> None:
        super().__init__()
        if num_blocks < 1:
            raise ValueError(f"num_blocks must be at least 1, got {num_blocks}")
        self.blocks = nn.ModuleList(
            FusionTowerBlock(channels, text_width, num_blocks=num_blocks, embed_width=embed_width, num_heads=num_heads, bert_heads=bert_heads,
                             bert_ffn=bert_ffn, dropout=dropout, deformable=deformable, coarse_offsets=coarse_offsets)
            for _ in range(num_blocks)
        )
        self.box = nn.Conv2d(channels, 4, 1)
        self.centerness = nn.Conv2d(channels, 1, 1)
        self.level_scale = nn.Parameter(torch.ones(num_levels))
        self.embedding_head = TokenEmbeddingHead(text_width, channels, log_scale=log_scale, prior=prior)
        self.cls_logits = nn.Conv2d(channels, closed_set_classes, 1).requires_grad_(False) if closed_set_classes else None
        self.checkpointing, self.embed_width = checkpointing, embed_width
        for conv in (self.box, self.centerness):
            nn.init.normal_(conv.weight, std=0.01)
            nn.init.zeros_(conv.bias)

    def tower(self, maps: Sequence[Tensor], text_BLD: Tensor, valid_BL: Tensor, together_BLL: Tensor | None = None) -> tuple[list[Tensor], Tensor]:
        """Return the maps and the tokens after all blocks."""
        maps, together = list(maps), valid_BL if together_BLL is None else together_BLL
        for block in self.blocks:
            text_BLD, *maps = block(text_BLD, valid_BL, together, maps, checkpointing=self.checkpointing and self.training)
        return maps, text_BLD

    def _tokens(self, maps: Sequence[Tensor], text_BLD: Tensor, valid_BL: Tensor) -> TokenLogits:
        return self.embedding_head(torch.cat([m.flatten(2) for m in maps], dim=2).transpose(1, 2), text_BLD, valid_BL)

    def match(self, maps: Sequence[Tensor], text_BLD: Tensor, valid_BL: Tensor, together_BLL: Tensor | None = None) -> TokenLogits:
        """Return the token logits alone, on maps of any number of levels: a look at fewer places than `forward` takes."""
        maps, text = self.tower(maps, text_BLD, valid_BL, together_BLL)
        return self._tokens(maps, text, valid_BL)

    def forward(self, maps: Sequence[Tensor], text_BLD: Tensor, valid_BL: Tensor, together_BLL: Tensor | None = None) -> HeadOutputs:
        """Predict from pyramid maps (finest first), the encoder's tokens and which of them are real.

        Maps may be of a smaller batch than the text: text row n meets image n modulo the images, whose projections for
        the first block are then computed once.
        `together_BLL`: the tokens that a token may look at on the text path, where pieces are read apart; None: all.
        """
        if len(maps) != len(self.level_scale):
            raise ValueError(f"the head was built for {len(self.level_scale)} levels, got {len(maps)}")
        if not len(maps[0]) or len(text_BLD) % len(maps[0]):
            raise ValueError(f"texts must be a multiple of the images, got {len(text_BLD)} texts for {len(maps[0])} images")
        maps, text = self.tower(maps, text_BLD, valid_BL, together_BLL)
        delta = torch.cat([(s * self.box(m)).flatten(2) for s, m in zip(self.level_scale, maps)], dim=2).transpose(1, 2)
        centerness = torch.cat([self.centerness(m).flatten(1) for m in maps], dim=1)
        return HeadOutputs(
            tokens=self._tokens(maps, text, valid_BL),
            delta_BQ4=delta, centerness_BQ=centerness, sizes_hw=tuple(tuple(m.shape[-2:]) for m in maps),
        )
