"""Pieces of a caption read apart: borders, alignment with the caption's tokens, independence, memory."""
import pytest
import torch
from torch import nn

from ovdense.structures import ClassEntry, TokenizedText, Vocabulary
from ovdense.text.encoders import BertTextEncoder
from ovdense.text.piecewise import NO_PIECE, PiecewiseTextEncoder, piece_of_token, split_pieces
from ovdense.text.prompts import chunk_vocabulary
from ovdense.text.tokenizers import Tokenizer, embedded_tokenizer

CAT, DOG = "cat, a kind of animal, large.", "dog, a kind of animal, has 1.5 tails."


@pytest.mark.parametrize(
    "caption, want",
    [
        (f"Detect: {CAT} {DOG} ", ["Detect:", CAT, DOG]),
        ("cat. dog", ["cat.", "dog"]),  # names have no last full stop
        ("cat", ["cat"]),
        ("a dog. Detect: no", ["a dog.", "Detect: no"]),  # the prefix counts only at the start
        ("", []),
    ],
)
def test_split__at_full_stops_and_after_the_prefix(caption, want):
    assert [caption[a:b] for a, b in split_pieces(caption)] == want


def test_split__one_piece_a_class_of_a_vocabulary():
    vocabulary = Vocabulary((ClassEntry(name="st. bernard", kind="dog", descriptions=("large",)), ClassEntry(name="No. 5", descriptions=("a scent",))))
    (names,) = chunk_vocabulary(vocabulary, embedded_tokenizer(), "names")
    assert len(split_pieces(names.caption)) == 2
    (described,) = chunk_vocabulary(vocabulary, embedded_tokenizer(), "descriptions")
    assert len(split_pieces(described.caption)) == 3  # with the prefix


def test_piece_of_token__counts_pieces_and_marks_special_tokens():
    tokenized = embedded_tokenizer().encode(["cat. red dog", "kite"])
    assert piece_of_token(tokenized).tolist() == [[NO_PIECE, 0, 0, 1, 1, NO_PIECE], [NO_PIECE, 0, NO_PIECE, NO_PIECE, NO_PIECE, NO_PIECE]]


@pytest.fixture(scope="module")
def encoder():
    return PiecewiseTextEncoder(BertTextEncoder(weights="embedded", frozen=True))


def test_encode__a_piece_reads_the_same_alone_and_among_others(encoder):
    tokenizer = encoder.tokenizer
    together = tokenizer.encode([f"Detect: {CAT} {DOG} ", DOG])
    hidden, pieces = encoder.encode(together), piece_of_token(together)
    alone = tokenizer.encode([DOG])
    want = encoder.encoder.encode(alone)[0, 1:-1]
    torch.testing.assert_close(hidden[0][pieces[0] == 2], want)
    torch.testing.assert_close(hidden[1][pieces[1] == 0], want)
    assert (hidden[pieces == NO_PIECE] == 0).all()


def test_encode__whole_captions_would_differ(encoder):
    caption = encoder.tokenizer.encode([f"{CAT} {DOG}"])
    assert (encoder.encode(caption)[0, 1:-1] - encoder.encoder.encode(caption)[0, 1:-1]).abs().max() > 0.1


def test_encode__a_frozen_encoder_reads_each_piece_once(encoder, monkeypatch):
    read = []
    original = encoder.encoder.encode
    monkeypatch.setattr(encoder.encoder, "encode", lambda t: read.extend(t.captions) or original(t))
    encoder._memory.clear()
    for _ in range(2):
        encoder.encode(encoder.tokenizer.encode([f"Detect: {CAT} {DOG} {CAT} ", f"{DOG} {CAT}"]))
    assert sorted(read) == sorted(["Detect:", CAT, DOG])


def test_encode__at_test_time_pieces_of_equal_length_are_read_together(encoder, monkeypatch):
    pieces = [f"a {colour} thing." for colour in ("red", "blue", "green")] + ["a very long kind of thing.", "cat."]
    alone = {p: encoder.encoder.encode(encoder.tokenizer.encode([p]))[0, 1:-1] for p in pieces}
    groups = []
    original = encoder.encoder.encode
    monkeypatch.setattr(encoder.encoder, "encode", lambda t: groups.append(t) or original(t))
    encoder._memory.clear()
    try:
        read = encoder.eval()._features(sorted(pieces))
        assert sorted(len(t.captions) for t in groups) == [1, 1, 3] and all(bool(t.valid_BL.all()) for t in groups)
        for piece in pieces:
            torch.testing.assert_close(read[piece].hidden_LD, alone[piece], rtol=1e-5, atol=1e-5)
        encoder._features(["cat.", "dog."])
        assert [t.captions for t in groups[3:]] == [("dog.",)]
        encoder.train()  # what is trained with was read alone
        encoder._features(sorted(pieces))
        assert [len(t.captions) for t in groups[4:]] == [1] * len(pieces)
    finally:
        encoder.train()


