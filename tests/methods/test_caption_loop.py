"""Asking a model by captions: phrases are scored by their own words, and a whole test on Flickr30k's form with a tiny model."""
import json

import numpy as np
import pytest
import torch
from PIL import Image

from ovdense.api import load_config
from ovdense.compat.grounding import CaptionPhrases
from ovdense.data.detection import LvisDetection
from ovdense.data.grounding import PhraseGroundingDetection
from ovdense.data.transforms import LoadImage, PackDetection, ResizeShortestEdge
from ovdense.evaluation.grounding import PhraseGroundingMetric
from ovdense.methods.asking import CaptionTestLoop
from ovdense.methods.base import OpenVocabModel
from ovdense.methods.hooks import VocabularyHook
from ovdense.runs import build_runner
from ovdense.structures import Vocabulary
from ovdense.text.caption_prompts import caption_prompt
from ovdense.text.phrases import phrase_map
from ovdense.text.prompts import PromptChunk
from tests.evaluation.test_phrase_grounding import CAPTION, SPANS, small
from tests.methods.desco.test_model import count_calls, image, predict, same, target, tiny
from tests.tiny_run import shapes, write_config

PHRASES = [[s] for s in SPANS]
STEPS = [dict(type=LoadImage), dict(type=ResizeShortestEdge, short_sides=(64,), max_size=96), dict(type=PackDetection)]


def asked(model, caption=CAPTION, phrases=PHRASES):
    vocabulary, prompt = caption_prompt(caption, phrases)
    model.ask([prompt], vocabulary)
    return predict(model, [image(1)], [target(1)])[0]


def test_prompt__repeated_phrases_are_numbered_and_keep_their_places():
    vocabulary, prompt = caption_prompt("A man, a  man (2) and a man", [[(0, 5)], [(7, 17)], [(22, 27)], [(7, 8), (10, 13)]])
    assert vocabulary.names == ("A man", "a man (2)", "a man (3)", "a man (4)")
    assert prompt.spans_per_class == (((0, 5),), ((7, 17),), ((22, 27),), ((7, 8), (10, 13))) and prompt.class_indices == (0, 1, 2, 3)
    with pytest.raises(ValueError, match="phrase 1"):
        caption_prompt("a man .", [[(0, 5)], [(6, 7)]])
    with pytest.raises(ValueError, match="must have a phrase"):
        caption_prompt("a man .", [])


def test_ask__a_phrase_is_scored_by_the_tokens_of_its_span():
    model = tiny(max_dets=None, chunk_dets=10_000)
    found = asked(model)
    tokenized = model.text_encoder.tokenizer.encode([CAPTION])
    batch = model.data_preprocessor({"images": [image(1)], "targets": [target(1)]}, False)
    with torch.no_grad():
        maps = [f.tensor_BCHW for f in model.encode_image(batch["images"])]
        out = model.head(maps, model.text_encoder.encode(tokenized), tokenized.valid_BL, None)
    token_QL, centerness = out.tokens.logit_BQL[0].sigmoid(), out.centerness_BQ[0].sigmoid()
    for k, row in enumerate(phrase_map(tokenized, 0, PHRASES).tokens_PL):
        best = (token_QL[:, row].mean(1) * centerness).sqrt().max()
        torch.testing.assert_close(found.scores[found.labels == k].max(), best, atol=1e-5, rtol=1e-4)
    assert found.names == ("A man", "a man (2)", "two dogs")


def test_ask__phrases_of_the_same_words_are_told_apart_by_their_place():
    found = asked(tiny())
    assert found.names[:2] == ("A man", "a man (2)")
    first, second = (found.scores[found.labels == k] for k in (0, 1))
    assert first.max() != pytest.approx(second.max().item(), abs=1e-6)


def test_ask__the_caption_of_a_vocabulary_gives_what_the_vocabulary_gives():
    model = tiny()
    model.set_vocabulary(Vocabulary.of(["cat", "fire hydrant"]))
    same(predict(model, [image(1)], [target(1)])[0], asked(model, "cat. fire hydrant", [[(0, 3)], [(5, 17)]]))


def test_ask__the_next_question_is_never_answered_with_the_last_ones_text():
    model = tiny()
    first = asked(model)
    names = first.names
    model.set_vocabulary(Vocabulary.of(names))
    by_name = predict(model, [image(1)], [target(1)])[0]
    assert model.prompt == "names" and by_name.scores[0] != pytest.approx(first.scores[0].item(), abs=1e-6)
    other = asked(model, CAPTION.replace("watch", "avoid"))
    assert other.names == names and other.scores[0] != pytest.approx(first.scores[0].item(), abs=1e-6)
    same(asked(model), first)
    assert model.protocol()["prompt"] == "captions"
    calls = count_calls(model.text_encoder.model)
    asked(model)
    assert len(calls) == 1, "a question is encoded once"
    model.train().eval()
    same(predict(model, [image(1)], [target(1)])[0], first)
    assert len(calls) == 2, "after training the caption is encoded anew"


