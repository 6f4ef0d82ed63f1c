"""What a user of DenseCLIP would notice: vocabularies, windows and views, training, detectors, errors."""
import copy
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from ovdense.methods.denseclip.backbones import PairedBackbone, PooledBackbone
from ovdense.methods.denseclip.decoders import SemanticFpn
from ovdense.methods.denseclip.model import DenseClip
from ovdense.methods.denseclip.open_decoder import OpenSemanticFpn
from ovdense.structures import ClassEntry, FeatureMap, Vocabulary
from ovdense.support.prototypes import mask_to_grid
from ovdense.support.sources import FolderSupport
from ovdense.text.clip_context import ClipContextEncoder
from ovdense.vision.backbones import TimmBackbone
from ovdense.vision.clip import ClipVit
from ovdense.vision.dense import DenseImageEncoder
from ovdense.vision.memory import RememberingBackbone
from tests.methods.denseclip.tiny import NAMES, images, make, targets

OTHERS = ["boat", "a red chair", "cat", "zebra", "sofa"]


def logits(model, batch):
    with torch.no_grad():
        return model.segment(batch)


# vocabularies


@pytest.fixture
def pictures(tmp_path):
    """Return a folder of two masked pictures for each of two classes, whose sides are multiples of 32."""
    rng = np.random.default_rng(0)
    for name, columns in (("left", slice(0, 48)), ("right", slice(48, 96))):
        (tmp_path / name).mkdir()
        for n in range(2):
            mask = np.zeros((64, 96), np.uint8)
            mask[:, columns] = 255
            Image.fromarray(rng.integers(0, 255, (64, 96, 3), dtype=np.uint8)).save(tmp_path / name / f"{n}.png")
            Image.fromarray(mask).save(tmp_path / name / f"{n}.mask.png")
    return tmp_path


@pytest.mark.parametrize("prompting", ["post", "none"])
def test_exemplars__a_class_is_the_mean_local_vector_of_what_its_pictures_show(pictures, prompting):
    model, batch = make("open_semantic", prompting=prompting), images()
    by_names = logits(model, batch)
    model.use_exemplars(Vocabulary.of(["left", "right"]), FolderSupport(pictures))
    [rows, norms] = model.text().rows_1KC[0], model.pixel_text.encode(model.text_encoder, Vocabulary.of(["left", "right"])).rows_1KC[0].norm(dim=1)
    assert model.prompt == "exemplars" and torch.allclose(rows.norm(dim=1), norms, rtol=1e-4)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (model.backbone.mean, model.backbone.std))
    for k, (name, columns) in enumerate((("left", slice(0, 48)), ("right", slice(48, 96)))):
        vectors = []
        for n in range(2):
            pixels = torch.from_numpy(np.array(Image.open(pictures / name / f"{n}.png"))).permute(2, 0, 1)
            local = model.backbone.dense(((pixels - mean) / std)[None]).local
            unit = torch.nn.functional.normalize(local.tensor_BCHW[0], dim=0)
            inside = torch.zeros(64, 96, dtype=torch.bool)
            inside[:, columns] = True
            vectors.append(unit[:, mask_to_grid(inside, tuple(unit.shape[1:]))])
        assert torch.cosine_similarity(torch.cat(vectors, 1).mean(1), rows[k], dim=0) > 0.99999
    by_pictures = logits(model, batch)
    model.use_exemplars(Vocabulary.of(["right", "left"]), FolderSupport(pictures))
    assert torch.allclose(logits(model, batch), by_pictures[:, [1, 0]], atol=1e-4) and not torch.allclose(by_pictures[:, 0], by_pictures[:, 1], atol=1e-3)
    model.set_vocabulary(Vocabulary.of(NAMES))
    assert torch.equal(logits(model, batch), by_names)


