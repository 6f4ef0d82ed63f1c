"""Text encoders: meaning, padding, freezing, fingerprints."""
import copy
import json

import pytest
import torch

from ovdense.registry import MODELS
from ovdense.text.cache import EmbeddingCache
from ovdense.text.encoders import BertTextEncoder, OpenClipTextEncoder, RobertaTextEncoder
from ovdense.text.prompts import average_unit
from ovdense.text.tokenizers import Tokenizer, embedded_folder, embedded_tokenizer

TINY = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
CAPTIONS = ["a cat.", "Detect: aerosol can, a kind of container, cylindrical. ", "dogs"]


def byte_level_tokenizer() -> Tokenizer:
    """A small byte-level tokenizer of RoBERTa's kind, trained on one sentence."""
    from tokenizers import ByteLevelBPETokenizer
    from tokenizers.processors import RobertaProcessing

    backend = ByteLevelBPETokenizer()
    backend.train_from_iterator([" ".join(CAPTIONS)], vocab_size=300, special_tokens=["<s>", "<pad>", "</s>", "<unk>"], show_progress=False)
    backend._tokenizer.post_processor = RobertaProcessing(("</s>", 2), ("<s>", 0))
    return Tokenizer(backend.to_str())


@pytest.fixture(scope="module")
def clip_name(tmp_path_factory):
    import open_clip

    path = tmp_path_factory.mktemp("clip") / "tiny-clip.json"
    vision = {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16}
    text = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}
    path.write_text(json.dumps({"embed_dim": 12, "vision_cfg": vision, "text_cfg": text}))
    open_clip.add_model_config(path)
    return path.stem


@pytest.fixture(scope="module")
def minilm():
    return BertTextEncoder()


@pytest.fixture(scope="module", params=["minilm", "bert", "roberta", "clip"])
def encoder(request):
    torch.manual_seed(0)
    if request.param == "minilm":
        return request.getfixturevalue("minilm")
    if request.param == "bert":
        return BertTextEncoder(weights=None, config=TINY)
    if request.param == "roberta":
        return RobertaTextEncoder(weights=None, config=dict(vocab_size=300, **TINY), tokenizer=byte_level_tokenizer())
    return OpenClipTextEncoder(model_name=request.getfixturevalue("clip_name"))


def test_minilm__cat_is_closer_to_kitten_than_to_truck(minilm):
    cat, kitten, truck = minilm.embed(["cat", "kitten", "truck"], ("a photo of {article} {}.",))
    assert cat @ kitten > 0.7 > 0.5 > cat @ truck


def test_minilm__width_and_names(minilm):
    assert minilm.width == 384 and minilm.max_tokens == 512
    assert all(name.startswith("model.") for name in minilm.state_dict())
    assert not any("pooler" in name for name in minilm.state_dict())


def test_bert__published_size_by_default():
    with torch.device("meta"):
        from transformers import BertConfig, BertModel

        model = BertModel(BertConfig(), add_pooling_layer=False)
    assert sum(p.numel() for p in model.parameters()) == 108_891_648  # bert-base-uncased without its pooler


def test_encode__batch_equals_singles(encoder):
    batch = encoder.tokenizer.encode(CAPTIONS)
    hidden_BLD = encoder.encode(batch)
    assert hidden_BLD.shape == (*batch.ids_BL.shape, encoder.width)
    for b, caption in enumerate(CAPTIONS):
        single = encoder.encode(encoder.tokenizer.encode([caption]))[0]
        torch.testing.assert_close(hidden_BLD[b, : len(single)], single, atol=1e-5, rtol=1e-5)


def test_encode__padding_to_the_maximum_changes_nothing(encoder):
    short = encoder.tokenizer.encode(CAPTIONS)
    long = encoder.tokenizer.encode(CAPTIONS, max_tokens=64, pad="max")
    a, b = encoder.encode(short), encoder.encode(long)
    assert b.shape[1] == 64
    torch.testing.assert_close(a[short.valid_BL], b[long.valid_BL], atol=1e-5, rtol=1e-5)


