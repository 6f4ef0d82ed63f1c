"""Captions of grounding data: what ours does better than the release, where both agree, and what broken input says."""
import json
import pickle
import warnings
from collections import Counter

import numpy as np
import pytest

from ovdense.data.grounding_captions import GroundedCaption, GroundingSpec, build_original_query, nouns_of_phrases
from ovdense.data.grounding_descriptions import GroundingOutput, format_grounding_output, parse_grounding_output, read_grounding_outputs
from ovdense.data.grounding_nouns import build_noun_query
from ovdense.data.grounding_published import build_published_caption_query, build_published_grounding_query, build_published_noun_query
from ovdense.data.grounding_queries import GroundingQueries, build_caption_query, build_grounding_query, split_sentences
from ovdense.data.positive_rates import PositiveRates
from ovdense.text.description_files import nouns_of
from ovdense.text.phrases import phrase_map
from ovdense.text.reading import Source
from ovdense.text.tokenizers import embedded_tokenizer

CAPTION = "A brown dog chases a red ball. A manhole is near a cat."
SAID = {
    "A brown dog chases a red ball.": GroundingOutput(
        descriptions={"brown dog": "a kind of animal, furry, four legs", "red ball": "a kind of toy, round", "blue kite": "a kind of toy, flies"},
        confusable={"wolf": "a kind of animal, grey"},
        negative_captions=("A brown goat chases a red ball.", "A brown dog chases a red ball"),
    ),
    " A manhole is near a cat.": GroundingOutput(descriptions={"manhole": "a kind of lid, flat"}, negative_captions=("A manhole is near a fox",)),
}


def word(noun, kind, description, frequency=10, similar=()):
    return [json.dumps({"type": kind, "description": description, "similar objects": list(similar)}), frequency]


NOUNS = {
    "dog": word("dog", "animal", "furry; barks", similar=["wolf", "unicorn"]),
    "wolf": word("wolf", "animal", "grey; howls"),
    "ball": word("ball", "toy", "round"),
    "cat": word("cat", "animal", "furry; meows", frequency=20_000),
    "manhole": word("manhole", "lid", "flat"),
    **{f"thing{n}": word(f"thing{n}", "object", f"part {n}; seen {n} times") for n in range(60)},
}


def words(text: str) -> int:
    return len(text.split())


def grounded(caption=CAPTION, phrases=(("A brown dog",), ("a red ball",), ("A manhole",)), outputs=SAID, nouns=None):
    spans = tuple(tuple((caption.index(p), caption.index(p) + len(p)) for p in of_box) for of_box in phrases)
    return GroundedCaption(caption=caption, spans=spans, nouns=nouns or {}, outputs=outputs)


def nouns(content=None):
    return nouns_of(content or NOUNS, Source("nouns"), "raise")


def said(query):
    return [[query.caption[b:e] for b, e in of_box] for of_box in query.spans]


def captions(number=80, count=words, of=None, **spec):
    of = of or grounded()
    return [build_caption_query(np.random.default_rng(s), of, count, PositiveRates(), GroundingSpec(**spec)) for s in range(number)]


# V4


def test_caption_query__spans_say_the_phrase_or_what_kind_it_is():
    texts = Counter(text for q in captions() for of_box in said(q) for text in of_box)
    expected = {"A brown dog", "a kind of animal", "brown dog, a kind of animal", "a red ball", "a kind of toy", "red ball, a kind of toy"}
    assert set(texts) == expected | {"A manhole", "a kind of lid", "manhole, a kind of lid"}


def test_caption_query__is_the_same_for_the_same_generator():
    for seed in range(5):
        one, two = (build_caption_query(np.random.default_rng(seed), grounded(), words, PositiveRates()) for _ in range(2))
        assert one.caption == two.caption and one.spans == two.spans
    assert len({q.caption for q in captions(20)}) > 10


def test_caption_query__a_true_sentence_is_never_false_and_no_text_is_said_twice():
    for q in captions():
        texts = [t.strip().rstrip(".") for t in q.caption.split(". ") if t.strip()]
        assert len(texts) == len(set(texts)) == q.num_positives + q.num_negatives, q.caption
    # the release takes "A brown dog chases a red ball", said as a negative, for one
    release = [build_published_caption_query(np.random.default_rng(s), grounded(), words, PositiveRates(counts={(2, 2): 99})) for s in range(200)]
    assert any(q.caption.count("A brown dog chases a red ball") > 1 for q in release)


