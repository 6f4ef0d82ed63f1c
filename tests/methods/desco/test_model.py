"""The detector as a user meets it: vocabularies, chunks, batches, losses. Tiny, random weights, no data."""
import warnings
from dataclasses import replace

import pytest
import torch

from ovdense.layers.fpn import FeaturePyramid
from ovdense.methods.desco.model import Desco
from ovdense.methods.desco.settings import TestSettings
from ovdense.structures import ClassEntry, ImageTarget, Vocabulary
from ovdense.text.encoders import BertTextEncoder
from ovdense.vision.backbones import TimmBackbone

TINY_BERT = dict(hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, max_position_embeddings=128)
WORDS = ("cat", "dog", "fire hydrant", "zebra", "teddy bear", "tie", "kite", "laptop", "sink", "book", "vase")
VOCABULARY = Vocabulary(tuple(ClassEntry(name=w, kind="thing", descriptions=(f"large; with {i} legs",)) for i, w in enumerate(WORDS)))


def tiny(**test) -> Desco:
    torch.manual_seed(0)
    backbone = TimmBackbone("tf_efficientnet_lite0", out_strides=(16, 32), weights="embedded")
    model = Desco(
        backbone=backbone,
        neck=FeaturePyramid(backbone.channels, out_channels=32, num_extra=1),
        text_encoder=BertTextEncoder(weights=None, config=TINY_BERT, frozen=False),
        head=dict(channels=32, num_blocks=2, num_levels=3, embed_width=16, num_heads=2, bert_heads=2, bert_ffn=32, dropout=0.0, deformable=False),
        criterion=dict(anchor_scale=4.0, published=False, no_object_token=False),
        test=dict(score_thr=0.0, max_tokens=128) | test,
    ).eval()
    with torch.no_grad():  # untrained outputs are all alike: spread them, so that rankings mean something
        model.head.box.weight.mul_(30)
        model.head.embedding_head.text_projection.weight.mul_(8)
    return model


def image(seed, height=64, width=96):
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def target(image_id, size_hw=(64, 96), original=None, boxes=(), labels=(), caption=None, spans=()):
    return ImageTarget(image_id=image_id, file_name=f"{image_id}.jpg", size_hw=size_hw, original_size_hw=original or size_hw,
                           boxes_xyxy=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), labels=torch.tensor(labels, dtype=torch.long),
                           caption=caption, positive_spans=spans)


def predict(model, images, targets):
    batch = model.data_preprocessor({"images": images, "targets": targets}, False)
    return model.predict(**batch)


def same(a, b, atol=1e-4):
    torch.testing.assert_close(a.scores, b.scores, atol=atol, rtol=1e-3)
    torch.testing.assert_close(a.boxes_xyxy, b.boxes_xyxy, atol=1e-2, rtol=1e-3)
    assert torch.equal(a.labels, b.labels)


def count_calls(module, name="forward"):
    calls, original = [], getattr(module, name)

    def counted(*args, **kwargs):
        calls.append(1)
        return original(*args, **kwargs)

    setattr(module, name, counted)
    return calls


def test_predict__backbone_once_an_image_and_text_once_a_vocabulary():
    model = tiny(max_classes=2)
    model.set_vocabulary(VOCABULARY, prompt="descriptions")
    backbone, neck, text, head = (count_calls(m) for m in (model.backbone, model.neck, model.text_encoder.model, model.head))
    for i in range(3):
        predict(model, [image(i)], [target(i)])
    assert (len(backbone), len(neck)) == (3, 3)
    assert len(head) == 3 * 6, "eleven classes, two a chunk: six chunks an image"
    assert len(text) == 1, "six chunks of text are one batch, encoded once"
    model.set_vocabulary(Vocabulary.of(["owl"]))
    assert predict(model, [image(0)], [target(0)])[0].names == ("owl",)
    assert len(text) == 2


@pytest.mark.parametrize("prompt", ["names", "descriptions"])
def test_predict__chunks_at_a_time_change_nothing(prompt):
    results = []
    for chunk_batch in (1, 4, "fill"):
        model = tiny(max_classes=3, chunk_batch=chunk_batch)
        model.set_vocabulary(VOCABULARY, prompt=prompt)
        results.append(predict(model, [image(1)], [target(1)])[0])
    same(results[0], results[1])
    same(results[0], results[2])
    assert len(results[0]) > 20