def test_embed__unit_rows_in_order_and_alone(encoder):
    rows = encoder.embed([*CAPTIONS, "cat", CAPTIONS[0]])
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(5))
    assert torch.equal(rows[0], rows[4])
    torch.testing.assert_close(encoder.embed(["cat"])[0], rows[3], atol=1e-5, rtol=1e-5)
    assert not rows.requires_grad


def test_embed__templates_are_averaged_as_unit_vectors(encoder):
    a, b, both = (encoder.embed(["cat"], templates) for templates in (("a {}.",), ("many {}",), ("a {}.", "many {}")))
    torch.testing.assert_close(both[0], average_unit(torch.cat([a, b])), atol=1e-5, rtol=1e-5)


def test_embed__is_the_same_under_autocast(encoder, tmp_path):
    """Rows go into a cache on disk that does not know of it: a run in float32 must not read what one in bfloat16 computed."""
    rows, cache = encoder.embed(CAPTIONS), EmbeddingCache(tmp_path)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(cache.embed(encoder, CAPTIONS), rows)
    assert torch.equal(cache.embed(encoder, CAPTIONS), rows)


def test_embed__wrong_arguments(encoder):
    with pytest.raises(ValueError, match="one string"):
        encoder.embed("cat")
    with pytest.raises(ValueError, match="at least one"):
        encoder.embed([])
    with pytest.raises(ValueError, match="templates must be"):
        encoder.embed(["cat"], ())
    with pytest.raises(ValueError, match="at most"):
        encoder.embed(["word " * 600])


def test_frozen__no_gradients_and_no_dropout(encoder):
    encoder.train()
    assert not any(part.training for part in encoder.modules()) and not any(p.requires_grad for p in encoder.parameters())
    tokens = encoder.tokenizer.encode(CAPTIONS)
    hidden = encoder.encode(tokens)
    assert not hidden.requires_grad and torch.equal(hidden, encoder.encode(tokens))


def test_trained__gradients_and_modes():
    encoder = BertTextEncoder(weights=None, config=TINY, frozen=False)
    assert encoder.training and encoder.model.training
    encoder.encode(encoder.tokenizer.encode(CAPTIONS)).sum().backward()
    assert encoder.model.encoder.layer[0].attention.self.query.weight.grad is not None
    encoder.embed(["cat"])
    assert encoder.training
    torch.testing.assert_close(encoder.embed(["cat"]), encoder.embed(["cat"]))  # no dropout in embed


def test_encode__too_long_for_the_encoder(encoder):
    tokens = encoder.tokenizer.encode(["a cat " * 400], max_tokens=5000)
    with pytest.raises(ValueError, match=f"at most {encoder.max_tokens} tokens"):
        encoder.encode(tokens)


def test_fingerprint__follows_the_weights():
    encoder = BertTextEncoder(weights=None, config=TINY)
    first = encoder.fingerprint()
    assert encoder.fingerprint() == first and copy.deepcopy(encoder).fingerprint() == first
    weights = {name: value.clone() for name, value in encoder.state_dict().items()}
    other = BertTextEncoder(weights=None, config=TINY)
    assert other.fingerprint() != first
    other.load_state_dict(weights)
    assert other.fingerprint() == first
    assert other.double().fingerprint() != first
    with torch.no_grad():
        encoder.model.embeddings.LayerNorm.bias += 1
    assert encoder.fingerprint() != first


def test_fingerprint__follows_weights_written_without_a_trace():
    encoder = BertTextEncoder(weights=None, config=TINY, frozen=False)
    first = encoder.fingerprint()
    encoder.model.embeddings.LayerNorm.bias.data.copy_(torch.ones(16))
    assert encoder.fingerprint() != first


def test_fingerprint__is_the_same_for_two_loads(minilm):
    assert BertTextEncoder().fingerprint() == minilm.fingerprint()


def test_registry__builds_by_name():
    encoder = MODELS.build(dict(type="BertTextEncoder", weights=None, config=TINY))
    assert isinstance(encoder, BertTextEncoder)