def test_caption_query__a_phrase_that_is_not_there_marks_no_box():
    lost = GroundedCaption(caption="ab. x", spans=(((0, 2),),), outputs={"ab.": GroundingOutput(descriptions={"missing": "a kind of toy, flies"})})
    for seed in range(20):
        assert "toy" not in build_caption_query(np.random.default_rng(seed), lost, words, PositiveRates()).caption
    # in the release it begins at -1 and holds the phrase "ab"
    assert any("toy" in build_published_caption_query(np.random.default_rng(s), lost, words, PositiveRates()).caption for s in range(20))


def test_caption_query__people_are_whole_words():
    assert any("a kind of lid" in q.caption for q in captions())
    release = [build_published_caption_query(np.random.default_rng(s), grounded(), words, PositiveRates()) for s in range(40)]
    assert not any("a kind of lid" in q.caption for q in release)  # "man" is in "manhole"


def test_caption_query__keys_are_found_whatever_their_blanks():
    keyed = {key.strip(): value for key, value in SAID.items()}
    assert any("A manhole is near a cat" in q.caption for q in captions(of=grounded(outputs=keyed)))
    release = [build_published_caption_query(np.random.default_rng(s), grounded(outputs=keyed), words, PositiveRates()) for s in range(40)]
    assert not any("A manhole is near a cat" in q.caption for q in release)


def test_caption_query__budget_counts_all_that_is_written():
    count = embedded_tokenizer().count
    for q in captions(60, count=count, max_tokens=30):
        assert count(q.caption) <= 30 and q.keep.sum() == len(q.spans)
    # the release leaves out the stop that it adds; ours then has no text that fits, and keeps the caption
    of = grounded("A dog", (("A dog",),), {"A dog": GroundingOutput()})
    assert build_published_caption_query(np.random.default_rng(0), of, count, PositiveRates(), max_tokens=2).caption == "A dog. "
    assert captions(1, count, of, max_tokens=2)[0].caption == "A dog" and captions(1, count, of, max_tokens=3)[0].caption == "A dog. "


def test_caption_query__only_negatives():
    for q in captions(30, only_negatives=1.0):
        assert not q.keep.any() and q.spans == () and q.num_positives == 0 and q.num_negatives > 0
    assert sum(q.num_positives == 0 for q in captions(100)) < 40


def test_caption_query__spans_over_two_sentences_stay_whole():
    caption = "A St. Bernard sleeps. A cat"
    of = grounded(caption, (("St. Bernard",), ("A cat",)), {"A St. Bernard sleeps.": GroundingOutput(negative_captions=("A cow sleeps",))})
    assert [caption[b:e] for b, e in split_sentences(caption, of.spans)] == ["A St. Bernard sleeps.", "A cat"]
    for q in captions(of=of):
        assert {t for of_box in said(q) for t in of_box} <= {"St. Bernard", "A cat"}


def test_caption_query__equal_sentences_are_one():
    twice = GroundedCaption(caption="A dog. A dog.", spans=(((2, 5),), ((9, 12),)), outputs={"A dog.": GroundingOutput(negative_captions=("A cow",))})
    for q in captions(of=twice):
        assert q.caption.count("A dog") <= 1 and q.keep[0] == q.keep[1]


def test_caption_query__nobody_was_asked():
    q = captions(1, of=grounded(outputs=None))[0]
    assert q.caption == CAPTION and q.keep.all() and (q.num_positives, q.num_negatives) == (0, 0)
    q = captions(1, of=grounded("", (), {}))[0]
    assert q.caption == "" and q.keep.shape == (0,)
    nothing_there = captions(1, of=grounded("", (), {"": GroundingOutput(negative_captions=("A cow",))}))[0]
    assert nothing_there.caption == "A cow. " and nothing_there.num_negatives == 1


# V3


def noun_queries(number=60, count=words, of=None, content=None, **spec):
    of = of or grounded()
    return [build_noun_query(np.random.default_rng(s), of, count, nouns(content), GroundingSpec(max_tokens=60, **spec)) for s in range(number)]


