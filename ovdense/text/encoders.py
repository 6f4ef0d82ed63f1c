"""Text encoders: captions to hidden states per token, sentences to unit rows. They know no scale and no classes.

`encode` gives the last layer for token detectors, `embed` pooled unit rows for embedding heads. transformers and
open_clip are imported when an encoder is made. B captions, L tokens, D width, T templates.
"""
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ovdense.compat.hub import hub_access
from ovdense.compat.open_clip_towers import open_clip_tower
from ovdense.registry import MODELS
from ovdense.structures import TokenizedText
from ovdense.text.clip_tokenizer import OpenClipTokenizer
from ovdense.text.encoder_base import TextEncoder
from ovdense.text.tokenizers import Tokenizer, embedded_folder, embedded_tokenizer


class _TransformersEncoder(TextEncoder):
    """A BERT-like encoder of transformers under the name `model`, mean-pooled for sentences."""

    model: nn.Module

    def hidden(self, tokenized: TokenizedText) -> Tensor:
        # transformers 5 takes two-dimensional masks only
        return self.model(input_ids=tokenized.ids_BL, attention_mask=tokenized.valid_BL.long()).last_hidden_state

    def pool(self, tokenized: TokenizedText) -> Tensor:
        weight_BL1 = tokenized.valid_BL.unsqueeze(-1).float()
        return (self.hidden(tokenized).float() * weight_BL1).sum(1) / weight_BL1.sum(1)

    def settings(self) -> dict[str, Any]:
        config = self.model.config
        keys = ("model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act",
                "layer_norm_eps", "vocab_size", "max_position_embeddings")
        return {"encoder": type(self).__name__, "pool": "mean", **{key: getattr(config, key) for key in keys}}

    def _check_tokenizer(self) -> None:
        if self.tokenizer.vocab_size > self.model.config.vocab_size:
            raise ValueError(
                f"the tokenizer must fit the encoder: it has {self.tokenizer.vocab_size} tokens, the encoder "
                f"{self.model.config.vocab_size}; give the tokenizer that the weights were trained with"
            )


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Hold back transformers' progress bar and load report; what matters of the report is judged by the caller."""
    from transformers.utils import logging

    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()


def _from_pretrained(model_class: type, source: str | Path) -> nn.Module:
    """Return the transformers model of a local folder or hub name, without its pooler; weights as data (safetensors or plain tensors)."""
    local = Path(source).is_dir()
    with _quiet_transformers(), hub_access(source, "model.text_encoder.weights=/FOLDER"):
        model, report = model_class.from_pretrained(
            str(source), add_pooling_layer=False, local_files_only=local, output_loading_info=True
        )
    missing = sorted(report["missing_keys"])
    left = sorted(key for key in report["unexpected_keys"] if key.split(".")[0] not in ("pooler", "cls", "lm_head"))
    if left:
        warnings.warn(f"{len(left)} tensors of {source} have no place in {model_class.__name__} and are left out: {left[:5]}", stacklevel=3)
    if missing:
        raise ValueError(
            f"the weights of {source} must hold every parameter of "
            f"{model_class.__name__}, but {len(missing)} are missing: {missing[:5]}"
        )
    return model


@MODELS.register_module()
class BertTextEncoder(_TransformersEncoder):
    """BERT: per token the last layer, per sentence the mean over tokens.

    `weights`: 'embedded' (MiniLM, 384 wide, 6 layers, comes with pip), a local folder, a hub name, or None for random ones
    of `config` (a dict over transformers' BertConfig; empty = bert-base-uncased's sizes). Word pieces are those of the
    folder, for 'embedded' and None bert-base-uncased's embedded ones; `tokenizer` overrides. Parameters live under `model.`.
    """

    def __init__(
        self,
        *,
        weights: str | None = "embedded",
        config: Mapping[str, Any] | None = None,
        tokenizer: Tokenizer | None = None,
        frozen: bool = True,
    ) -> None:
        super().__init__(frozen=frozen)
        from transformers import BertConfig, BertModel

        if weights is not None and config is not None:
            raise ValueError(f"config is for random weights only (weights=None), got weights={weights!r} as well; drop one")
        if weights is None:
            self.model = BertModel(BertConfig(**(config or {})), add_pooling_layer=False)
        else:
            self.model = _from_pretrained(BertModel, embedded_folder() if weights == "embedded" else weights)
        self.tokenizer = tokenizer or (embedded_tokenizer() if weights in (None, "embedded") else Tokenizer.from_pretrained(weights))
        self.width = self.model.config.hidden_size
        self.max_tokens = self.model.config.max_position_embeddings
        self._check_tokenizer()
        self._settle()