def test_local_folder__same_numbers_as_embedded(minilm):
    other = BertTextEncoder(weights=str(embedded_folder()))
    torch.testing.assert_close(other.embed(CAPTIONS), minilm.embed(CAPTIONS))


def test_local_folder__missing_weights_are_named(tmp_path):
    from safetensors.torch import load_file, save_file

    encoder = BertTextEncoder(weights=None, config=TINY)
    encoder.model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["encoder.layer.1.output.dense.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="encoder.layer.1.output.dense.weight"):
        BertTextEncoder(weights=str(tmp_path), tokenizer=embedded_tokenizer())


def test_roberta__round_trip_through_a_folder(tmp_path):
    tokenizer = byte_level_tokenizer()
    encoder = RobertaTextEncoder(weights=None, config=dict(vocab_size=300, **TINY), tokenizer=tokenizer)
    encoder.model.save_pretrained(tmp_path)
    other = RobertaTextEncoder(weights=str(tmp_path), tokenizer=tokenizer)
    assert other.fingerprint() == encoder.fingerprint()
    text = tokenizer.encode(["a cat."])
    assert ["a cat."[slice(*s)] for s in text.char_spans[0] if s][-1] == "."


def test_wrong_settings():
    with pytest.raises(ValueError, match="weights=None"):
        BertTextEncoder(weights="embedded", config=TINY)
    with pytest.raises(ValueError, match="the tokenizer must fit"):
        BertTextEncoder(weights=None, config=dict(vocab_size=100, **TINY))
    with pytest.raises(ValueError, match="need a tokenizer"):
        RobertaTextEncoder(weights=None)
    with pytest.raises(ValueError, match="padding token 1"):
        RobertaTextEncoder(weights=None, config=TINY, tokenizer=embedded_tokenizer())
    with pytest.raises(KeyError, match="near it there are"):
        OpenClipTextEncoder(model_name="ViT-B-31")


def test_openclip__equals_the_tower_itself(clip_name):
    import open_clip

    encoder = OpenClipTextEncoder(model_name=clip_name)
    captions = ["A  photo of a Cat.", "an “odd” Café, 東京 x-ray", "it's 12 o'clock"]
    padded = open_clip.get_tokenizer(clip_name)(captions)
    tokens = encoder.tokenizer.encode(captions)
    assert torch.equal(padded[:, : tokens.ids_BL.shape[1]], tokens.ids_BL) and not padded[:, tokens.ids_BL.shape[1] :].any()
    expected = torch.nn.functional.normalize(encoder.text(padded), dim=1)
    torch.testing.assert_close(encoder.embed(captions), expected, atol=1e-5, rtol=1e-5)


def test_openclip_tokenizer__spans_and_errors(clip_name):
    tokenizer = OpenClipTextEncoder(model_name=clip_name).tokenizer
    caption = "  A red  Chair-leg, 東"
    (spans,) = tokenizer.encode([caption]).char_spans
    # the last character is two byte pairs
    assert [caption[slice(*s)] for s in spans if s] == ["A", "red", "Chair", "-", "leg", ",", "東", "東"]
    assert tokenizer.count(caption) == 8
    decomposed = tokenizer.encode(["cafe\u0301 and dog"])  # a letter and its accent, as file names have them
    assert torch.equal(decomposed.ids_BL, tokenizer.encode(["caf\u00e9 and dog"]).ids_BL)
    assert ["cafe\u0301 and dog"[slice(*s)] for s in decomposed.char_spans[0] if s][-2:] == ["and", "dog"]
    with pytest.raises(ValueError, match="write 'salt & pepper'"):
        tokenizer.encode(["salt &amp; pepper"])
    with pytest.raises(ValueError, match="at most 77 tokens, got 102"):
        tokenizer.encode(["cat " * 100])
    assert tokenizer.encode(["cat " * 100], on_overflow="truncate").ids_BL.shape == (1, 77)