def test_predict__a_batch_with_chunks_equals_single_images():
    model = tiny(max_classes=3, chunk_batch=2)
    model.set_vocabulary(VOCABULARY, prompt="descriptions")
    images, targets = [image(i) for i in range(3)], [target(i, original=(128, 192)) for i in range(3)]
    for single, image_, target_ in zip(predict(model, images, targets), images, targets):
        same(single, predict(model, [image_], [target_])[0])


def test_predict__images_of_several_sizes_come_back_in_their_own_frames():
    """Padding is seen by the network, as in the release: what a batch shares is the frame, and equal padding gives equal boxes."""
    model = tiny(max_classes=6)
    model.set_vocabulary(VOCABULARY)
    images, targets = [image(0, 64, 96), image(1, 50, 80)], [target(0), target(1, size_hw=(50, 80), original=(100, 160))]
    first, second = predict(model, images, targets)
    assert second.boxes_xyxy[:, 2].max() <= 160 and second.boxes_xyxy[:, 3].max() <= 100
    same(second, predict(model, images[1:], targets[1:])[0])  # both are padded to 64x96
    same(first, predict(model, images[:1], targets[:1])[0])


def test_predict__boxes_come_in_pixels_of_the_file():
    model = tiny()
    model.set_vocabulary(VOCABULARY)
    small, large = (predict(model, [image(2)], [target(2, original=o)])[0] for o in ((64, 96), (128, 288)))
    torch.testing.assert_close(large.boxes_xyxy, small.boxes_xyxy * torch.tensor([3.0, 2.0, 3.0, 2.0]))
    assert large.boxes_xyxy[:, 2].max() <= 288 and large.boxes_xyxy.min() >= 0


def test_predict__whole_texts_run_alone_and_short_ones_together():
    model = tiny(max_classes=20)
    texts = ["a red chair left of the table", "dog", "the man who holds a kite", "fire hydrant"]
    model.set_vocabulary(Vocabulary.of(texts), prompt="texts")
    assert [c.classes.tolist() for c in model.text()] == [[0], [2], [1, 3]]
    together = predict(model, [image(1)], [target(1)])[0]
    assert set(together.labels.tolist()) == {0, 1, 2, 3}
    model.set_vocabulary(Vocabulary.of(texts[:1]), prompt="texts")
    alone = predict(model, [image(1)], [target(1)])[0]
    torch.testing.assert_close(together.scores[together.labels == 0], alone.scores)


def test_predict__without_a_vocabulary_is_an_error():
    with pytest.raises(ValueError, match="set_vocabulary"):
        predict(tiny(), [image(0)], [target(0)])


def test_set_vocabulary__a_second_one_is_not_served_the_first_ones_text():
    model = tiny()
    model.set_vocabulary(Vocabulary.of(["cat", "dog"]))
    first = predict(model, [image(0)], [target(0)])[0]
    model.set_vocabulary(Vocabulary.of(["zebra", "kite"]))
    second = predict(model, [image(0)], [target(0)])[0]
    fresh = tiny()
    fresh.set_vocabulary(Vocabulary.of(["zebra", "kite"]))
    same(second, predict(fresh, [image(0)], [target(0)])[0])
    assert first.names == ("cat", "dog") and first.scores.tolist() != second.scores.tolist()


def test_text__is_encoded_anew_after_training():
    model = tiny()
    model.set_vocabulary(VOCABULARY)
    before = model.text()
    assert model.text() is before
    model.train().eval()
    assert model.text() is not before


CAPTION = "Detect: cat, a kind of thing, large. dog, a kind of thing, small. "


def training_batch():
    targets = [
        target(0, boxes=[[8, 8, 40, 40], [50, 20, 90, 60]], labels=[0, 1], caption=CAPTION, spans=(((8, 29),), ((37, 58),))),
        target(1, boxes=[], labels=[], caption=CAPTION),
    ]
    return {"images": [image(0), image(1)], "targets": targets}


def test_loss__falls_and_reaches_every_part():
    model = tiny().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    totals = []
    for _ in range(6):
        losses = model(**model.data_preprocessor(training_batch(), True), mode="loss")
        total = sum(losses.values())
        optimizer.zero_grad()
        total.backward()
        if not totals:
            parts = ("backbone.net.blocks.5", "neck.lateral", "text_encoder.model.encoder.layer.0", "head.blocks.0.fuse", "head.blocks.0.image", "head.box")
            for part in parts:
                assert any(p.grad is not None and p.grad.abs().max() > 0 for n, p in model.named_parameters() if n.startswith(part)), part
        optimizer.step()
        totals.append(total.item())
    assert set(losses) == {"loss_token", "loss_box", "loss_centerness"}
    assert totals[-1] < 0.8 * totals[0]


