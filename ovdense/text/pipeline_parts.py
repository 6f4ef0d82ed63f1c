"""Tokenizer and text encoder in the form that diffusers' pipelines take them: transformers' own classes."""
from typing import Any

from ovdense.text.encoders import _quiet_transformers
from ovdense.text.tokenizers import embedded_folder


def embedded_pipeline_text(num_layers: int = 0, max_tokens: int = 20) -> tuple[Any, Any]:
    """Return (tokenizer, text encoder) of the embedded MiniLM for a diffusion pipeline, cut after its first `num_layers` of 6 layers.

    With 0 layers a token's vector depends on the token and its place alone, so that cross-attention has to look at the words
    that say what is to be drawn. Captions are padded to `max_tokens`.
    """
    from transformers import BertModel, BertTokenizerFast

    if not 0 <= num_layers <= 6:
        raise ValueError(f"num_layers must lie in 0..6, got {num_layers}")
    folder = embedded_folder()
    tokenizer = BertTokenizerFast.from_pretrained(str(folder), local_files_only=True, model_max_length=max_tokens)
    tokenizer.model_max_length = max_tokens
    with _quiet_transformers():
        # with its pooler, unused: a pipeline's loader would else make up a new one each time
        encoder = BertModel.from_pretrained(str(folder), local_files_only=True).eval().requires_grad_(False)
    encoder.encoder.layer = encoder.encoder.layer[:num_layers]
    encoder.config.num_hidden_layers = num_layers
    encoder.config.use_attention_mask = True  # pipelines pass the mask of padding only where the config says so
    return tokenizer, encoder
