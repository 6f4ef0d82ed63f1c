"""Ways to serve the detector: a pre-filter over chunks, background classes that compete, a vocabulary folded into the file."""
import pytest
import torch

from ovdense.methods.checkpoints import read_checkpoint, write_checkpoint
from ovdense.methods.desco.folded import fold, unfold
from ovdense.structures import ClassEntry, Vocabulary
from ovdense.text.prompts import PromptChunk
from tests.methods.desco.test_model import TINY_BERT, VOCABULARY, count_calls, image, predict, same, target, tiny


def cfg(**test):
    """Return the config of `tiny`."""
    return dict(
        type="ovdense.methods.desco.model.Desco",
        backbone=dict(type="ovdense.vision.backbones.TimmBackbone", name="tf_efficientnet_lite0", out_strides=(16, 32), weights="embedded"),
        neck=dict(type="ovdense.layers.fpn.FeaturePyramid", in_channels=(112, 320), out_channels=32, num_extra=1),
        text_encoder=dict(type="ovdense.text.encoders.BertTextEncoder", weights=None, config=TINY_BERT, frozen=False),
        head=dict(channels=32, num_blocks=2, num_levels=3, embed_width=16, num_heads=2, bert_heads=2, bert_ffn=32, dropout=0.0, deformable=False),
        criterion=dict(anchor_scale=4.0, published=False, no_object_token=False),
        test=dict(score_thr=0.0, max_tokens=128) | test,
    )


# pre-filter