def test_loss__images_without_boxes_only_push_tokens_down():
    model = tiny().train()
    batch = training_batch()
    batch = {"images": batch["images"][1:], "targets": batch["targets"][1:]}
    losses = model(**model.data_preprocessor(batch, True), mode="loss")
    assert losses["loss_token"] > 0 and losses["loss_box"] == 0 and losses["loss_centerness"] == 0
    sum(losses.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert model.head.box.weight.grad is not None, "every rank must have the same gradients to reduce"


def test_loss__a_caption_over_the_limit_loses_its_cut_spans_only():
    model = tiny(max_tokens=16).train()
    batch = training_batch()
    batch = {k: v[:1] for k, v in batch.items()}
    with pytest.warns(UserWarning, match=r"words of a box of 0.jpg have no token among the first 16 .*max_tokens=14"):
        losses = model(**model.data_preprocessor(batch, True), mode="loss")
    assert all(torch.isfinite(v) for v in losses.values()) and losses["loss_box"] > 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # said once; and never where all words have their tokens
        model(**model.data_preprocessor(batch, True), mode="loss")
        whole = tiny().train()
        whole(**whole.data_preprocessor(training_batch(), True), mode="loss")


def test_text__is_the_same_whoever_asks_first():
    """The text is kept: the precision of the first image must not decide that of a later one's text."""
    model = tiny()
    model.set_vocabulary(VOCABULARY, prompt="descriptions")
    want = [chunk.hidden_LD for chunk in model.text()]
    model.train().eval()
    with torch.autocast("cpu", torch.bfloat16):
        found = predict(model, [image(0)], [target(0)])[0]
        got = [chunk.hidden_LD for chunk in model.text()]
    assert len(found) and all(torch.equal(a, b) and a.dtype == torch.float32 for a, b in zip(got, want, strict=True))


@pytest.mark.parametrize("names", [["\u200b"], ["cat", "\u200b", "dog"], ["cat", "\u200b\u200b"]])
def test_text__a_class_without_a_token_is_an_error(names):
    model = tiny()
    model.set_vocabulary(Vocabulary.of(names))
    with pytest.raises(ValueError, match="text of a class must give a token, '.u200b.* gives none"):
        model.text()


def test_text__is_encoded_anew_after_loading_weights():
    model = tiny()
    model.set_vocabulary(VOCABULARY)
    before = model.text()
    model.load_state_dict(model.state_dict())
    assert model.text() is not before


def test_published_rates__text_slower_biases_twice_and_undecayed():
    from ovdense.methods.desco.optim import PublishedRates

    model = tiny()
    model.head.box.requires_grad_(False)
    wrapper = PublishedRates(dict(optimizer=dict(type=torch.optim.AdamW, lr=1e-3, weight_decay=0.1)), dict(text_lr=1e-5))(model)
    names = {id(p): n for n, p in model.named_parameters()}
    rates = {names[id(g["params"][0])]: (g["lr"], g["weight_decay"]) for g in wrapper.param_groups if id(g["params"][0]) in names}
    assert rates["head.embedding_head.bias_lang"] == (2e-3, 0.0)
    assert rates["text_encoder.model.encoder.layer.0.output.dense.weight"] == (1e-5, 0.1)
    assert rates["text_encoder.model.encoder.layer.0.output.dense.bias"] == (2e-5, 0.0)
    assert rates["head.level_scale"] == (1e-3, 0.1)
    assert "head.box.weight" not in rates
    assert set(rates) == {n for n, p in model.named_parameters() if p.requires_grad}
    with pytest.raises(ValueError, match="must be dict\\(text_lr="):
        PublishedRates(dict(optimizer=dict(type=torch.optim.AdamW, lr=1e-3)), dict(custom_keys={}))(model)


def test_loss__a_missing_caption_is_an_error():
    model = tiny().train()
    batch = {"images": [image(0)], "targets": [target(0)]}
    with pytest.raises(ValueError, match="0.jpg has none; add DescriptionQueries"):
        model(**model.data_preprocessor(batch, True), mode="loss")


def test_preprocessor__pads_to_the_divisor_and_refuses_floats():
    model = tiny()
    out = model.data_preprocessor({"images": [image(0, 33, 70), image(1, 64, 40)], "targets": None}, False)["images"]
    assert out.shape == (2, 3, 64, 96)
    torch.testing.assert_close(out[0, :, :33, :70], image(0, 33, 70) / 127.5 - 1, atol=1e-5, rtol=0)
    assert (out[0, :, 33:] == 0).all() and (out[1, :, :, 40:] == 0).all()
    with pytest.raises(ValueError, match="uint8 of shape"):
        model.data_preprocessor({"images": [torch.zeros(3, 8, 8)]}, False)


def test_forward__predict_mode_speaks_mmdet():
    model = tiny()
    model.set_vocabulary(VOCABULARY)
    batch = model.data_preprocessor({"images": [image(0)], "targets": [target(7)]}, False)
    sample = model(**batch, mode="predict")[0]
    assert sample.img_id == 7 and sample.ori_shape == (64, 96)
    assert sample.pred_instances.bboxes.shape == (len(sample.pred_instances.scores), 4) and len(sample.pred_instances.scores) > 20
    with pytest.raises(ValueError, match="mode must be"):
        model(**batch, mode="train")


def test_chunks_at_a_time__fill_the_memory_that_is_given():
    maps = [torch.zeros(2, 8, 10, 10), torch.zeros(2, 8, 5, 5)]  # 250 places of the batch; of 512 numbers each: 0.5 MB
    one = 6 * 250 * 512 * 4 / 2**30
    for gib, count in ((2.5 * one, 2), (10.1 * one, 10), (one / 2, 1)):
        assert TestSettings(chunk_batch="fill", chunk_memory_gib=gib).chunks_at_a_time(maps, 512) == count
    assert TestSettings(chunk_batch=3).chunks_at_a_time(maps, 512) == 3


WRONG_AMOUNTS = [
    dict(chunk_batch=0), dict(chunk_batch="all"), dict(chunk_memory_gib=0), dict(pool="avg"), dict(max_classes=0), dict(max_dets=-1), dict(chunk_dets=0),
    dict(pre_nms=0), dict(max_tokens=None), dict(score_thr=-0.1), dict(score_thr=1.0), dict(nms_iou=0.0), dict(nms_iou=60),
]  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG_AMOUNTS)
def test_settings__wrong_amounts(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}.* must|chunk_batch must|pool must be"):
        TestSettings(**wrong)