@MODELS.register_module()
class RobertaTextEncoder(_TransformersEncoder):
    """RoBERTa: per token the last layer, per sentence the mean over tokens.

    `weights`: a local folder, a hub name, or None for random ones of `config` (a dict over transformers' RobertaConfig;
    empty = its defaults), which needs a `tokenizer`: the embedded word pieces do not fit. Parameters live under `model.`.
    """

    def __init__(
        self,
        *,
        weights: str | None,
        config: Mapping[str, Any] | None = None,
        tokenizer: Tokenizer | None = None,
        frozen: bool = True,
    ) -> None:
        super().__init__(frozen=frozen)
        from transformers import RobertaConfig, RobertaModel

        if weights is not None and config is not None:
            raise ValueError(f"config is for random weights only (weights=None), got weights={weights!r} as well; drop one")
        if weights is None and tokenizer is None:
            raise ValueError("random weights (weights=None) need a tokenizer, got none; give tokenizer=Tokenizer.from_pretrained(folder)")
        if weights is None:
            self.model = RobertaModel(RobertaConfig(**(config or {})), add_pooling_layer=False)
        else:
            self.model = _from_pretrained(RobertaModel, weights)
        self.tokenizer = tokenizer or Tokenizer.from_pretrained(weights)
        self.width = self.model.config.hidden_size
        padding = self.model.config.pad_token_id
        if self.tokenizer.pad_id != padding:
            raise ValueError(
                f"RoBERTa counts positions from its padding token {padding}, but the tokenizer pads "
                f"with {self.tokenizer.pad_id}; give a tokenizer that fits"
            )
        self.max_tokens = self.model.config.max_position_embeddings - padding - 1  # positions start after the padding's
        self._check_tokenizer()
        self._settle()


class ClipTextTower(TextEncoder):
    """What open_clip's causal text towers share; the tower is `text`, under open_clip's names."""

    model_name: str
    text: nn.Module

    def hidden(self, tokenized: TokenizedText) -> Tensor:
        length = tokenized.ids_BL.shape[1]
        # the tower itself only takes captions padded to 77; causal attention allows to stop at the longest one
        dtype = self.text.transformer.get_cast_dtype()
        hidden_BLD = self.text.token_embedding(tokenized.ids_BL).to(dtype) + self.text.positional_embedding[:length].to(dtype)
        return self.text.ln_final(self.text.transformer(hidden_BLD, attn_mask=self.text.attn_mask[:length, :length]))

    def pool(self, tokenized: TokenizedText) -> Tensor:
        hidden_BLD = self.hidden(tokenized)
        end_B = tokenized.valid_BL.sum(1) - 1
        pooled_BD = hidden_BLD[torch.arange(len(end_B), device=end_B.device), end_B]
        projection = self.text.text_projection
        if projection is None:
            return pooled_BD
        return projection(pooled_BD) if isinstance(projection, nn.Linear) else pooled_BD @ projection

    def settings(self) -> dict[str, Any]:
        text = self.text
        activation = type(text.transformer.resblocks[0].mlp.gelu).__name__
        return {
            "encoder": type(self).__name__, "model": self.model_name, "width": text.width, "heads": text.heads,
            "layers": text.transformer.layers, "context_length": text.context_length, "activation": activation,
        }


@MODELS.register_module()
class OpenClipTextEncoder(ClipTextTower):
    """CLIP's text tower from open_clip: `encode` gives ln_final's output per token, `embed` the projected end of text.

    `pretrained`: a local file of weights (OpenAI's archives too), one of open_clip's tags, or None for random ones. Towers with a causal mask and
    the end-of-text pooling of OpenAI's CLIP; others are a ValueError. Parameters live under `text.`, as open_clip names them.
    """

    def __init__(self, *, model_name: str = "ViT-B-32", pretrained: str | None = None, frozen: bool = True) -> None:
        super().__init__(frozen=frozen)
        text = open_clip_tower("text", model_name, pretrained)
        self.model_name, self.tokenizer = model_name, OpenClipTokenizer(model_name)
        if getattr(text, "attn_mask", None) is None or getattr(text, "cls_emb", None) is not None or text.pool_type != "argmax":
            raise ValueError(
                "the text tower must be causal and pool at the end of text (OpenAI's CLIP), "
                f"{model_name!r} does not; choose for example 'ViT-B-32'"
            )
        self.text = text
        self.width = text.width
        self.max_tokens = text.context_length
        self._settle()