def test_prefilter__keeps_the_share_of_chunks_and_their_scores():
    whole, filtered = tiny(max_classes=2, max_dets=None), tiny(max_classes=2, max_dets=None, prefilter_keep=0.5)
    for model in (whole, filtered):
        model.set_vocabulary(VOCABULARY)
    all_, some = (predict(m, [image(3)], [target(3)])[0] for m in (whole, filtered))
    kept = set(some.labels.tolist())
    assert 0 < len({k // 2 for k in kept}) <= 3, "six chunks, half of them kept"
    inside = torch.tensor([k in kept for k in all_.labels.tolist()])
    torch.testing.assert_close(some.scores, all_.scores[inside])
    assert "50%" in filtered.protocol()["prefilter"] and "prefilter" not in whole.protocol()


def test_prefilter__a_batch_equals_single_images():
    model = tiny(max_classes=2, chunk_batch=4, prefilter_keep=0.4)
    model.set_vocabulary(VOCABULARY)
    images, targets = [image(i) for i in range(3)], [target(i) for i in range(3)]
    for single, image_, target_ in zip(predict(model, images, targets), images, targets):
        same(single, predict(model, [image_], [target_])[0])


def test_prefilter__off_costs_nothing_and_on_runs_the_backbone_once():
    for keep, heads in ((1.0, 0), (0.5, 6)):
        model = tiny(max_classes=2, prefilter_keep=keep)
        model.set_vocabulary(VOCABULARY)
        coarse, backbone = count_calls(model.head, "match"), count_calls(model.backbone)
        predict(model, [image(0)], [target(0)])
        assert (len(coarse), len(backbone)) == (heads, 1)


@torch.no_grad()
def test_prefilter__ranks_chunks_by_the_coarse_look():
    """With maps that are the same everywhere, averaging changes nothing but the number of places: the best chunk is the best."""
    model = tiny(max_classes=2, max_dets=None, prefilter_keep=0.01, prefilter_pool=1)
    model.set_vocabulary(VOCABULARY)
    features = model.encode_image(model.data_preprocessor({"images": [image(5)], "targets": [target(5)]}, False)["images"])
    (kept,) = model.promising(features, model.text())
    best = max(model.text(), key=lambda chunk: max(float(s.score_QK.max()) for s in next(model.score(features, [chunk]))))
    assert kept.classes.tolist() == best.classes.tolist()


@pytest.mark.parametrize("settings", [dict(prefilter_keep=0.0), dict(prefilter_keep=1.5), dict(prefilter_pool=0), dict(chunk_batch=0)])
def test_settings__out_of_range_are_refused(settings):
    with pytest.raises(ValueError, match="must"):
        tiny(**settings)


# background classes


def with_background(*names):
    return Vocabulary((*VOCABULARY, *(ClassEntry(name=n, is_background=True) for n in names)))


def test_background__competes_in_every_chunk_and_is_never_reported():
    model = tiny(max_classes=2, max_dets=None)
    model.set_vocabulary(with_background("grass", "sky"))
    chunks = model.text()
    assert len(chunks) == 6 and all(len(c.background_NL) == 2 and bool(c.background_NL.any(1).all()) for c in chunks)
    assert [k for c in chunks for k in c.classes.tolist()] == list(range(len(VOCABULARY)))
    result = predict(model, [image(1)], [target(1)])[0]
    assert len(result) and int(result.labels.max()) < len(VOCABULARY)


def test_background__silences_places_that_are_more_like_it():
    model = tiny(max_classes=2)
    model.set_vocabulary(with_background("grass"))
    chunk = model.text()[0]
    score = torch.rand(1, 50, len(chunk.hidden_LD), generator=torch.Generator().manual_seed(0))
    got = model._class_scores(score, chunk)[0]
    rival = score[0][:, chunk.background_NL[0]].mean(1)
    for k, tokens in enumerate(chunk.tokens_KL):
        own = score[0][:, tokens].mean(1)
        torch.testing.assert_close(got[:, k], torch.where(own >= rival, own, torch.zeros(())))
    assert bool((got == 0).any()) and bool((got > 0).any())


def test_background__alone_is_an_error():
    model = tiny()
    model.set_vocabulary(Vocabulary((ClassEntry(name="sky", is_background=True),)))
    with pytest.raises(ValueError, match="not background"):
        model.text()


# folded vocabulary


@pytest.mark.parametrize("prompt", ["names", "descriptions"])
def test_fold__predicts_the_same_without_the_language_model(tmp_path, prompt):
    model = tiny(max_classes=3)
    model.set_vocabulary(with_background("grass"), prompt=prompt)
    write_checkpoint(tmp_path / "folded.pth", fold(model))
    served = unfold(cfg(max_classes=3), read_checkpoint(tmp_path / "folded.pth"))
    assert not list(served.text_encoder.parameters())
    assert served.prompt == prompt and served.vocabulary == model.vocabulary
    expected = predict(model, [image(2)], [target(2)])[0]
    same(predict(served, [image(2)], [target(2)])[0], expected)
    served.train().eval()
    same(predict(served, [image(2)], [target(2)])[0], expected)


def test_fold__another_vocabulary_is_refused_and_the_first_one_stays():
    model = tiny()
    model.set_vocabulary(VOCABULARY)
    served = unfold(cfg(), fold(model))
    served.set_vocabulary(Vocabulary.of(["owl"]))
    with pytest.raises(ValueError, match="has no language model"):
        predict(served, [image(0)], [target(0)])
    served.set_vocabulary(VOCABULARY)
    assert len(predict(served, [image(0)], [target(0)])[0])


def test_unfold__says_what_is_wrong_with_a_file():
    model = tiny()
    with pytest.raises(ValueError, match="set_vocabulary"):
        fold(model)
    caption = PromptChunk(caption="a cat", class_indices=(0,), spans_per_class=(((2, 5),),))
    model.ask([caption], Vocabulary.of(["cat"]))
    with pytest.raises(ValueError, match="asked by captions"):
        fold(model)
    model.set_vocabulary(VOCABULARY)
    folded = fold(model)
    with pytest.raises(ValueError, match="must be a folded model"):
        unfold(cfg(), {"state_dict": {}})
    with pytest.raises(ValueError, match="tensors differ"):
        unfold(cfg() | {"neck": dict(type="ovdense.layers.fpn.FeaturePyramid", in_channels=(112, 320), out_channels=32, num_extra=2)}, folded)
    with pytest.raises(ValueError, match="each of the 11 classes once"):
        unfold(cfg(), folded | {"chunks": folded["chunks"][1:]})


def test_fold_command__what_is_marked_as_a_negative_only_competes(tmp_path, capsys):
    from mmengine.config import Config

    from ovdense.cli.vocab_fold import main

    Config(dict(model=cfg(max_classes=3))).dump(tmp_path / "tiny.py")
    write_checkpoint(tmp_path / "weights.pth", {"state_dict": tiny(max_classes=3).state_dict()})
    files = [str(tmp_path / name) for name in ("tiny.py", "weights.pth", "folded.pth")]
    assert main([*files, "--texts", "cat. dog. not: sofa"]) == 0
    served = unfold(cfg(max_classes=3), read_checkpoint(tmp_path / "folded.pth"))
    assert [(e.name, e.is_background) for e in served.vocabulary] == [("cat", False), ("dog", False), ("sofa", True)]
    assert "2 classes and 1 that only compete in 1 captions" in capsys.readouterr().out
    (tmp_path / "names.txt").write_text("cat\nnot: sofa\n")
    assert main([*files, "--vocab", str(tmp_path / "names.txt")]) == 0
    assert [e.is_background for e in unfold(cfg(max_classes=3), read_checkpoint(tmp_path / "folded.pth")).vocabulary] == [False, True]
