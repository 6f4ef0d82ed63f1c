"""False sentences in captions of grounding data: spans keep their words, the budget holds, nothing true is said twice."""
import json

import numpy as np
import pytest
from PIL import Image

from ovdense.data.false_sentences import AddFalseSentences, add_false_sentences, sentences
from ovdense.data.grounding import GroundingDetection
from ovdense.data.transforms import LoadImage, PackDetection

CAPTION = "A red car stands left of a small dog. Two men in black hats hold three kites"
PHRASES = ("A red car", "a small dog", "Two men", "black hats", "three kites")


def spans_of(*phrases):
    return tuple(((CAPTION.index(p), CAPTION.index(p) + len(p)),) for p in phrases)


def count(text):
    return len(text.split())


@pytest.mark.parametrize("seed", range(30))
def test_add__spans_keep_their_words_and_the_rest_is_false(seed):
    caption, spans = add_false_sentences(np.random.default_rng(seed), CAPTION, spans_of(*PHRASES), num=2, count=count)
    assert tuple(caption[b:e] for ((b, e),) in spans) == PHRASES
    own = {s.strip(" .") for s in sentences(CAPTION)}
    said = [s.strip(" .") for s in sentences(caption)]
    assert len(said) == 4 and own < set(said)
    false = [s for s in said if s not in own]
    assert len(set(false)) == 2 and not {f.casefold() for f in false} & {o.casefold() for o in own}
    assert "  " not in caption and caption.count(".") == 4


def test_add__each_sentence_is_altered_before_any_is_a_second_time():
    for seed in range(10):
        caption, _ = add_false_sentences(np.random.default_rng(seed), CAPTION, (), num=2, count=count)
        words = [set(s.split()) for s in sentences(caption)]
        assert sum("dog" in w or "car" in w for w in words) == sum("men" in w or "hats" in w or "kites" in w for w in words) == 2


def test_add__budget_counts_everything():
    caption, spans = add_false_sentences(np.random.default_rng(0), CAPTION, spans_of("A red car"), num=5, count=count, max_tokens=count(CAPTION) + 9)
    assert count(CAPTION) < count(caption) <= count(CAPTION) + 9
    assert add_false_sentences(np.random.default_rng(0), CAPTION, spans_of("A red car"), num=5, count=count, max_tokens=1) == (CAPTION, spans_of("A red car"))


@pytest.mark.parametrize("caption", ["", "something", "a thing. it"], ids=["empty", "a word", "nothing to alter"])
def test_add__nothing_to_alter_changes_nothing(caption):
    assert add_false_sentences(np.random.default_rng(0), caption, (), num=2, count=count) == (caption, ())


def test_add__a_span_over_a_full_stop_is_not_torn():
    caption = "St. Bernard dog next to a red car"
    for seed in range(20):
        out, (((b, e),),) = add_false_sentences(np.random.default_rng(seed), caption, (((0, 15),),), num=2, count=count)
        assert out[b:e] == "St. Bernard dog"


def test_kinds__only_those_that_are_asked_for():
    out, _ = add_false_sentences(np.random.default_rng(1), CAPTION, (), num=9, count=count, kinds=("number",))
    added = [s for s in sentences(out) if s.strip(" .") not in CAPTION]
    assert added and all({"red", "small", "black"} & set(s.split()) for s in added)


def test_transform__works_on_any_grounding_file(tmp_path):
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    begin = CAPTION.index("a small dog")
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": 30, "width": 40, "caption": CAPTION}],
        "annotations": [{"id": 1, "image_id": 1, "bbox": [1, 1, 10, 10], "tokens_positive": [[begin, begin + 11]], "category_id": 1, "iscrowd": 0}],
        "categories": [{"id": 1, "name": "object"}],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    data = GroundingDetection(ann_file="a.json", data_root=str(tmp_path), transforms=[LoadImage(), AddFalseSentences(num=2), PackDetection()])
    target = data[0]["target"]
    ((b, e),) = target.positive_spans[0]
    assert target.caption[b:e] == "a small dog" and len(target.caption) > len(CAPTION) + 20
    assert data[0]["target"].caption == target.caption != data[1]["target"].caption or len({data[n]["target"].caption for n in range(5)}) > 1


def test_transform__probability_and_errors():
    sample = {"caption": CAPTION, "positive_spans": (), "rng": np.random.default_rng(0)}
    assert AddFalseSentences(prob=0.0)(dict(sample))["caption"] == CAPTION
    with pytest.raises(ValueError, match="caption and positive_spans"):
        AddFalseSentences()({"rng": np.random.default_rng(0)})
    for wrong in (dict(num=0), dict(prob=1.5), dict(kinds=["colour of the sky"])):
        with pytest.raises(ValueError, match="must"):
            AddFalseSentences(**wrong)


def test_add__a_point_inside_a_number_ends_no_sentence_and_a_trailing_blank_hides_no_end():
    caption = "A 3.5 m long red boat lies left of a small dog "
    assert sentences(caption) == [caption] and sentences("One dog. Two men?  A cat") == ["One dog. ", "Two men?  ", "A cat"]
    for seed in range(10):
        out, _ = add_false_sentences(np.random.default_rng(seed), caption, (), num=1, count=count)
        assert len(sentences(out)) == 2 and all(s.rstrip().endswith(".") for s in sentences(out)) and out.count("3.5 m") == 2