def test_noun_query__describes_the_nouns_and_drops_the_caption():
    for q in noun_queries(name_prob=1.0):
        assert q.keep.all() and "chases" not in q.caption and words(q.caption) <= 60
        assert said(q) == [["dog, a kind of animal, "], ["ball, a kind of toy, "], ["manhole, a kind of lid, "]]
        assert "cat," not in q.caption  # too frequent, and in the caption
        assert (q.num_positives, q.num_negatives) == (3, q.caption.count(". ") - 3)
    assert all("wolf, a kind of animal, grey" in q.caption for q in noun_queries(name_prob=1.0))


def test_noun_query__both_nouns_of_a_phrase_are_positive():
    both = grounded(phrases=(("A brown dog chases a red ball",),), nouns={"A brown dog chases a red ball": ("dog", "ball")})
    assert all(sorted(said(q)[0]) == ["ball, a kind of toy, ", "dog, a kind of animal, "] for q in noun_queries(of=both, name_prob=1.0))
    for seed in range(20):
        q = build_published_noun_query(np.random.default_rng(seed), both, nouns())
        assert [len(of_box) for of_box in q.spans] == [1]  # the release: the one written last


def test_noun_query__a_distractor_never_reads_as_a_positive():
    small = {"dog": NOUNS["dog"], "wolf": word("wolf", "animal", "furry; barks"), "pup": word("pup", "animal", "furry; barks")}
    for q in noun_queries(content=small, of=grounded(phrases=(("A brown dog",),)), name_prob=0.0):
        assert q.caption == "a kind of animal, furry, barks. " and q.keep.all()
    release = [build_published_noun_query(np.random.default_rng(s), grounded(phrases=(("A brown dog",),)), nouns(small)) for s in range(20)]
    assert any(q.caption.count("a kind of animal, furry, barks. ") > 1 for q in release)


def test_noun_query__a_noun_with_a_hyphen_that_the_caption_says_is_no_distractor():
    content = {"dog": NOUNS["dog"], "t-shirt": word("t-shirt", "garment", "short sleeves"), "x-ray": word("x-ray", "photo", "blue")}
    of = grounded("A brown dog wears a t-shirt.", phrases=(("A brown dog",),))
    made = noun_queries(of=of, content=content, name_prob=1.0)
    assert all("x-ray," in q.caption and "t-shirt" not in q.caption for q in made)


def test_noun_query__nouns_that_read_the_same_share_a_piece():
    content = {"dog": word("dog", "animal", "furry"), "manhole": word("manhole", "animal", "furry")}
    for q in noun_queries(content=content, of=grounded(phrases=(("A brown dog",), ("A manhole",))), name_prob=0.0):
        assert q.keep.all() and q.spans[0] == q.spans[1] and q.caption == "a kind of animal, furry. "


def test_noun_query__nothing_known():
    q = noun_queries(1, of=grounded(phrases=(("near",),)))[0]
    assert q.caption == CAPTION and q.keep.all()
    assert noun_queries(1, of=grounded("", (), None))[0].caption == ""


def test_noun_query__budget_in_tokens():
    count = embedded_tokenizer().count
    many = {f"thing{n}": word(f"thing{n}", "supercalifragilistic gizmo", "hyperextraordinarily-longwinded " * 3) for n in range(90)} | {"dog": NOUNS["dog"]}
    of = grounded(phrases=(("A brown dog",),))
    ours = [build_noun_query(np.random.default_rng(s), of, count, nouns(many)) for s in range(10)]
    assert all(count(q.caption) <= 254 and q.keep.all() for q in ours)
    release = [build_published_noun_query(np.random.default_rng(s), of, nouns(many)) for s in range(10)]
    assert max(count(q.caption) for q in release) > 254  # 180 words


# the mixture


def test_original__is_cut_after_the_last_word_that_fits():
    q = build_original_query(grounded(), words, 6)
    assert q.caption == "A brown dog chases a red" and q.keep.tolist() == [True, False, False] and said(q) == [["A brown dog"]]
    assert build_original_query(grounded(), words, 254).caption == CAPTION
    assert build_original_query(grounded("", ()), words, 6).caption == ""


