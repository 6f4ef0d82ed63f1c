"""A backbone that remembers: the same features, computed once, never of another image."""
import pytest
import torch

from ovdense.vision.backbones import TimmBackbone
from ovdense.vision.memory import RememberingBackbone, unpadded_size


def _backbone(frozen_stages=4):
    return TimmBackbone("tf_efficientnet_lite0", out_strides=(16, 32), weights="embedded", frozen_stages=frozen_stages)


def _images(n=3):
    return torch.randn(n, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_memory__features_equal_the_backbones_up_to_float16():
    backbone, images = _backbone(), _images()
    memory = RememberingBackbone(backbone).train()
    for ours, theirs in zip(memory(images), backbone(images)):
        assert ours.stride == theirs.stride and ours.tensor_BCHW.dtype == torch.float32
        torch.testing.assert_close(ours.tensor_BCHW, theirs.tensor_BCHW, atol=2e-2, rtol=2e-3)


def test_memory__an_image_is_computed_once_and_order_does_not_matter(monkeypatch):
    memory = RememberingBackbone(_backbone()).train()
    seen = []
    original = memory.backbone.forward
    monkeypatch.setattr(memory.backbone, "forward", lambda x: seen.append(len(x)) or original(x))
    images = _images()
    first, again = memory(images)[0].tensor_BCHW, memory(images.flip(0))[0].tensor_BCHW
    assert seen == [1, 1, 1]
    assert torch.equal(first, again.flip(0))
    fresh = RememberingBackbone(memory.backbone).train()
    assert torch.equal(fresh(images[1:2])[0].tensor_BCHW, first[1:2]), "an empty memory gives the same bits"


def test_memory__an_image_is_found_again_whatever_its_batch_pads_it_to(monkeypatch):
    memory = RememberingBackbone(_backbone()).train()
    seen = []
    original = memory.backbone.forward
    monkeypatch.setattr(memory.backbone, "forward", lambda x: seen.append(tuple(x.shape[-2:])) or original(x))
    small, large = torch.randn(3, 50, 64), torch.randn(3, 96, 80)

    def padded(image, height, width):
        return torch.nn.functional.pad(image, (0, width - image.shape[2], 0, height - image.shape[1]))

    alone = memory(padded(small, 64, 64)[None])
    together = memory(torch.stack([padded(large, 96, 96), padded(small, 96, 96)]))
    assert seen == [(64, 64), (96, 96)]
    for one, both in zip(alone, together):
        h, w = one.tensor_BCHW.shape[-2:]
        assert both.tensor_BCHW.shape[-2:] == (96 // both.stride, 96 // both.stride)
        found_CHW = both.tensor_BCHW[1]
        assert torch.equal(found_CHW[:, :h, :w], one.tensor_BCHW[0]) and not found_CHW[:, h:].any() and not found_CHW[:, :, w:].any()


def test_unpadded_size__of_blank_and_full_images():
    assert unpadded_size(torch.zeros(3, 5, 7)) == (1, 1) and unpadded_size(torch.ones(3, 5, 7)) == (5, 7)


def test_memory__when_it_is_full_the_rest_is_computed():
    memory = RememberingBackbone(_backbone(), max_gib=6e-6).train()  # room for one image
    images = _images()
    out = memory(images)[0].tensor_BCHW
    assert len(memory.memory.kept) == 1
    assert torch.equal(out, memory(images)[0].tensor_BCHW)


def test_memory__test_time_passes_through():
    memory = RememberingBackbone(_backbone()).eval()
    images = _images()
    assert torch.equal(memory(images)[0].tensor_BCHW, memory.backbone(images)[0].tensor_BCHW) and not memory.memory.kept


def test_memory__a_trained_backbone_is_an_error():
    with pytest.raises(ValueError, match="only a wholly frozen backbone"):
        RememberingBackbone(_backbone(frozen_stages=2))


def test_text_memory__a_caption_is_read_once_and_kept_on_disk(tmp_path, monkeypatch):
    from ovdense.text.encoders import BertTextEncoder
    from ovdense.text.memory import RememberingTextEncoder

    monkeypatch.setenv("OVDENSE_CACHE", str(tmp_path))
    torch.manual_seed(0)
    encoder = BertTextEncoder(weights=None, config=dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16))
    calls, encode = [], encoder.encode
    monkeypatch.setattr(encoder, "encode", lambda tokenized: (calls.append(tokenized.captions), encode(tokenized))[1])
    tokenized = encoder.tokenizer.encode(["a red dog", "a cat"])
    first = RememberingTextEncoder(encoder, on_disk=True).train()
    rows = first.encode(tokenized)
    assert torch.equal(first.encode(tokenized), rows) and calls == [("a red dog",), ("a cat",)]
    assert torch.equal(RememberingTextEncoder(encoder, on_disk=True).train().encode(tokenized), rows) and len(calls) == 2
    plain = encode(tokenized)
    torch.testing.assert_close(rows[tokenized.valid_BL], plain[tokenized.valid_BL], atol=2e-3, rtol=2e-3)
    assert float(rows[~tokenized.valid_BL].abs().sum()) == 0
    with pytest.raises(ValueError, match="wholly frozen"):
        RememberingTextEncoder(BertTextEncoder(weights=None, frozen=False, config=dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2)))


def test_memory__on_disk_knows_settings_that_change_the_features(tmp_path, monkeypatch):
    monkeypatch.setenv("OVDENSE_CACHE", str(tmp_path))
    images = _images(1)

    def features(**settings):
        backbone = TimmBackbone("tf_efficientnet_lite0", out_strides=(16, 32), weights="embedded", frozen_stages=4, **settings)
        return RememberingBackbone(backbone, on_disk=True).train()(images)[0].tensor_BCHW

    plain, again, other = features(), features(), features(norm_eps=0.1)
    assert torch.equal(plain, again) and not torch.allclose(plain, other, atol=1e-2)