def test_ask__what_cannot_be_asked_is_said_and_changes_nothing():
    model = tiny(max_tokens=12)
    model.set_vocabulary(Vocabulary.of(["cat"]))
    vocabulary, prompt = caption_prompt(CAPTION, PHRASES)
    with pytest.raises(ValueError, match="each of the 3 classes must stand in one of the captions"):
        model.ask([PromptChunk(caption=CAPTION, class_indices=(0, 1), spans_per_class=prompt.spans_per_class[:2])], vocabulary)
    with pytest.raises(ValueError, match="12"):
        model.ask([PromptChunk(caption=CAPTION * 3, class_indices=(0, 1, 2), spans_per_class=prompt.spans_per_class)], vocabulary)
    assert model.vocabulary.names == ("cat",) and predict(model, [image(1)], [target(1)])[0].names == ("cat",)


def test_ask__models_that_read_no_captions_say_so():
    with pytest.raises(NotImplementedError, match="does not read captions, .* set_vocabulary"):
        OpenVocabModel.ask(tiny(), [], Vocabulary.of(["cat"]))


@pytest.fixture
def data(tmp_path):
    """Folder with the small annotation file and a photo of noise."""
    (tmp_path / "ann.json").write_text(json.dumps(small()))
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (200, 200, 3), dtype=np.uint8)).save(tmp_path / "12.jpg")
    return tmp_path


def runner_of(data, name, dataset=None, **test):
    """Return the runner of a test with a model of fixed random weights, and the samples by image that it will find."""
    cfg = load_config(write_config(data, name))
    cfg.work_dir = str(data / "work")
    cfg.model.test = dict(score_thr=0.0, max_dets=None) | test
    cfg.test_dataloader.dataset = dataset or dict(type=PhraseGroundingDetection, ann_file="ann.json", data_root=str(data), transforms=STEPS)
    cfg.test_dataloader.batch_size = 1
    cfg.test_evaluator = dict(type=PhraseGroundingMetric)
    cfg.test_cfg = dict(type=CaptionTestLoop)
    cfg.custom_hooks = [h for h in cfg.custom_hooks if h["type"] is not VocabularyHook]
    torch.manual_seed(0)
    runner = build_runner(cfg)
    kept, evaluator = {}, runner.test_loop.evaluator
    process = evaluator.process

    def spy(data_samples, data_batch):
        kept.update({s.img_id: s.pred_instances for s in data_samples})
        process(data_samples=data_samples, data_batch=data_batch)

    evaluator.process = spy
    return runner, kept


def test_loop__every_image_is_asked_its_own_caption(data):
    runner, found = runner_of(data, "captions")
    got = runner.test()
    assert set(found) == {5, 7}, "the caption without a phrase is not asked"
    assert set(found[5].labels.tolist()) == {0, 1, 2} and set(found[7].labels.tolist()) == {0}
    model = runner.model.eval()
    sample = runner.test_loop.dataloader.dataset[0]
    vocabulary, prompt = caption_prompt(CAPTION, PHRASES)
    model.ask([prompt], vocabulary)
    alone = predict(model, [sample["image"]], [sample["target"]])[0]
    torch.testing.assert_close(alone.scores, found[5].scores)
    assert torch.equal(alone.labels, found[5].labels)
    protocol = runner.test_loop.evaluator.metrics[0].protocol
    assert got["grounding/phrases"] == 4 and 0 <= got["grounding/R@1"] <= got["grounding/R@10"] <= got["grounding/upper_bound"]
    assert protocol["prompt"] == "captions" and protocol["asked_together"] == "the phrases of the image's caption"
    assert protocol["images"] == 2 and protocol["classes_per_chunk"] == "not stated" and "300 per chunk" in protocol["model_detections"]


def test_loop__a_caption_without_phrases_has_no_detections(data):
    runner, found = runner_of(data, "none")
    dataset = runner.test_loop.dataloader.dataset
    of_image = dataset.phrases_of_image
    dataset.phrases_of_image = lambda i: of_image(i) if i == 5 else CaptionPhrases(caption="two dogs", spans=(), boxes_xyxy=())
    runner.test()
    assert len(found[7]) == 0 and len(found[5]) > 0


def test_loop__a_caption_that_is_too_long_is_named(data):
    runner, _ = runner_of(data, "long", max_tokens=6)
    with pytest.raises(ValueError, match=r"image 5 \(12.jpg\): .*6"):
        runner.test()


def test_loop__wrong_set_ups_are_errors(data, tmp_path_factory):
    scenes = dict(type=LvisDetection, ann_file="annotations/shapes_val.json", image_prefix="images", data_root=str(shapes(tmp_path_factory)), test_mode=True)
    runner, _ = runner_of(data, "wrong", dataset=scenes | dict(prompt="names", transforms=STEPS))
    with pytest.raises(ValueError, match=r"phrases_of_image\), LvisDetection does not"):
        runner.test()