def test_exemplars__background_keeps_its_vector_and_a_picture_without_mask_is_searched_by_name(pictures):
    model = make("open_semantic", vocabulary=["background", "left"], pixel_text=dict(learn_background=True))
    (pictures / "left" / "0.mask.png").unlink()
    vocabulary = Vocabulary((ClassEntry(name="background", is_background=True), ClassEntry(name="left")))
    model.use_exemplars(vocabulary, FolderSupport(pictures))
    named = model.pixel_text.encode(model.text_encoder, vocabulary)
    rows = model.text().rows_1KC[0]
    assert torch.equal(rows[0], named.rows_1KC[0, 0]) and not torch.allclose(rows[1], named.rows_1KC[0, 1]) and torch.isfinite(rows).all()
    assert logits(model, images()).shape[1] == 2


def test_exemplars__changed_weights_and_models_that_cannot_are_clear_errors(pictures):
    model, vocabulary, source = make("open_semantic"), Vocabulary.of(["left", "right"]), FolderSupport(pictures)
    model.use_exemplars(vocabulary, source)
    answered = logits(model, images())
    assert torch.equal(logits(copy.deepcopy(model), images()), answered)
    model._apply(torch.clone)  # what a move to another device does
    assert torch.equal(logits(model, images()), answered), "the weights are the same"
    model.load_state_dict(make("open_semantic", seed=1).state_dict())
    with pytest.raises(ValueError, match="example pictures .* give them again"):
        logits(model, images())
    model.use_exemplars(vocabulary, source)
    assert torch.isfinite(logits(model, images())).all()
    for other, words in ((make("semantic"), "knows only"), (make("open_semantic", prompting="pre"), "does not depend on the image"),
                         (make("mask_rcnn"), "knows only")):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            other.use_exemplars(vocabulary, source)


@pytest.mark.parametrize("prompting", ["post", "pre", "none"])
def test_open_form__permuting_the_vocabulary_permutes_the_maps(prompting):
    model, batch = make("open_semantic", prompting=prompting), images()
    before = logits(model, batch)
    model.set_vocabulary(Vocabulary.of([NAMES[k] for k in (2, 0, 1)]))
    assert before.std() > 1e-3 and torch.allclose(logits(model, batch), before[:, [2, 0, 1]], atol=1e-4)


def test_open_form__swapping_twice_and_back_gives_the_same_bits():
    model, batch = make("open_semantic"), images()
    before = logits(model, batch)
    for names in (OTHERS, ["tree"], NAMES):
        model.set_vocabulary(Vocabulary.of(names))
        after = logits(model, batch)
        assert after.shape[1] == len(names)
    assert torch.equal(before, after)


def test_open_form__blocks_of_classes_change_nothing(monkeypatch):
    from ovdense.methods.denseclip import open_decoder

    model, batch = make("open_semantic"), images()
    model.set_vocabulary(Vocabulary.of(OTHERS))
    at_once, sizes = logits(model, batch), []
    model.decoder.refine.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    monkeypatch.setattr(open_decoder, "REFINE_NUMBERS", 3 * 4 * 16 * 24)  # three maps of four channels at the finest size
    torch.testing.assert_close(logits(model, batch), at_once)
    assert sizes == [3, 3, 3, 1], "ten maps of two images"


def test_open_form__descriptions_are_asked_and_averaged():
    model, batch = make("open_semantic"), images()
    plain = Vocabulary.of(NAMES)
    described = Vocabulary((ClassEntry(name="cat", descriptions=("striped", "asleep")), *plain[1:]))
    model.set_vocabulary(described)
    by_name = logits(model, batch)
    model.set_vocabulary(described, prompt="descriptions")
    by_description = logits(model, batch)
    assert not torch.allclose(by_name[:, 0], by_description[:, 0], atol=1e-4)
    encode = lambda *sentences: model.pixel_text.encode(model.text_encoder, Vocabulary.of(list(sentences)), "texts").rows_1KC[0]  # noqa: E731
    rows = model.pixel_text.encode(model.text_encoder, described, "descriptions").rows_1KC[0]
    assert torch.allclose(rows, torch.cat([encode("cat, striped", "cat, asleep").mean(0, keepdim=True), encode(*NAMES[1:])]), atol=1e-6)