def test_encode__a_trained_encoder_remembers_nothing_and_gets_gradients():
    tiny = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, max_position_embeddings=64)
    encoder = PiecewiseTextEncoder(BertTextEncoder(weights=None, config=tiny, frozen=False))
    tokenized = encoder.tokenizer.encode([f"{CAT} {DOG}"])
    hidden = encoder.encode(tokenized)
    hidden.sum().backward()
    assert encoder.encoder.model.encoder.layer[0].output.dense.weight.grad is not None and not encoder._memory


class IdsAsFeatures(nn.Module):
    """A frozen encoder whose features (width 2, float32: 8 bytes a token) are the token's id, twice; it notes what it reads."""

    width, frozen, device = 2, True, torch.device("cpu")

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.tokenizer, self.read = tokenizer, []

    def fingerprint(self) -> str:
        return "ids"

    def encode(self, tokenized: TokenizedText) -> torch.Tensor:
        self.read += tokenized.captions
        return tokenized.ids_BL[..., None].expand(-1, -1, 2).float()


def test_encode__memory_is_bounded_in_bytes_and_keeps_the_latest():
    inner = IdsAsFeatures(embedded_tokenizer())
    encoder = PiecewiseTextEncoder(inner, max_mib=32 / 2**20)  # "cat." has two tokens: two pieces fit
    for caption in ("cat. dog. ", "cow. ", "dog. ", "cat. ", "cat. "):
        tokenized = inner.tokenizer.encode([caption])
        assert torch.equal(encoder.encode(tokenized)[0, 1:-1, 0], tokenized.ids_BL[0, 1:-1].float())
    assert inner.read == ["cat.", "dog.", "cow.", "cat."]
    none = PiecewiseTextEncoder(IdsAsFeatures(inner.tokenizer), max_mib=0)
    for _ in range(2):
        none.encode(inner.tokenizer.encode(["cat. cow. "]))
    assert none.encoder.read == ["cat.", "cow."] * 2
    with pytest.raises(ValueError, match="max_mib must be at least 0"):
        PiecewiseTextEncoder(inner, max_mib=-1)


def test_encode__another_device_reads_again():
    inner = IdsAsFeatures(embedded_tokenizer())
    encoder = PiecewiseTextEncoder(inner)
    for device in ("cpu", "cpu", "cpu:0"):  # the same memory under another name
        inner.device = torch.device(device)
        encoder.encode(inner.tokenizer.encode(["cat. "]))
    assert inner.read == ["cat.", "cat."]


def byte_level_tokenizer(*words: str) -> Tokenizer:
    """Return a byte-level BPE tokenizer (GPT-2, RoBERTa) of single bytes and `words`, in which a blank belongs to the word after it."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import models, pre_tokenizers

    letters = sorted({c for word in words for c in word})
    merged = [word[:n] for word in words for n in range(2, len(word) + 1)]
    vocab = {token: n for n, token in enumerate(dict.fromkeys(["<pad>", *letters, *merged]))}
    merges = list(dict.fromkeys((word[:n], word[n]) for word in words for n in range(1, len(word))))
    backend = Backend(models.BPE(vocab, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return Tokenizer(backend.to_str())


@pytest.mark.parametrize("words", [("cat", "dog", "\u0120dog", "."), ("cat", "dog", ".", "\u0120")])
def test_encode__a_tokenizer_that_cuts_pieces_otherwise_is_an_error(words):
    tokenizer = byte_level_tokenizer(*words)  # " dog" is one token or two, "dog" is another one
    encoder = PiecewiseTextEncoder(IdsAsFeatures(tokenizer))
    assert encoder.encode(tokenizer.encode(["cat."]))[0, :, 0].tolist() == tokenizer.encode(["cat."]).ids_BL[0].tolist()
    with pytest.raises(ValueError, match=r"must have the caption's tokens, but in 'cat. dog' .* token 2 differs.*byte-level"):
        encoder.encode(tokenizer.encode(["cat. dog"]))


def test_encode__a_caption_that_was_cut_off_is_read_as_far_as_it_goes():
    tokenizer = embedded_tokenizer()
    encoder = PiecewiseTextEncoder(IdsAsFeatures(tokenizer))
    cut = tokenizer.encode(["cat. dog. cow"], max_tokens=5, on_overflow="truncate")
    assert torch.equal(encoder.encode(cut)[0, 1:-1, 0], cut.ids_BL[0, 1:-1].float())
