"""Prompt, then detect: a fixed vocabulary's text features are folded into a file, so that a deployment needs no language model.

`fold` writes what the head needs of the text (one EncodedChunk a caption) beside the weights; `unfold` makes a model
of them that predicts the same and cannot be asked anything else.
"""
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from mmengine.registry import build_from_cfg
from torch import Tensor, nn

from ovdense.methods.desco.chunks import EncodedChunk
from ovdense.methods.desco.model import Desco
from ovdense.registry import MODELS
from ovdense.structures import ClassEntry, TokenizedText, Vocabulary

FORMAT = "ovdense folded vocabulary 1"
_TEXT = "text_encoder."


@MODELS.register_module()
class FoldedTextEncoder(nn.Module):
    """Stand in for the language model of a folded model: it has no weights, and says so when it is asked."""

    def __init__(self, *, width: int) -> None:
        super().__init__()
        self.width = width

    @property
    def tokenizer(self) -> Any:
        raise ValueError("this model was folded for one vocabulary and has no language model; for other classes load the whole model's checkpoint")

    def encode(self, tokenized: TokenizedText) -> Tensor:
        return self.tokenizer


def fold(model: Desco) -> dict[str, Any]:
    """Return the model for the vocabulary that was set, without its language model: tensors and plain values, for a file."""
    if model.vocabulary is None:
        raise ValueError("the vocabulary to fold must be known first; call set_vocabulary(vocabulary)")
    if model.asked is not None:
        raise ValueError("a model that was asked by captions cannot be folded; call set_vocabulary(vocabulary) first")
    chunks = [{f.name: None if (part := getattr(chunk, f.name)) is None else part.cpu() for f in fields(chunk)} for chunk in model.text()]
    entries = [{k: list(v) if isinstance(v, tuple) else v for k, v in asdict(entry).items()} for entry in model.vocabulary]
    weights = {n: t.cpu() for n, t in model.state_dict().items() if not n.startswith(_TEXT)}
    return {"format": FORMAT, "text_width": model.text_encoder.width, "prompt": model.prompt, "vocabulary": entries, "chunks": chunks, "state_dict": weights}


def unfold(model_cfg: Mapping[str, Any], folded: Mapping[str, Any], origin: str = "the file") -> Desco:
    """Return the model of a config's `model` with the weights and the vocabulary of `fold`; ValueError for what `fold` did not write."""
    if folded.get("format") != FORMAT:
        raise ValueError(f"{origin} must be a folded model ({FORMAT!r}), got {folded.get('format')!r}; tools/fold_vocabulary.py writes them")
    model = build_from_cfg({**model_cfg, "text_encoder": {"type": FoldedTextEncoder, "width": int(folded["text_width"])}}, MODELS)
    own, given = model.state_dict(), folded["state_dict"]
    wrong = sorted(set(own) ^ set(given)) + [n for n in own if n in given and own[n].shape != given[n].shape]
    if wrong:
        raise ValueError(
            f"{origin} does not fit the config's model: {len(wrong)} tensors differ, such as {', '.join(wrong[:3])}; give the config that it was folded with"
        )
    model.load_state_dict(given)
    entries = [ClassEntry(**{k: tuple(v) if isinstance(v, list) else v for k, v in entry.items()}) for entry in folded["vocabulary"]]
    _check_chunks(folded["chunks"], [k for k, entry in enumerate(entries) if not entry.is_background], model.text_encoder.width, origin)
    model.set_encoded(Vocabulary(tuple(entries)), folded["prompt"], [EncodedChunk(**chunk) for chunk in folded["chunks"]])
    return model.eval()


def _check_chunks(chunks: Sequence[Mapping[str, Any]], classes: list[int], width: int, origin: str) -> None:
    found = sorted(k for c in chunks for k in c["classes"].tolist())
    if found != classes or any(c["hidden_LD"].shape[1] != width for c in chunks):
        raise ValueError(f"{origin}: the chunks must hold each of the {len(classes)} classes once, with features of width {width}; fold it anew")
