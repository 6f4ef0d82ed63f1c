"""Pixel-text matching with context-aware prompting (DenseCLIP, arXiv 2112.01518, Sec. 3.1 and 3.2).

The words become one vector a class, the image changes them, every place is compared with them. B images, K classes,
S sentences, N contexts, C width of the text's space, D token width, h w the map of local vectors.
"""
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovdense.layers.context_decoder import ContextDecoder
from ovdense.structures import TokenizedText, Vocabulary
from ovdense.text.prompts import find_templates
from ovdense.vision.dense_features import DenseFeatures

Prompting = Literal["post", "pre", "none"]


@dataclass(frozen=True, kw_only=True)
class ClassText:
    """A vocabulary's text: `rows_1KC` (not of unit length), or with pre-model prompting `tokens`, which wait for the image.

    `class_of_sentence_S` where a class has several sentences; `background_K` True for background classes.
    """

    rows_1KC: Tensor | None
    tokens: TokenizedText | None
    class_of_sentence_S: Tensor
    background_K: Tensor

    def to(self, device: torch.device) -> "ClassText":
        """Return it with its tensors on `device`."""
        return ClassText(
            rows_1KC=None if self.rows_1KC is None else self.rows_1KC.to(device), tokens=None if self.tokens is None else self.tokens.to(device),
            class_of_sentence_S=self.class_of_sentence_S.to(device), background_K=self.background_K.to(device),
        )


@dataclass(frozen=True, kw_only=True)
class PixelScores:
    """Cosines `score_BKHW` of every place with every class, and the classes' vectors `text_BKC` that they were compared with.

    `text_BKC` is not of unit length. `stride` is the map's; `tau` the temperature that belongs to the cosines.
    """

    score_BKHW: Tensor
    text_BKC: Tensor
    background_K: Tensor
    stride: int
    tau: float


def sentences_of(vocabulary: Vocabulary, prompt: str, *, synonyms: bool = False) -> tuple[list[str], list[int]]:
    """Return what is said for each class, and the class of each sentence.

    "names": the noun, and with `synonyms` those too; "descriptions": "noun, description" for each description, the noun where there is none; "texts": the
    names as they are written.
    """
    said: list[tuple[str, int]] = []
    for k, entry in enumerate(vocabulary):
        if prompt == "descriptions" and entry.descriptions:
            said += [(f"{entry.noun}, {description}", k) for description in entry.descriptions]
        else:
            words = (entry.noun, *entry.synonyms) if synonyms and prompt == "names" else (entry.noun,)
            said += [(word, k) for word in ((entry.name,) if prompt == "texts" else dict.fromkeys(words))]
    return [s for s, _ in said], [k for _, k in said]


