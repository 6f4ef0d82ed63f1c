"""Deep fusion: image places and caption tokens attend to each other (GLIP, arXiv 2112.03857, Eq. 4-6)."""
import torch
from torch import Tensor, nn

from ovdense.layers.attention import attend


class BiMultiHeadAttention(nn.Module):
    """Cross attention in both directions over one matrix of similarities (GLIP's MHA-B).

    Places V (B, V, `image_width`), tokens L (B, L, `text_width`), inner width `embed_width`. Computed by fused
    attention, one call a direction. The release clamps the similarities to +-50,000 (a guard for half precision,
    out of reach for finite weights) and subtracts row maxima, which changes nothing: both are left out.
    """

    def __init__(self, image_width: int, text_width: int, *, embed_width: int = 2048, num_heads: int = 8, dropout: float = 0.1) -> None:
        super().__init__()
        if embed_width % num_heads:
            raise ValueError(f"embed_width must be a multiple of num_heads, got {embed_width} and {num_heads}")
        self.num_heads, self.dropout = num_heads, dropout
        self.v_proj = nn.Linear(image_width, embed_width)
        self.l_proj = nn.Linear(text_width, embed_width)
        self.values_v_proj = nn.Linear(image_width, embed_width)
        self.values_l_proj = nn.Linear(text_width, embed_width)
        self.out_v_proj = nn.Linear(embed_width, image_width)
        self.out_l_proj = nn.Linear(embed_width, text_width)
        for linear in self.children():
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def forward(self, image_BVC: Tensor, text_BLD: Tensor, valid_BL: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the places take from the text (B, V, C), and the tokens from the image (B, L, D).

        The image may be of a smaller batch, B / n: its projections are computed once and meet n texts each (text
        n * B / n + i meets image i).
        """
        places, values = self._heads(self.v_proj(image_BVC)), self._heads(self.values_v_proj(image_BVC))
        times = len(text_BLD) // len(image_BVC)
        if times > 1:
            places, values = places.repeat(times, 1, 1, 1), values.repeat(times, 1, 1, 1)
        tokens = self._heads(self.l_proj(text_BLD))
        p = self.dropout if self.training else 0.0
        to_image = attend(places, tokens, self._heads(self.values_l_proj(text_BLD)), valid_BL, dropout=p)
        to_text = attend(tokens, places, values, dropout=p)
        return self.out_v_proj(to_image.transpose(1, 2).flatten(2)), self.out_l_proj(to_text.transpose(1, 2).flatten(2))


class FusionBlock(nn.Module):
    """Pre-norm bidirectional attention with layer scale; the residual adds to the *normed* input, as in the release."""

    def __init__(self, image_width: int, text_width: int, *, embed_width: int = 2048, num_heads: int = 8,
                 dropout: float = 0.1, layer_scale: float = 1 / 6) -> None:
        super().__init__()
        self.layer_norm_v = nn.LayerNorm(image_width)
        self.layer_norm_l = nn.LayerNorm(text_width)
        self.attn = BiMultiHeadAttention(image_width, text_width, embed_width=embed_width, num_heads=num_heads, dropout=dropout)
        self.gamma_v = nn.Parameter(torch.full((image_width,), layer_scale))
        self.gamma_l = nn.Parameter(torch.full((text_width,), layer_scale))

    def forward(self, maps: list[Tensor], text_BLD: Tensor, valid_BL: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return the fused maps (each B, C, H, W) and the fused tokens; maps may be of a smaller batch than the text, see above."""
        sizes = [m.shape[-2:] for m in maps]
        image = self.layer_norm_v(torch.cat([m.flatten(2) for m in maps], dim=2).transpose(1, 2))
        text = self.layer_norm_l(text_BLD)
        from_text, from_image = self.attn(image, text, valid_BL)
        image = image.repeat(len(text) // len(image), 1, 1) if len(text) > len(image) else image
        image, text = image + self.gamma_v * from_text, text + self.gamma_l * from_image
        parts = image.transpose(1, 2).split([h * w for h, w in sizes], dim=2)
        return [p.unflatten(2, tuple(s)) for p, s in zip(parts, sizes)], text
