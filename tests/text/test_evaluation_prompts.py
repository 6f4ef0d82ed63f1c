"""Prompts for OmniLabel's texts and for altered descriptions."""
import pytest

from ovdense.structures import ClassEntry
from ovdense.text.evaluation_prompts import altered_prompt, omnilabel_chunks
from ovdense.text.published_pieces import published_description, published_name, published_piece


def said(chunk):
    return [[chunk.caption[b:e] for b, e in spans] for spans in chunk.spans_per_class]


TEXTS = ["a cup of tea.", "cup", "the red dog", "tea pot", "cup"]


def test_omnilabel__long_texts_run_alone():
    chunks = omnilabel_chunks(TEXTS)
    assert [(c.caption, c.class_indices) for c in chunks] == [
        ("Detect: a cup of tea", (0,)), ("Detect: the red dog", (2,)), ("Detect: cup. tea pot", (1, 3, 4)),
    ]  # fmt: skip
    assert said(chunks[2]) == [["cup"], ["tea pot"], ["cup"]] and chunks[2].spans_per_class[0] == chunks[2].spans_per_class[2]
    # the release takes long texts into a chunk that begins with a short one, and writes equal ones again
    chunks = omnilabel_chunks(TEXTS, published_quirks=True)
    assert [c.caption for c in chunks] == ["Detect: a cup of tea", "Detect: cup. the red dog. tea pot. cup"]


def test_omnilabel__chunks_have_their_size():
    chunks = omnilabel_chunks([f"thing {n}" for n in range(45)], max_texts=20)
    assert [len(c.class_indices) for c in chunks] == [20, 20, 5] and sorted(k for c in chunks for k in c.class_indices) == list(range(45))
    assert omnilabel_chunks([]) == [] == omnilabel_chunks([], published_quirks=True)


@pytest.mark.parametrize("published", [False, True])
def test_omnilabel__what_stands_for_a_text(published):
    def positive(text, **phrases):
        return said(omnilabel_chunks([text], noun_phrases=phrases.get("nouns"), published_quirks=published)[0])[0]

    assert positive("retriever, a kind of dog, furry") == ["retriever"]
    assert positive("a dog, furry and big") == ["a dog, furry and big"]
    assert positive("The red Dog runs.", nouns={"The red Dog runs": "the red dog"}) == ["The red Dog"]
    assert positive("The red dog runs", nouns={"The red dog runs": "cat"}) == (["The red dog runs"] if not published else [" Th"])


def test_omnilabel__errors():
    with pytest.raises(ValueError, match="text 1"):
        omnilabel_chunks(["cup", "."])
    with pytest.raises(ValueError, match="sequence of strings"):
        omnilabel_chunks("cup")
    with pytest.raises(ValueError, match="max_texts"):
        omnilabel_chunks(["cup"], max_texts=0)


CAN = ClassEntry(name="can_(metal)", kind="container", descriptions=("round; has a lid",))


def test_altered__noun_and_kind_stay():
    captions = [altered_prompt(CAN, ["soft; blue", "flat"], n) for n in range(3)]
    assert [c.caption for c in captions] == [
        "Detect: can, a kind of container, round, has a lid. ", "Detect: can, a kind of container, soft, blue. ", "Detect: can, a kind of container, flat. ",
    ]  # fmt: skip
    assert all(said(c) == [["can, a kind of container, "]] for c in captions)


def test_altered__past_the_end():
    with pytest.raises(ValueError, match="class 'can_\\(metal\\)' has 1 altered descriptions: index must lie in 0..1, got 2"):
        altered_prompt(CAN, ["flat"], 2)
    assert altered_prompt(CAN, ["soft", "flat"], 9, published_quirks=True).caption == "Detect: can , a kind of container, flat. "
    with pytest.raises(ValueError, match="has 0"):
        altered_prompt(CAN, [], 1, published_quirks=True)
    assert altered_prompt(CAN, [], 0).caption.startswith("Detect: can, ")


NAMES = [("bow_(weapon)", "bow "), ("car:wheel_(rim)", "wheel  of car"), ("alarm  clock", "alarm clock"), ("a   b", "a  b"), ("hot_dog", "hot dog")]


@pytest.mark.parametrize(("name", "spelt"), NAMES)
def test_published_name(name, spelt):
    assert published_name(name) == spelt


def test_published_name__two_colons():
    with pytest.raises(ValueError, match="one colon"):
        published_name("a:b:c")
    assert published_name("a:b:c", split_parts=False) == "a:b:c"


@pytest.mark.parametrize("text", ["no json", "[1]", '{"type": "a"}', '{"description": "a; b"}', '{"type": "a", "description": ["b"]}', "__import__('os')"])
def test_published_piece__what_cannot_be_read_is_an_object(text):
    assert published_piece("cat", text).text == "cat, object. " and published_piece("cat", text, keep_name=False).text == "object. "
    assert published_description(text).similar == ()