@pytest.mark.parametrize("decoder", ["semantic", "retina", "mask_rcnn"])
def test_published_form__another_vocabulary_is_a_clear_error(decoder):
    model = make(decoder)
    with pytest.raises(ValueError, match="knows only its 3 classes, got 5; .*OpenSemanticFpn"):
        model.set_vocabulary(Vocabulary.of(OTHERS))
    with pytest.raises(ValueError, match="class 0 is 'sofa' where it knows 'cat'"):
        model.set_vocabulary(Vocabulary.of([NAMES[k] for k in (1, 0, 2)]))


def test_text__is_encoded_once_a_vocabulary(monkeypatch):
    model, calls = make("open_semantic"), []
    original = model.text_encoder.encode_names
    monkeypatch.setattr(model.text_encoder, "encode_names", lambda *a: calls.append(1) or original(*a))
    batch = images()
    logits(model, batch), logits(model, batch)
    assert len(calls) == 1
    model.set_vocabulary(Vocabulary.of(OTHERS))
    logits(model, batch)
    assert len(calls) == 2
    plain = model.text().rows_1KC
    model.load_state_dict(model.state_dict())  # other weights: other text
    with torch.autocast("cpu", torch.bfloat16):  # the text is kept: the precision of the first image is not that of a later one's text
        logits(model, batch)
    assert len(calls) == 3 and torch.equal(model.text().rows_1KC, plain)


def test_background__has_a_learned_vector_of_its_own():
    names = Vocabulary((ClassEntry(name="background", is_background=True), *Vocabulary.of(NAMES)))
    model, batch = make("open_semantic", pixel_text=dict(learn_background=True)), images()
    model.set_vocabulary(names)
    before = logits(model, batch)
    with torch.no_grad():
        model.pixel_text.background_C.neg_()
    after = logits(model, batch)
    model.set_vocabulary(Vocabulary((ClassEntry(name="nothing at all", is_background=True), *names[1:])))
    assert not torch.allclose(before[:, 0], after[:, 0]) and torch.equal(logits(model, batch), after)


# windows and views


def test_slide__one_window_is_the_whole_image():
    whole, slid = make(), make(test=dict(crop=(64, 96), stride=(64, 96)))
    batch = images()
    from ovdense.heads.segment import resized

    assert torch.allclose(resized(logits(whole, batch), (64, 96)), logits(slid, batch), atol=1e-5)
    assert logits(make(test=dict(crop=(64, 64), stride=(43, 43))), images(1, 80, 112)).shape == (1, 3, 80, 112)


def test_views__flips_make_the_answer_symmetric():
    model, batch = make(test=dict(scales=(0.5, 1.0), flip=True)), images()
    probability = logits(model, batch)
    assert probability.shape == (2, 3, 64, 96) and torch.allclose(probability.sum(1), torch.ones(2, 64, 96), atol=1e-5)
    assert torch.allclose(logits(model, batch.flip(3)), probability.flip(3), atol=1e-5)
    assert "scales 0.5, 1 with flips" in model.protocol()["views"]


def test_predict__label_maps_have_the_files_size():
    from dataclasses import replace

    model, batch = make("open_semantic"), images()
    known = [replace(t, original_size_hw=size) for t, size in zip(targets(batch), [(33, 50), (128, 200)])]
    found = model.predict(batch, known)
    assert [tuple(r.label_map_HW.shape) for r in found] == [(33, 50), (128, 200)] and found[0].names == tuple(NAMES)


def test_a_batch__equals_single_images():
    for decoder in ("semantic", "open_semantic"):
        model, batch = make(decoder), images()
        both = logits(model, batch)
        assert torch.allclose(both[1:], logits(model, batch[1:]), atol=1e-4)