@pytest.mark.parametrize("published", [False, True])
def test_mixture__has_its_shares_and_is_deterministic(published):
    spec, kinds = GroundingSpec(published_quirks=published), Counter()
    for seed in range(400):
        queries = [build_grounding_query(np.random.default_rng(seed), grounded(), words, nouns(), PositiveRates(), spec) for _ in range(2)]
        assert queries[0].caption == queries[1].caption
        kinds["same" if queries[0].caption == CAPTION else "nouns" if "part " in queries[0].caption else "caption"] += 1
    assert abs(kinds["caption"] / 400 - 0.5) < 0.08 and abs(kinds["nouns"] / 400 - 0.4) < 0.08 and abs(kinds["same"] / 400 - 0.1) < 0.05


def test_published_mixture__takes_probabilities():
    rng = np.random.default_rng(0)
    q = build_published_grounding_query(rng, grounded(), words, nouns(), PositiveRates(), prob_caption=0.0, prob_nouns=0.0)
    assert q.caption == CAPTION


WRONG_SPECS = [
    (dict(prob_caption=0.7, prob_nouns=0.5), "must not exceed 1"),
    (dict(name_prob=2), "name_prob must lie"),
    (dict(max_tokens=0), "max_tokens"),
    (dict(published_quirks=True, only_negatives=0.1), "never drops positives"),
]


@pytest.mark.parametrize(("wrong", "message"), WRONG_SPECS)
def test_spec__rejects_what_cannot_be(wrong, message):
    with pytest.raises(ValueError, match=message):
        GroundingSpec(**wrong)


def test_grounded__spans_lie_in_the_caption():
    with pytest.raises(ValueError, match="box 1 of 'A dog'"):
        GroundedCaption(caption="A dog", spans=((), ((2, 9),)))
    assert nouns_of_phrases("A dog", [((0, 5),), ((0, 5),), ()], [["cat"], ["dog"], None]) == {"A dog": ("dog",)}


# the controller


def test_rates__the_published_rule_fills_what_is_behind():
    rates = PositiveRates()
    assert rates.choose(2, 6) == (2, 0)  # all true ones, the shortest
    for _ in range(2):
        rates.record(2, 0)
    assert rates.counts == {(2, 2): 2} and rates.choose(2, 6) == (2, 1)
    assert rates.choose(0, 0) == (0, 0) and rates.choose(5, 5, max_texts=0) == (5, 5)
    assert rates.choose(5, 5, max_texts=2) == (1, 0)  # as near as two texts come, (2, 2) being full
    before = rates.counts
    rates.record(0, 0)
    rates.record(40, 1)
    assert rates.counts == before
    with pytest.raises(ValueError, match="at most 35 texts"):
        PositiveRates(counts={(36, 1): 1})


def test_rates__draw_keeps_the_limits_and_the_shares():
    rates, rng = PositiveRates(), np.random.default_rng(0)
    drawn = Counter(rates.draw(rng, 2, 3, 4) for _ in range(4000))
    assert all(p <= 2 and n <= 3 and 1 <= p + n <= 4 for p, n in drawn)
    # pairs of one length come equally often
    assert abs(drawn[(1, 3)] - drawn[(2, 2)]) < 250 and drawn[(1, 3)] > 4 * drawn[(0, 2)]
    assert rates.draw(rng, 0, 0) == (0, 0) and rates.draw(rng, 1, 0) in {(1, 0)} and rates.draw(rng, 3, 3, 0) == (0, 0)


# what a language model said


def test_output__both_layouts_are_written_and_read():
    for layout in ("lines", "numbered"):
        for output in (SAID["A brown dog chases a red ball."], GroundingOutput()):
            assert parse_grounding_output(format_grounding_output(output, layout)) == output
    with pytest.raises(ValueError, match="layout must be"):
        format_grounding_output(GroundingOutput(), "table")


BROKEN = [
    ("", "non-empty string"),
    (None, "non-empty string"),
    ("I cannot help with that.", "the headings '1. Visually concrete"),
    ("descriptions: {}\nobjects: {}", "line 3 must hold 'captions: '"),
    ("descriptions: {}\nphrases: {}\ncaptions: []", "line 2 must hold 'descriptions: ' or 'objects: '"),
    ("descriptions: {'a': 'b'}\nobjects: {}\ncaptions: []", "the descriptions must be JSON"),
    ("descriptions: {}\nobjects: __import__('os')\ncaptions: []", "the confusable things must be JSON"),
    ('descriptions: {"a": ""}\nobjects: {}\ncaptions: []', "phrase -> non-empty description"),
    ('descriptions: []\nobjects: {}\ncaptions: []', "must be an object"),
    ('descriptions: {}\nobjects: {}\ncaptions: {"a": 1}', "the negative captions must be a list"),
    ('descriptions: {}\nobjects: {}\ncaptions: [3]', "the negative captions must be a list"),
]