def test_text__follows_weights_that_are_loaded_into_the_language_model_and_settings():
    model = tiny(max_classes=2)
    model.set_vocabulary(VOCABULARY)
    before = model.text()
    assert model.text() is before
    model.text_encoder.load_state_dict({n: p + torch.rand_like(p) if p.is_floating_point() else p for n, p in model.text_encoder.state_dict().items()})
    assert not torch.equal(model.text()[0].hidden_LD, before[0].hidden_LD)
    model.test = replace(model.test, score_thr=0.2)
    kept = model.text()
    model.test = replace(model.test, max_classes=4)
    assert len(kept) == len(before) > len(model.text())
    model.test = replace(model.test, score_thr=0.3)
    assert len(model.text()) < len(kept)


def test_texts__background_classes_only_compete(tmp_path):
    from ovdense.methods.desco.folded import fold, unfold
    from tests.methods.desco.test_serving import cfg

    texts = ["a red chair left of the table", "dog", "fire hydrant"]
    vocabulary = Vocabulary((ClassEntry(name="green grass", is_background=True), *Vocabulary.of(texts)))
    model = tiny(max_classes=20)
    model.set_vocabulary(vocabulary, prompt="texts")
    assert [c.classes.tolist() for c in model.text()] == [[1], [2, 3]]
    assert all(len(c.background_NL) == 1 and bool(c.background_NL.any()) for c in model.text())
    found = predict(model, [image(1)], [target(1)])[0]
    assert len(found) and 0 not in found.labels
    same(predict(unfold(cfg(max_classes=20), fold(model)), [image(1)], [target(1)])[0], found)
    nothing = Vocabulary((vocabulary[0],))
    model.set_vocabulary(nothing, prompt="texts")
    with pytest.raises(ValueError, match="not background"):
        model.text()
    with pytest.raises(ValueError, match="not background"):
        model.ask([], nothing)


def test_protocol__tells_how_boxes_are_chosen():
    said = tiny(pool="max", pre_nms=77, published=True).protocol()
    assert said["pre_nms"] == "77 per level" and said["phrase_score"] == "max over the tokens" and said["published_quirks"] is True
