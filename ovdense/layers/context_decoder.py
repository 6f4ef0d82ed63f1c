"""The transformer that lets text look at an image (DenseCLIP's context decoder, arXiv 2112.01518, Sec. 3.2).

B images, K queries (classes, or contexts), N places, C widths as named. Pre-norm; queries are normed before the attention,
the memory once at the entrance. Parameter names are the release's.
"""
from torch import Tensor, nn

from ovdense.layers.attention import attend


class _Attention(nn.Module):
    """Attention without biases of query, key and value; dropout after the output projection."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.proj, self.proj_drop = nn.Linear(width, width), nn.Dropout(dropout)

    def forward(self, query_BKC: Tensor, memory_BNC: Tensor) -> Tensor:
        pairs = ((self.q_proj, query_BKC), (self.k_proj, memory_BNC), (self.v_proj, memory_BNC))
        query, key, value = (p(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for p, x in pairs)
        return self.proj_drop(self.proj(attend(query, key, value).transpose(1, 2).flatten(2)))


class _Layer(nn.Module):
    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.self_attn, self.cross_attn = _Attention(width, heads, dropout), _Attention(width, heads, dropout)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Dropout(dropout), nn.Linear(4 * width, width))

    def forward(self, x_BKC: Tensor, memory_BNC: Tensor) -> Tensor:
        normed = self.norm1(x_BKC)
        x_BKC = x_BKC + self.self_attn(normed, normed)
        x_BKC = x_BKC + self.cross_attn(self.norm2(x_BKC), memory_BNC)
        return x_BKC + self.dropout(self.mlp(self.norm3(x_BKC)))


class ContextDecoder(nn.Module):
    """Queries that read an image: (B, K, query_width) and (B, N, memory_width) -> (B, K, out_width).

    The defaults are the release's for RN50; `query_width` and `out_width` are `memory_width` unless they are given.
    """

    def __init__(self, memory_width: int = 1024, *, width: int = 256, heads: int = 4, num_layers: int = 3, dropout: float = 0.1,
                 query_width: int | None = None, out_width: int | None = None) -> None:
        super().__init__()
        query_width = query_width or memory_width
        self.memory_proj = nn.Sequential(nn.LayerNorm(memory_width), nn.Linear(memory_width, width), nn.LayerNorm(width))
        self.text_proj = nn.Sequential(nn.LayerNorm(query_width), nn.Linear(query_width, width))
        self.decoder = nn.ModuleList(_Layer(width, heads, dropout) for _ in range(num_layers))
        self.out_proj = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, out_width or memory_width))
        self.apply(_initialise)

    def forward(self, query_BKC: Tensor, memory_BNC: Tensor) -> Tensor:
        """Return what the image says to each query. Neither input needs unit length: a norm comes first."""
        memory_BNC, x_BKC = self.memory_proj(memory_BNC), self.text_proj(query_BKC)
        for layer in self.decoder:
            x_BKC = layer(x_BKC, memory_BNC)
        return self.out_proj(x_BKC)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