@pytest.mark.parametrize("bad, words", [(dict(crop=(8, 8)), "given together"), (dict(scales=()), "positive"), (dict(scales=(1.0, -1.0)), "positive")])
def test_test_settings__say_what_is_wrong(bad, words):
    with pytest.raises(ValueError, match=words):
        make(test=bad)


# training


@pytest.mark.parametrize("decoder, prompting", [("semantic", "post"), ("open_semantic", "post"), ("open_semantic", "pre"), ("semantic", "none")])
def test_segmenter__training_lowers_the_loss(decoder, prompting):
    model, batch = make(decoder, prompting=prompting).train(), images()
    label = torch.zeros(2, 64, 96, dtype=torch.long)
    label[:, :, 48:], label[:, :8] = 2, 255
    known = targets(batch, label=label)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    seen = []
    for _ in range(6):
        losses = model.loss(batch, known)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        seen.append(sum(losses.values()).item())
    assert set(losses) == {"loss_ce", "loss_aux_ce"} and seen[-1] < 0.9 * seen[0]
    assert all(p.grad is None for p in model.text_encoder.parameters())
    assert model.pixel_text.contexts.grad.abs().sum() > 0


@pytest.mark.parametrize("decoder", ["retina", "mask_rcnn"])
def test_detector__trains_and_detects(decoder):
    model, batch = make(decoder).train(), images(2, 128, 128)
    known = targets(batch, boxes=[[8, 8, 72, 72], [40, 56, 120, 120]], classes=[0, 2], masks=True)
    losses = model.loss(batch, known)
    assert "loss_aux_box" in losses and all(torch.isfinite(v) for k, v in losses.items() if "loss" in k)
    sum(v for k, v in losses.items() if "loss" in k).backward()
    assert model.pixel_text.contexts.grad.abs().sum() > 0
    found = model.eval().predict(batch, known)
    assert len(found) == 2 and all((r.masks_NHW is not None) == (decoder == "mask_rcnn") for r in found)


@pytest.mark.parametrize("decoder", ["retina", "mask_rcnn"])
def test_detector__a_batch_without_boxes_has_a_finite_loss(decoder):
    model, batch = make(decoder).train(), images(2, 64, 64)
    losses = model.loss(batch, targets(batch, masks=True))
    assert losses["loss_aux_box"] == 0 and all(torch.isfinite(v).all() for v in losses.values())
    sum(v for k, v in losses.items() if "loss" in k).backward()


def test_mask_rcnn__without_masks_says_so():
    model, batch = make("mask_rcnn").train(), images(1, 64, 64)
    with pytest.raises(ValueError, match="with_masks=True"):
        model.loss(batch, targets(batch, boxes=[[8, 8, 40, 40]], classes=[1]))


def test_segmenter__without_label_maps_says_so():
    model, batch = make().train(), images()
    with pytest.raises(ValueError, match="LoadLabelMap before the resize"):
        model.loss(batch, targets(batch))


def test_training_data__other_classes_than_the_models_are_an_error():
    model = make()
    model.train_on(Vocabulary.of(NAMES))
    with pytest.raises(ValueError, match="must be the training data's"):
        model.train_on(Vocabulary.of(["dog", "sofa", "potted plant"]))
    fresh = make("open_semantic")
    fresh.trained_on = None
    with pytest.raises(ValueError, match="VocabularyHook"):
        fresh._training_text()


# other backbones


def test_without_text__it_is_the_plain_network():
    backbone = TimmBackbone("tf_efficientnet_lite0", out_strides=(8, 16, 32))
    plain = DenseClip(backbone=backbone, vocabulary=NAMES,
                      decoder=SemanticFpn(3, in_channels=backbone.channels, strides=backbone.strides, score_stride=None, channels=8, head_channels=8))
    plain.set_vocabulary(Vocabulary.of(NAMES))
    with pytest.raises(ValueError, match="no text encoder"):
        plain.use_exemplars(Vocabulary.of(NAMES), None)
    batch = images(1, 64, 64)
    assert plain.eval().segment(batch).shape == (1, 3, 8, 8)
    assert set(plain.train().loss(batch, targets(batch, label=torch.zeros(1, 64, 64, dtype=torch.long)))) == {"loss_ce"}
    with pytest.raises(ValueError, match="need a text encoder"):
        DenseClip(backbone=backbone, decoder=OpenSemanticFpn(in_channels=(8,) * 4, embed_width=4, channels=4, head_channels=4))


