"""One BERT encoder layer (arXiv 1810.04805), post-norm, with BERT's parameter names, for the text path of fusion heads."""
from torch import Tensor, nn
from torch.nn import functional as F

from ovdense.layers.attention import attend


class _Output(nn.Module):
    def __init__(self, in_width: int, width: int, dropout: float, eps: float) -> None:
        super().__init__()
        self.dense = nn.Linear(in_width, width)
        self.LayerNorm = nn.LayerNorm(width, eps=eps)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return self.LayerNorm(self.dropout(self.dense(x)) + residual)


class BertLayer(nn.Module):
    """Self-attention over valid tokens, then a GELU feed-forward; (B, L, D) -> (B, L, D)."""

    def __init__(self, width: int, *, num_heads: int = 12, ffn_width: int = 3072, dropout: float = 0.1, eps: float = 1e-12) -> None:
        super().__init__()
        if width % num_heads:
            raise ValueError(f"width must be a multiple of num_heads, got {width} and {num_heads}")
        self.num_heads, self.dropout = num_heads, dropout
        self.attention = nn.ModuleDict({
            "self": nn.ModuleDict({name: nn.Linear(width, width) for name in ("query", "key", "value")}),
            "output": _Output(width, width, dropout, eps),
        })
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, ffn_width)})
        self.output = _Output(ffn_width, width, dropout, eps)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, hidden_BLD: Tensor, valid: Tensor) -> Tensor:
        """Return the updated tokens; `valid` bool, (B, L) or (B, L, L): True where a token (of a row) may be looked at."""
        project = self.attention["self"]
        query, key, value = (project[n](hidden_BLD).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for n in ("query", "key", "value"))
        mixed = attend(query, key, value, valid, dropout=self.dropout if self.training else 0.0)
        hidden = self.attention["output"](mixed.transpose(1, 2).flatten(2), hidden_BLD)
        return self.output(F.gelu(self.intermediate["dense"](hidden)), hidden)
