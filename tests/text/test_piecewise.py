"""Pieces of a caption read apart: borders, alignment with the caption's tokens, independence, memory."""
import pytest
import torch

from ovdense.text.encoders import BertTextEncoder
from ovdense.text.piecewise import NO_PIECE, PiecewiseTextEncoder, piece_of_token, split_pieces
from ovdense.text.tokenizers import embedded_tokenizer

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


def test_encode__a_trained_encoder_remembers_nothing_and_gets_gradients():
    tiny = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, max_position_embeddings=64)
    encoder = PiecewiseTextEncoder(BertTextEncoder(weights=None, config=tiny, frozen=False))
    tokenized = encoder.tokenizer.encode([f"{CAT} {DOG}"])
    hidden = encoder.encode(tokenized)
    hidden.sum().backward()
    assert encoder.encoder.model.encoder.layer[0].output.dense.weight.grad is not None and not encoder._memory