@pytest.mark.parametrize(("text", "message"), BROKEN)
def test_output__broken_text_is_named(text, message):
    with pytest.raises(ValueError) as caught:
        parse_grounding_output(text, "a.json: image 3")
    assert message in str(caught.value) and str(caught.value).startswith("a.json: image 3: ")


def test_outputs__broken_ones_are_empty_and_told():
    good = format_grounding_output(GroundingOutput(negative_captions=("A cow",)))
    outputs, broken = read_grounding_outputs({"A dog.": "no", "A cat.": good}, "a.json: image 3")
    assert outputs["A dog."] == GroundingOutput() and outputs["A cat."].negative_captions == ("A cow",)
    assert len(broken) == 1 and broken[0].startswith("a.json: image 3: gpt3_outputs['A dog.']: ")
    with pytest.raises(ValueError, match="must be an object"):
        read_grounding_outputs(["A dog."], "a.json")


# the transform


def sample(seed=0, **more):
    of = grounded()
    raw = {key: format_grounding_output(value) for key, value in SAID.items()}
    made = dict(
        rng=np.random.default_rng(seed), file_name="1.jpg", image_id=1, caption=CAPTION, positive_spans=of.spans, labels=np.zeros(3, dtype=np.int64),
        boxes_xyxy=np.arange(12, dtype=np.float32).reshape(3, 4), gpt3_outputs=raw, nouns={"A brown dog": ["dog"]},
    )  # fmt: skip
    return {**made, **more}


@pytest.fixture
def noun_file(tmp_path):
    path = tmp_path / "nouns.json"
    path.write_text(json.dumps(NOUNS))
    return path


@pytest.mark.parametrize("published", [False, True])
def test_transform__boxes_and_spans_belong_together(noun_file, published):
    step, tokenizer = GroundingQueries(nouns=noun_file, published_quirks=published), embedded_tokenizer()
    for seed in range(60):
        out = step(sample(seed))
        assert len(out["boxes_xyxy"]) == len(out["labels"]) == len(out["positive_spans"]) and not {"gpt3_outputs", "nouns"} & set(out)
        rows = phrase_map(tokenizer.encode([out["caption"]], max_tokens=600), 0, out["positive_spans"]).tokens_PL
        assert bool((rows.sum(1) > 0).all()) and (published or tokenizer.count(out["caption"]) <= 254)
    assert bool(step.rates.counts) == published
    again = pickle.loads(pickle.dumps(step))
    assert again(sample(7))["caption"] == step(sample(7))["caption"]


def test_transform__a_sample_depends_on_its_own_draws_only(noun_file):
    one, two = GroundingQueries(nouns=noun_file), GroundingQueries(nouns=noun_file)
    for seed in range(10):
        one(sample(seed))
    assert one(sample(3))["caption"] == two(sample(3))["caption"]


def test_transform__broken_outputs_are_told_once(noun_file):
    step = GroundingQueries(nouns=noun_file)
    with pytest.warns(UserWarning, match=r"1.jpg \(image 1\): gpt3_outputs\['A brown dog"):
        step(sample(gpt3_outputs={"A brown dog chases a red ball.": "no"}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        step(sample(gpt3_outputs={"A brown dog chases a red ball.": "no"}))


def test_transform__errors(noun_file):
    with pytest.raises(ValueError, match="set prob_nouns=0"):
        GroundingQueries()
    with pytest.raises(ValueError, match="needs a caption and the spans of each of 3 boxes"):
        GroundingQueries(prob_nouns=0)(sample(caption=" "))
    with pytest.raises(ValueError, match="needs a caption and the spans of each of 3 boxes"):
        GroundingQueries(prob_nouns=0)(sample(positive_spans=((),)))
    with pytest.raises(FileNotFoundError):
        GroundingQueries(nouns="nowhere.json")
    assert GroundingQueries(prob_nouns=0, prob_caption=0)(sample())["caption"] == CAPTION
