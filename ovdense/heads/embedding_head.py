"""The text-embedding head: the only owner of projection, normalisation, temperature and bias."""
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovdense.heads.similarity import pool_rows, row_logits, token_logits
from ovdense.structures import ClassBank, ScoreMaps, TokenLogits


class TokenEmbeddingHead(nn.Module):
    """Compare places with the tokens of a caption (GLIP's dot-product head, arXiv 2112.03857, Eq. 3).

    Tokens are normalised, halved, projected to the places' width; logit = place . token / exp(`log_scale`) + bias of
    the token. Places are not normalised. `prior` is the score that every token starts with (focal loss).
    """

    def __init__(self, text_width: int, place_width: int, *, log_scale: float = 0.0, prior: float = 0.01) -> None:
        super().__init__()
        self.text_projection = nn.Linear(text_width, place_width)
        self.log_scale = nn.Parameter(torch.tensor([float(log_scale)]))
        self.bias_lang = nn.Parameter(torch.zeros(text_width))
        self.bias0 = nn.Parameter(torch.tensor([-math.log((1 - prior) / prior)]))

    def forward(self, place_BQC: Tensor, text_BLD: Tensor, valid_BL: Tensor) -> TokenLogits:
        text = F.normalize(text_BLD, dim=-1)
        bias_BL = text @ self.bias_lang + self.bias0
        logit = token_logits(place_BQC, self.text_projection(text / 2), bias_BL, self.log_scale.exp())
        return TokenLogits(logit_BQL=logit, valid_BL=valid_BL, activation="sigmoid")


class RowEmbeddingHead(nn.Module):
    """Compare pixels with the rows of a `ClassBank` and pool the rows of each class.

    `temperature` divides cosines (CLIP's 0.01, DenseCLIP's 0.07); `in_width` adds a 1x1 projection to the rows' width.
    """

    def __init__(self, *, in_width: int | None = None, row_width: int | None = None, temperature: float = 0.07, learn_temperature: bool = True,
                 pool: str = "max", activation: str = "softmax") -> None:
        super().__init__()
        if (in_width is None) != (row_width is None):
            raise ValueError("in_width and row_width must be given together, or neither")
        if temperature <= 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        self.projection = nn.Conv2d(in_width, row_width, 1) if in_width else None
        self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature)), requires_grad=learn_temperature)
        self.pool, self.activation = pool, activation

    def forward(self, feat_BCHW: Tensor, bank: ClassBank | Tensor) -> ScoreMaps:
        """Return logits of every class at every pixel.

        Instead of a bank, (B, K, D) vectors: one row a class of each image's own, of any length (text that the image has changed).
        """
        feat = feat_BCHW if self.projection is None else self.projection(feat_BCHW)
        width = bank.shape[2] if isinstance(bank, Tensor) else bank.rows_MD.shape[1]
        if feat.shape[1] != width:
            raise ValueError(f"features of width {feat.shape[1]} cannot be compared with rows of width {width}; give in_width and row_width")
        if isinstance(bank, Tensor):
            cosine = torch.einsum("bdhw,bkd->bkhw", F.normalize(feat, dim=1), F.normalize(bank, dim=2).to(feat))
            return ScoreMaps(logit_BKHW=cosine / self.log_temperature.exp(), activation=self.activation)
        unit = F.normalize(feat, dim=1).permute(0, 2, 3, 1)
        logit = pool_rows(row_logits(unit, bank, self.log_temperature.exp()), bank, self.pool)
        return ScoreMaps(logit_BKHW=logit.permute(0, 3, 1, 2), activation=self.activation)


class AlignmentHead(nn.Module):
    """Compare places with tokens by cosine over a temperature (MDETR's contrastive alignment, arXiv 2104.12763, Sec. 3.2).

    Places (..., Q, `place_width`) and tokens (..., L, `text_width`) are projected to `width` and normalised.
    """

    def __init__(self, place_width: int, text_width: int, *, width: int = 64, temperature: float = 0.07) -> None:
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        self.place_projection = nn.Linear(place_width, width)
        self.text_projection = nn.Linear(text_width, width)
        self.temperature = temperature

    def unit_places(self, place: Tensor) -> Tensor:
        return F.normalize(self.place_projection(place), dim=-1)

    def unit_tokens(self, text: Tensor) -> Tensor:
        return F.normalize(self.text_projection(text), dim=-1)

    def forward(self, place: Tensor, text: Tensor) -> Tensor:
        """Return logits (..., Q, L)."""
        return self.unit_places(place) @ self.unit_tokens(text).transpose(-1, -2) / self.temperature


class SoftTokenHead(nn.Module):
    """Say which tokens of the caption a place speaks of, as logits over `columns`: the token's position, the last one "no object".

    MDETR's soft token prediction (arXiv 2104.12763, Sec. 3.2). With `alignment`, a token's logit is the alignment head's instead of
    one learned for its position: positions need not be learned, which a short training has no time for. Differs from the paper there.
    """

    NOTHING = -1e4  # the logit of a column that holds no token

    def __init__(self, place_width: int, *, columns: int = 256, alignment: AlignmentHead | None = None) -> None:
        super().__init__()
        self.columns, self.aligned = columns, alignment is not None
        self.project = nn.Linear(place_width, 1 if self.aligned else columns)

    def forward(self, place: Tensor, align: Tensor | None, valid_BL: Tensor) -> Tensor:
        """Return (..., B, Q, columns); `align` (..., B, Q, L) are the alignment head's logits, needed with `alignment`."""
        logit = self.project(place)
        if not self.aligned:
            return logit
        align = align.masked_fill(~valid_BL[:, None], self.NOTHING)
        room = self.columns - 1 - align.shape[-1]
        return torch.cat([F.pad(align, (0, room), value=self.NOTHING), logit], dim=-1)