@pytest.mark.parametrize("name, heads", [("resnet50", 32), ("tf_efficientnet_lite0", 8)])
def test_pooled_backbone__gives_any_network_vectors_of_the_texts_width(name, heads):
    pooled = PooledBackbone(TimmBackbone(name, out_strides=(16, 32)), embed_width=12, heads=heads, table_size=2).eval()
    dense = pooled.dense(images(1, 64, 96))
    assert dense.local.tensor_BCHW.shape == (1, 12, 2, 3) and dense.global_BC.shape == (1, 12) and dense.level == 1
    with pytest.raises(ValueError, match="heads must divide"):
        PooledBackbone(TimmBackbone(name, out_strides=(16, 32)), embed_width=12, heads=7)


class Places(DenseImageEncoder):
    """Means of blocks, and how often they were asked for."""

    mean, std, width = (127.5,) * 3, (127.5,) * 3, 3

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def settings(self):
        return {}

    def encode_places(self, images_BCHW):
        self.asked += len(images_BCHW)
        return FeatureMap(tensor_BCHW=torch.nn.functional.avg_pool2d(images_BCHW, 16), stride=16), images_BCHW.mean((2, 3))


def test_paired_backbone__vectors_are_resized_and_remembered_in_training():
    places = Places()
    backbone = RememberingBackbone(TimmBackbone("tf_efficientnet_lite0", out_strides=(16, 32), frozen_stages=4))
    paired, batch = PairedBackbone(backbone, places, stride=32), images(2, 64, 96)
    plain = paired.eval().dense(batch)
    assert plain.local.tensor_BCHW.shape == (2, 3, 2, 3) and plain.level == 1 and places.asked == 2
    first, again = paired.train().dense(batch), paired.dense(batch.flip(0))
    assert places.asked == 4 and torch.equal(first.global_BC, again.global_BC.flip(0))
    assert torch.allclose(first.local.tensor_BCHW, plain.local.tensor_BCHW, atol=1e-3)
    with pytest.raises(ValueError, match="stride must be one of"):
        PairedBackbone(backbone, places, stride=8)


@pytest.mark.parametrize("decoder", ["semantic", "open_semantic", "mask_rcnn"])
def test_a_batch__of_several_sizes_equals_single_images(decoder):
    """Attention pooling, context decoder and positions must not see the padding that batch mates bring."""
    from dataclasses import replace

    model, sizes = make(decoder), [(32, 64), (64, 96), (32, 50), (64, 96)]
    pixels = [torch.randint(0, 256, (3, *s), dtype=torch.uint8, generator=torch.Generator().manual_seed(n)) for n, s in enumerate(sizes)]
    known = [replace(t, size_hw=s, original_size_hw=s) for t, s in zip(targets(images(4)), sizes)]

    def answers(which):
        batch = model.data_preprocessor({"images": [pixels[b] for b in which]})["images"]
        found = model.predict(batch, [known[b] for b in which])
        return found, model.score_maps(batch, [known[b] for b in which])

    with torch.no_grad():
        together, maps = answers(range(4))
        for b in range(4):
            (alone,), (own,) = answers([b])
            assert together[b].image_id == b
            torch.testing.assert_close(maps[b], own, atol=1e-5, rtol=1e-4)
            if decoder != "mask_rcnn":
                assert (together[b].label_map_HW == alone.label_map_HW).float().mean() > 0.999
            else:
                torch.testing.assert_close(together[b].scores, alone.scores, atol=1e-4, rtol=1e-3)


