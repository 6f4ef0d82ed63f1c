"""CLIP's text tower with learned contexts before the names (CoOp, arXiv 2109.01134; DenseCLIP, arXiv 2112.01518, Sec. 3.2).

A sequence is [start, contexts, name, end]. The tower is causal, so the states of start and contexts are the same for every
name: they are computed once, and only the names' own tokens once a name. B sets of contexts, K names, N contexts, L tokens.
"""
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovdense.compat.weights import load_checked, read_state_dict
from ovdense.registry import MODELS
from ovdense.structures import TokenizedText
from ovdense.text.clip_tokenizer import OpenClipTokenizer
from ovdense.text.encoders import ClipTextTower


@MODELS.register_module()
class ClipContextEncoder(ClipTextTower):
    """OpenAI CLIP's text tower, open_clip's with QuickGELU, for names with and without contexts.

    `embed_width`: width of the text's space (RN50 1024, RN101 and ViT-B/16 512). `context_length`: rows of the table of
    positions, 77 as CLIP's; released DenseCLIP checkpoints have 13, for contexts and five tokens. A sequence is as long
    as its longest name needs; positions are the table's first rows. `weights`: OpenAI's file or a state dict with its
    names, a longer table is cut; None: random. Frozen, it has no gradients of its own, but the contexts get theirs
    through it.
    """

    def __init__(self, *, embed_width: int = 1024, width: int = 512, heads: int = 8, layers: int = 12, context_length: int = 77,
                 weights: str | Path | None = None, frozen: bool = True) -> None:
        super().__init__(frozen=frozen)
        from open_clip.transformer import QuickGELU, TextTransformer

        self.model_name = "RN50-quickgelu"
        self.tokenizer = OpenClipTokenizer(self.model_name)
        self.text = TextTransformer(context_length, width=width, heads=heads, layers=layers, output_dim=embed_width, act_layer=QuickGELU)
        self.width, self.embed_width, self.max_tokens = width, embed_width, context_length
        if weights is not None:
            load_clip_text(self.text, weights)
        self._settle()

    def tokenize(self, names: Sequence[str], num_contexts: int) -> TokenizedText:
        """Return the names as tokens, start and end included; ValueError names one that leaves no room for the contexts."""
        room = self.max_tokens - num_contexts
        try:
            return self.tokenizer.encode(names, max_tokens=room)
        except ValueError as error:
            raise ValueError(
                f"{error}; this tower has {self.max_tokens} positions, of which {num_contexts} are the contexts'. "
                "Build it with context_length=77 and CLIP's own table (tools/convert_weights.py --clip adds it to a released checkpoint)"
            ) from None

    def encode_names(self, tokenized: TokenizedText, contexts_BND: Tensor) -> Tensor:
        """Return (B, K, C), not of unit length: the projected end of [start, contexts, name, end] for every set and name.

        `contexts_BND` has token width. Equals the published (B * K, N + L) batch; what it costs grows with the names' own
        tokens only.
        """
        tokenized = tokenized.to(contexts_BND.device)
        num_sets, num_contexts, length = len(contexts_BND), contexts_BND.shape[1], tokenized.ids_BL.shape[1]
        position = self.text.positional_embedding[: num_contexts + length]
        token_KLD = self.text.token_embedding(tokenized.ids_BL)
        start = token_KLD[:1, :1].expand(num_sets, -1, -1)  # every name has the same start
        shared = torch.cat([start, contexts_BND.to(start.dtype)], 1) + position[: num_contexts + 1]
        own = (token_KLD[:, 1:] + position[num_contexts + 1 :]).expand(num_sets, -1, -1, -1)
        for block in self.text.transformer.resblocks:
            shared, own = _causal_block(block, shared, own)
        end_K = tokenized.valid_BL.sum(1) - 2  # in `own`, which lacks the start
        last_BKD = own[:, torch.arange(len(end_K), device=end_K.device), end_K]
        return self.text.ln_final(last_BKD) @ self.text.text_projection

    def settings(self) -> dict[str, Any]:
        return super().settings() | {"embed_width": self.embed_width}


def _causal_block(block: nn.Module, shared_BPD: Tensor, own_BKLD: Tensor) -> tuple[Tensor, Tensor]:
    """Return an open_clip block's output for a shared beginning and K endings, causal: endings see the beginning and themselves."""
    heads = block.attn.num_heads

    def projected(x: Tensor) -> tuple[Tensor, ...]:
        qkv = F.linear(block.ln_1(x), block.attn.in_proj_weight, block.attn.in_proj_bias)
        return tuple(t.unflatten(-1, (heads, -1)).transpose(-2, -3) for t in qkv.chunk(3, -1))

    def joined(x: Tensor, mixed: Tensor) -> Tensor:
        x = x + block.attn.out_proj(mixed.transpose(-2, -3).flatten(-2))
        return x + block.mlp(block.ln_2(x))

    query, key, value = projected(shared_BPD)
    out_shared = joined(shared_BPD, F.scaled_dot_product_attention(query, key, value, is_causal=True))
    own_query, own_key, own_value = projected(own_BKLD)
    before = (-1, own_BKLD.shape[1], -1, -1, -1)
    keys = torch.cat([key[:, None].expand(before), own_key], -2)
    values = torch.cat([value[:, None].expand(before), own_value], -2)
    length = own_BKLD.shape[2]
    visible_LS = torch.ones(length, keys.shape[-2], dtype=torch.bool, device=keys.device).tril(keys.shape[-2] - length)
    mixed = F.scaled_dot_product_attention(own_query, keys, values, attn_mask=visible_LS)
    return out_shared, joined(own_BKLD, mixed)


def clip_text_state(state: Mapping[str, Tensor], text: nn.Module) -> dict[str, Tensor]:
    """Return the text tower's part of CLIP's weights, float32; a table of positions that is longer than the one of `text` is cut."""
    wanted = text.state_dict()
    found = {name: value.float() for name, value in state.items() if name in wanted}
    table = "positional_embedding"
    if table in found and len(found[table]) > len(wanted[table]):
        found[table] = found[table][: len(wanted[table])]
    return found


def load_clip_text(text: nn.Module, weights: str | Path) -> None:
    """Load OpenAI's weights (their TorchScript archive, or a state dict of the whole model or of the text tower) into an open_clip text tower."""
    load_checked(text, clip_text_state(read_state_dict(weights), text), str(weights))
