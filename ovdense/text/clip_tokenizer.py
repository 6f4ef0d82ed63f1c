"""open_clip's byte-pair tokens with character spans, in the form of `tokenizers.Tokenizer`.

open_clip cleans a text (entities, blanks, case) before it is cut; spans are brought back to the caption as it was given.
"""
import hashlib
import re
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from unicodedata import normalize

from ovdense.structures import TokenizedText
from ovdense.text.tokenizers import Overflow, Pad, Span, assemble, check_request, overflow_error


class OpenClipTokenizer:
    """The tokenizer of an open_clip model with OpenAI's byte-pair vocabulary; special tokens are start and end of text."""

    pad_id = 0
    num_special = 2

    def __init__(self, model_name: str) -> None:
        import open_clip

        backend = open_clip.get_tokenizer(model_name)
        if not isinstance(backend, open_clip.SimpleTokenizer):
            raise ValueError(
                f"the model must use OpenAI's byte-pair vocabulary, but {model_name!r} uses "
                f"{type(backend).__name__}; choose a CLIP model such as 'ViT-B-32'"
            )
        self._backend = backend
        self.context_length = backend.context_length
        self.vocab_size = backend.vocab_size
        rules = "\n".join([*backend.encoder, backend.pat.pattern, str(backend.clean_fn.__name__)])
        self._fingerprint = hashlib.sha256(rules.encode()).hexdigest()[:16]

    def fingerprint(self) -> str:
        """Return a hash of the vocabulary and of the rules."""
        return self._fingerprint

    def count(self, text: str) -> int:
        """Return the number of tokens of `text`, special tokens not counted."""
        return len(self._backend.encode(text))

    def _pieces(self, caption: str) -> tuple[list[int], list[Span]]:
        """Return token ids and spans in `caption`, special tokens not among them."""
        backend = self._backend
        clean = backend.clean_fn(caption)
        to_caption = _char_positions(clean, caption)
        ids, spans = [], []
        for match in backend.pat.finditer(clean):
            word = match.group()
            ends = list(accumulate(len(char.encode()) for char in word))  # bytes up to the end of each character
            letters = "".join(backend.byte_encoder[byte] for byte in word.encode())
            begin_byte = 0
            for piece in backend.bpe(letters).split(" "):
                end_byte = begin_byte + len(piece.removesuffix("</w>"))
                first = match.start() + bisect_right(ends, begin_byte)
                last = match.start() + bisect_right(ends, end_byte - 1)
                ids.append(backend.encoder[piece])
                spans.append((to_caption[first], to_caption[last] + 1))
                begin_byte = end_byte
        return ids, spans

    def encode(
        self, captions: Sequence[str], max_tokens: int = 77, pad: Pad = "longest", *, on_overflow: Overflow = "error"
    ) -> TokenizedText:
        """Return the captions as tokens, start and end of text included, padded with 0; see `Tokenizer.encode`."""
        captions = check_request(captions, max_tokens, self.num_special, on_overflow)
        rows, row_spans = [], []
        for caption in captions:
            ids, spans = self._pieces(caption)
            room = max_tokens - self.num_special
            if len(ids) > room and on_overflow == "error":
                raise overflow_error(caption, len(ids) + self.num_special, max_tokens)
            rows.append([self._backend.sot_token_id, *ids[:room], self._backend.eot_token_id])
            row_spans.append([None, *spans[:room], None])
        return assemble(captions, rows, row_spans, pad_id=self.pad_id, max_tokens=max_tokens, pad=pad)


def _char_positions(clean: str, caption: str) -> list[int]:
    """Return, for each character of the cleaned text, its place in the caption; blanks get the place of what is before them.

    A letter and its accent (decomposed Unicode, as in file names of macOS) are one character of the cleaned text.
    """
    letters = re.finditer(r"\S[\u0300-\u036f]*", caption)
    places = [match.start() + n for match in letters for n in range(len(normalize("NFC", match.group())))]
    if sum(not char.isspace() for char in clean) != len(places):
        raise ValueError(
            "captions must keep their characters when CLIP cleans them (entities, "
            f"ligatures), got {caption[:80]!r}; write {clean[:80]!r}"
        )
    positions, used = [], 0
    for char in clean:
        used += not char.isspace()
        positions.append(places[used - 1])
    return positions