def test_paired_backbone__padding_of_a_batch_changes_no_vector_in_training(monkeypatch):
    places = Places()
    backbone = RememberingBackbone(TimmBackbone("tf_efficientnet_lite0", out_strides=(16, 32), frozen_stages=4))
    paired = PairedBackbone(backbone, places, stride=16)
    small, large = images(1, 60, 64)[0], images(1, 96, 128, seed=1)[0]
    alone = paired.eval().dense(torch.nn.functional.pad(small, (0, 0, 0, 4))[None])
    places.asked = 0
    for memory in (paired.memory, None):
        monkeypatch.setattr(paired, "memory", memory)
        both = paired.train().dense(torch.stack([large, torch.nn.functional.pad(small, (0, 64, 0, 36))]))
        assert both.local.tensor_BCHW.shape == (2, 3, 6, 8)
        torch.testing.assert_close(both.local.tensor_BCHW[1, :, :4, :4], alone.local.tensor_BCHW[0], atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(both.global_BC[1], alone.global_BC[0], atol=1e-3, rtol=1e-3)
        assert not both.local.tensor_BCHW[1, :, 4:].any() and not both.local.tensor_BCHW[1, :, :, 4:].any()
    monkeypatch.undo()
    paired.train().dense(torch.nn.functional.pad(small, (0, 32, 0, 4))[None])
    assert places.asked == 4, "found again whatever its batch pads it to"


def test_paired_backbone__can_be_pickled_and_forgets_when_weights_are_loaded():
    paired = PairedBackbone(RememberingBackbone(TimmBackbone("tf_efficientnet_lite0", out_strides=(16, 32), frozen_stages=4)), Places(), stride=16)
    again = pickle.loads(pickle.dumps(paired)).train()
    again.dense(images(1, 64, 64))
    assert again.memory.kept
    again.load_state_dict(paired.state_dict())
    assert not again.memory.kept


def test_vit__images_need_not_be_multiples_of_its_patch():
    """As in the release: nothing is padded, what is left over is dropped and the maps are stretched."""
    torch.manual_seed(0)
    backbone = ClipVit(width=16, layers=4, heads=2, embed_width=12, table_size=3, out_blocks=(0, 1, 2, 3))
    model = DenseClip(backbone=backbone, decoder=SemanticFpn(3, in_channels=backbone.channels, score_stride=16, channels=8, head_channels=8),
                      text_encoder=ClipContextEncoder(embed_width=12, width=16, heads=2, layers=1), vocabulary=NAMES,
                      pixel_text=dict(num_contexts=2, decoder=dict(width=8, heads=2, num_layers=1)), test=dict(crop=(48, 48), stride=(32, 32)),
                      divisor=1).eval()  # fmt: skip
    model.set_vocabulary(Vocabulary.of(NAMES))
    pixels = torch.randint(0, 256, (3, 50, 75), dtype=torch.uint8)
    batch = model.data_preprocessor({"images": [pixels]})["images"]
    assert batch.shape[-2:] == (50, 75) and model.predict(batch, targets(batch))[0].label_map_HW.shape == (50, 75)
    model.test = type(model.test)()
    assert logits(model, batch).shape == (1, 3, 12, 16) and model.predict(batch, targets(batch))[0].label_map_HW.shape == (50, 75)


def test_text__follows_a_step_of_training_and_a_part_that_is_loaded():
    model = make("open_semantic").train()
    before = model.text().rows_1KC
    with torch.no_grad():
        model.pixel_text.contexts.add_(torch.randn_like(model.pixel_text.contexts))
    stepped = model.eval().text().rows_1KC
    assert not torch.allclose(before, stepped) and model.text().rows_1KC is stepped
    model.text_encoder.load_state_dict(make("open_semantic", seed=1).text_encoder.state_dict())
    assert not torch.allclose(model.text().rows_1KC, stepped)