class PixelText(nn.Module):
    """Learned contexts, the context decoder and the comparison; the text encoder is the model's and is given to each call.

    `prompting`: "post" changes the encoded classes by gamma * decoder(classes, image) (the release's way, Eq. 5); "pre" makes
    the contexts from the image by learned queries, so that text is encoded for each image (Eq. 4; not in the release);
    "none" leaves the text as it is. `num_contexts` 0: no contexts, which any encoder with `embed` serves (sentences are then
    averaged over `templates`, for names). `synonyms`: a class is the mean of its name and synonyms. `learn_background`:
    background classes share a learned vector instead of their name's, since "background" says nothing. `embed_width`: width C;
    `token_width`: width D of the contexts. `decoder`: arguments of `ContextDecoder`.
    """

    def __init__(self, embed_width: int, *, token_width: int | None = None, prompting: Prompting = "post", num_contexts: int = 8, tau: float = 0.07,
                 templates: str | Sequence[str] = "plain", synonyms: bool = False, learn_background: bool = False,
                 decoder: dict | None = None) -> None:
        super().__init__()
        if prompting not in ("post", "pre", "none"):
            raise ValueError(f'prompting must be "post", "pre" or "none", got {prompting!r}')
        if num_contexts and token_width is None or prompting == "pre" and not num_contexts:
            raise ValueError(f"contexts need a text encoder that takes them (ClipContextEncoder), got num_contexts={num_contexts} and prompting={prompting!r}")
        self.prompting, self.num_contexts, self.tau, self.synonyms = prompting, num_contexts, tau, synonyms
        self.templates = find_templates(templates) if isinstance(templates, str) else tuple(templates)
        if num_contexts:
            # std 1 as released (CoOp has 0.02); with pre-model prompting these are the decoder's queries
            self.contexts = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, num_contexts, token_width)))
        if prompting != "none":
            widths = dict(query_width=token_width, out_width=token_width) if prompting == "pre" else {}
            self.context_decoder = ContextDecoder(embed_width, **widths, **(decoder or {}))
        if learn_background:
            self.background_C = nn.Parameter(nn.init.normal_(torch.empty(embed_width), std=embed_width**-0.5))
        if prompting == "post":
            self.gamma = nn.Parameter(torch.full((embed_width,), 1e-4))

    def encode(self, encoder: nn.Module, vocabulary: Vocabulary, prompt: str = "names") -> ClassText:
        """Return the vocabulary's text, with gradients of the contexts where grad mode is on."""
        sentences, owner = sentences_of(vocabulary, prompt, synonyms=self.synonyms)
        rows = tokens = None
        if self.num_contexts:
            tokens = encoder.tokenize(sentences, self.num_contexts)
            if self.prompting != "pre":
                rows, tokens = encoder.encode_names(tokens, self.contexts), None
        else:
            rows = encoder.embed(sentences, self.templates if prompt == "names" else ("{}",))[None]
        device = self._device(encoder)
        owner_S = torch.tensor(owner, device=device)
        background_K = torch.tensor([entry.is_background for entry in vocabulary], device=device)
        if rows is not None:
            rows = mean_per_class(rows.to(device), owner_S, len(vocabulary))
        return ClassText(rows_1KC=rows, tokens=tokens, class_of_sentence_S=owner_S, background_K=background_K)

    def learns(self) -> bool:
        """Return whether the text of a vocabulary changes while training."""
        return bool(self.num_contexts)

    def forward(self, encoder: nn.Module, dense: DenseFeatures, text: ClassText) -> PixelScores:
        """Return the cosines of the local vectors with the classes, as the image has changed them."""
        local_BCHW = dense.local.tensor_BCHW
        text_BKC = self._seen(encoder, dense, text)
        score = torch.einsum("bchw,bkc->bkhw", F.normalize(local_BCHW, dim=1), F.normalize(text_BKC, dim=2))
        return PixelScores(score_BKHW=score, text_BKC=text_BKC, background_K=text.background_K, stride=dense.local.stride, tau=self.tau)

    def _seen(self, encoder: nn.Module, dense: DenseFeatures, text: ClassText) -> Tensor:
        batch = len(dense.global_BC)
        if self.prompting == "none":
            return self._with_background(text.rows_1KC, text).expand(batch, -1, -1)
        memory_BNC = torch.cat([dense.global_BC[:, None], dense.local.tensor_BCHW.flatten(2).transpose(1, 2)], 1)
        if self.prompting == "pre":
            contexts_BND = self.context_decoder(self.contexts.expand(batch, -1, -1), memory_BNC)
            rows_BKC = mean_per_class(encoder.encode_names(text.tokens, contexts_BND), text.class_of_sentence_S, len(text.background_K))
            return self._with_background(rows_BKC, text)
        rows_BKC = self._with_background(text.rows_1KC, text).expand(batch, -1, -1)
        return rows_BKC + self.gamma * self.context_decoder(rows_BKC, memory_BNC)

    def _with_background(self, rows_BKC: Tensor, text: ClassText) -> Tensor:
        return torch.where(text.background_K[:, None], self.background_C, rows_BKC) if hasattr(self, "background_C") else rows_BKC

    def _device(self, encoder: nn.Module) -> torch.device:
        return next((p.device for module in (self, encoder) for p in (*module.parameters(), *module.buffers())), torch.device("cpu"))


def mean_per_class(rows_BSC: Tensor, class_of_sentence_S: Tensor, num_classes: int) -> Tensor:
    """Return (B, K, C): the mean of each class's sentences; one sentence a class stays as it is."""
    if rows_BSC.shape[1] == num_classes:
        return rows_BSC
    count_K = torch.bincount(class_of_sentence_S, minlength=num_classes)
    total = rows_BSC.new_zeros(len(rows_BSC), num_classes, rows_BSC.shape[2]).index_add(1, class_of_sentence_S, rows_BSC)
    return total / count_K[:, None].to(total)
