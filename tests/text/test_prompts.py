"""Caption pieces, prompt chunks and templates, against the published captions where there are some."""
import json
import warnings
from pathlib import Path

import pytest
import torch

from ovdense.structures import ClassEntry, Vocabulary
from ovdense.text.phrases import phrase_map
from ovdense.text.prompts import (
    TEMPLATES,
    DescriptionPiece,
    average_unit,
    chunk_vocabulary,
    describe_templates,
    description_piece,
    fill_template,
    find_templates,
    form_piece,
    join_pieces,
    name_piece,
    split_description,
    unit,
    with_article,
)
from ovdense.text.published_pieces import published_name, published_piece
from ovdense.text.tokenizers import embedded_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return embedded_tokenizer()


def golden(golden_root: Path, kind: str) -> list[dict]:
    cases = json.loads((golden_root / "desco" / "captions" / "cases.json").read_text())["cases"]
    return [case for case in cases if case["kind"] == kind]


def published_parse(gpt3_output: str) -> tuple[str, list[str]]:
    """The published parser: type and parts, or ("object", []) for text that it cannot read."""
    try:
        said = json.loads(gpt3_output.strip("\n"))
        return f"a kind of {said['type']}", said["description"].split("; ")
    except (json.JSONDecodeError, KeyError):
        return "object", []


def tokens_of(chunk, tokenizer) -> tuple[list[int], list[list[int]]]:
    tokenized = tokenizer.encode([chunk.caption])
    rows = phrase_map(tokenized, 0, chunk.spans_per_class).tokens_PL
    return tokenized.ids_BL[0].tolist(), [row.nonzero().flatten().tolist() for row in rows]


def described_entry(item: dict) -> ClassEntry:
    kind, parts = published_parse(item["gpt3_output"])
    said = tuple(part for part in ["; ".join(parts)] if part.strip())
    return ClassEntry(name=item["object"], kind=kind.removeprefix("a kind of ") if kind != "object" else None, descriptions=said)


def are_alike(ours: list[str], theirs: list[str]) -> bool:
    """Whether a chunk's pieces read as the release's but for the blank that it leaves where a qualifier was ("arctic ").

    Else they differ by design: equal texts share a span, odd names and descriptions are cleaned (`text.published_pieces` has the release's).
    """
    return len(set(ours)) == len(ours) and ours == [text.replace(" ,", ",").replace(" .", ".") for text in theirs]


def test_form_piece__published_spans(golden_root):
    cases = [e for case in golden(golden_root, "form_span") for e in case["expected"]]
    assert cases
    for e in cases:
        kind, parts = published_parse(e["gpt3_output"])
        piece = form_piece(e["clean_name"] if e["keep_name"] else None, kind, parts)
        assert piece.text == e["text"]
        assert piece.positive == (0, e["positive_end_relative"])
        caption, spans = join_pieces([piece], "x" * e["start_index"])
        assert spans == [[(e["positive_spans"][0][0], e["positive_spans"][-1][1])]]
        assert caption[slice(*spans[0][0])] == e["positive_text"]


@pytest.mark.parametrize("prompt", ["descriptions", "names"])
def test_chunk_vocabulary__published_prompts(golden_root, tokenizer, prompt):
    compared = 0
    for case in golden(golden_root, f"eval_{prompt.removesuffix('s') if prompt == 'descriptions' else prompt}"):
        said = {item["object"]: item for item in case.get("description", ())}
        entries = tuple(described_entry(said[name]) if said else ClassEntry(name=name) for name in case["categories"].values())
        chunks = chunk_vocabulary(Vocabulary(entries), tokenizer, prompt, max_classes=case["chunk"])
        assert len(chunks) == len(case["expected"])
        labels = list(case["categories"])
        for chunk, expected in zip(chunks, case["expected"]):
            mine = [entries[k] for k in chunk.class_indices]
            if said:
                alike = are_alike([description_piece(e, *e.descriptions).text if e.descriptions else "" for e in mine],
                                  [published_piece(e.name, said[e.name]["gpt3_output"]).text for e in mine])  # fmt: skip
            else:
                alike = are_alike([name_piece(e).text for e in mine], [published_name(e.name, split_parts=False) + ". " for e in mine])
            if not alike:
                continue
            compared += 1
            assert chunk.caption.rstrip() == expected["query"].replace(" ,", ",").replace(" .", ".").rstrip()
            ids, tokens = tokens_of(chunk, tokenizer)
            assert ids == expected["input_ids"]
            assert {labels[k]: t for k, t in zip(chunk.class_indices, tokens)} == expected["label_to_tokens"]
    assert compared


def test_join_pieces__published_names_with_trailing_blanks(golden_root, tokenizer):
    for case in golden(golden_root, "eval_names"):
        expected = case["expected"][0]
        names = expected["query"].split(". ")
        caption, spans = join_pieces([DescriptionPiece(n + ". ", (0, len(n))) for n in names], "")
        rows = phrase_map(tokenizer.encode([caption]), 0, spans).tokens_PL
        assert [row.nonzero().flatten().tolist() for row in rows] == list(expected["label_to_tokens"].values())


def test_phrase_map__published_training_captions(golden_root, tokenizer):
    cases = golden(golden_root, "od_description") + golden(golden_root, "od_names")
    assert cases
    for case in cases:
        e = case["expected"]
        tokenized = tokenizer.encode([e["caption"]], on_overflow="truncate")
        assert tokenized.ids_BL[0].tolist() == e["input_ids"], case["name"]
        tokens = phrase_map(tokenized, 0, e["tokens_positive"]).tokens_PL
        assert ("positive_map_tokens" in e) == bool(e["tokens_positive"])  # a caption without boxes has no map
        assert [row.nonzero().flatten().tolist() for row in tokens] == e.get("positive_map_tokens", []), case["name"]


CAT = ClassEntry(name="house_cat", kind="animal")
PIECES = [  # entry, description, keep_name, text, positive text
    (CAT, "furry; has whiskers", True, "house cat, a kind of animal, furry, has whiskers. ", "house cat, a kind of animal, "),
    (CAT, "furry; has whiskers", False, "a kind of animal, furry, has whiskers. ", "a kind of animal, "),
    (CAT, "Furry. ", True, "house cat, a kind of animal, Furry. ", "house cat, a kind of animal, "),  # its own full stop not doubled
    (CAT, None, True, "house cat, a kind of animal. ", "house cat, a kind of animal. "),  # published: the whole of a bare kind
    (ClassEntry(name="cat"), "furry", True, "cat, furry. ", "cat, "),  # no kind: left out
    (ClassEntry(name="cat"), "furry", False, "furry. ", "furry"),  # nothing else stands for the class
    (ClassEntry(name="cat"), None, True, "cat. ", "cat"),  # bare name
    (ClassEntry(name="cat"), None, False, "cat. ", "cat"),  # a caption must say something
    (ClassEntry(name="St. Bernard", kind="dog no. 1"), "big", True, "St Bernard, a kind of dog no 1, big. ", "St Bernard, a kind of dog no 1, "),
]


@pytest.mark.parametrize(("entry", "description", "keep_name", "text", "positive"), PIECES)
def test_description_piece(entry, description, keep_name, text, positive):
    piece = description_piece(entry, description, keep_name)
    assert piece.text == text
    assert piece.text[slice(*piece.positive)] == positive


def test_split_description__drops_blanks():
    assert split_description("a; ; b, c. ;d") == ["a", "b, c. ;d"]
    assert split_description(" ") == []


def test_piece__span_outside_raises():
    with pytest.raises(ValueError, match="positive"):
        DescriptionPiece("cat. ", (0, 6))


def test_name_piece__qualifier_is_cut():
    assert name_piece(ClassEntry(name="bow_(weapon)")) == DescriptionPiece("bow. ", (0, 3))


NAMES = [  # name, what is said of it
    ("st. bernard", "st bernard"),  # ". " ends a piece
    ("No._5 perfume", "No 5 perfume"),
    ("1.5 litre bottle", "1.5 litre bottle"),
    ("U.S. flag", "U.S flag"),
    ("jr.", "jr."),
]


@pytest.mark.parametrize(("name", "said"), NAMES)
def test_name_piece__ends_only_at_its_end(name, said):
    assert name_piece(ClassEntry(name=name)) == DescriptionPiece(said + ". ", (0, len(said)))


def test_chunk_vocabulary__equal_nouns_share_a_span(tokenizer):
    vocabulary = Vocabulary.of(["bow_(weapon)", "cat", "bow_(decorative_ribbons)"])
    with pytest.warns(UserWarning, match=r"2 of 3 classes .*'bow_\(weapon\)' and 'bow_\(decorative_ribbons\)' by 'bow.'.* or in descriptions") as said:
        (chunk,) = chunk_vocabulary(vocabulary, tokenizer)
    assert len(said) == 1 and said[0].filename == __file__
    assert chunk.caption == "bow. cat"
    assert chunk.class_indices == (0, 1, 2)
    assert chunk.spans_per_class == (((0, 3),), ((5, 8),), ((0, 3),))


def test_chunk_vocabulary__one_class(tokenizer):
    (chunk,) = chunk_vocabulary(Vocabulary.of(["a red chair left of the table"]), tokenizer)
    assert chunk.caption == "a red chair left of the table"
    assert chunk.spans_per_class == (((0, len(chunk.caption)),),)


@pytest.mark.parametrize(("prompt", "budget"), [("names", 20), ("descriptions", 20), ("descriptions", 254)])
def test_chunk_vocabulary__budget_holds_and_all_classes_are_there(tokenizer, prompt, budget):
    said = [("has " + "very " * (k % 7) + "long legs",) for k in range(60)]
    vocabulary = Vocabulary(tuple(ClassEntry(name=f"thing {k}", kind="object", descriptions=said[k]) for k in range(60)))
    chunks = chunk_vocabulary(vocabulary, tokenizer, prompt, max_tokens=budget)
    assert [k for chunk in chunks for k in chunk.class_indices] == list(range(60))
    for i, chunk in enumerate(chunks):
        used = tokenizer.count(chunk.caption)
        assert used <= budget
        if i + 1 < len(chunks):  # greedy: the next class would not have fitted
            entry = vocabulary[chunks[i + 1].class_indices[0]]
            piece = name_piece(entry) if prompt == "names" else description_piece(entry, entry.descriptions[0])
            assert used + tokenizer.count(piece.text) > budget - 1
        for k, ((begin, end),) in zip(chunk.class_indices, chunk.spans_per_class):
            assert chunk.caption[begin:end].startswith(vocabulary[k].noun)


def test_chunk_vocabulary__tokens_that_merge_across_pieces():
    class Merging:
        """Costs a token more on every join than the pieces say."""

        def count(self, text: str) -> int:
            return len(text.split()) + max(0, text.count(".") - 1)

    chunks = chunk_vocabulary(Vocabulary.of(list("abcdef")), Merging(), max_tokens=3)
    assert all(Merging().count(chunk.caption) <= 3 for chunk in chunks)
    assert [k for chunk in chunks for k in chunk.class_indices] == list(range(6))


def test_chunk_vocabulary__one_class_over_the_budget_is_named(tokenizer):
    entries = (ClassEntry(name="cat"), ClassEntry(name="dog", descriptions=("long " * 300,)))
    with pytest.warns(UserWarning, match="1 of 2 classes"), pytest.raises(ValueError, match="'dog' needs 30"):
        chunk_vocabulary(Vocabulary(entries), tokenizer, "descriptions")


def test_chunk_vocabulary__missing_descriptions_are_said_once(tokenizer):
    with pytest.warns(UserWarning, match="2 of 2 classes have no description") as said:
        (chunk,) = chunk_vocabulary(Vocabulary.of(["cat", "dog"]), tokenizer, "descriptions")
    assert len(said) == 1 and chunk.caption == "Detect: cat. dog. "
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chunk_vocabulary(Vocabulary.of(["cat", "dog"]), tokenizer, "names")
        rivals = (ClassEntry(name="cat", descriptions=("furry",)), ClassEntry(name="dog", is_background=True))
        (chunk,) = chunk_vocabulary(Vocabulary(rivals), tokenizer, "descriptions")  # what only competes needs no description
    assert chunk.caption == "Detect: cat, furry. dog. "


def test_chunk_vocabulary__of_several_descriptions_the_first_is_asked_and_that_is_said(tokenizer):
    vocabulary = Vocabulary((ClassEntry(name="cat", descriptions=("furry; small",)), ClassEntry(name="dog", descriptions=("it barks", "has a tail"))))
    with pytest.warns(UserWarning, match="1 classes have several descriptions .*'dog'.*separated by \"; \"") as said:
        (chunk,) = chunk_vocabulary(vocabulary, tokenizer, "descriptions")
    assert len(said) == 1 and chunk.caption == "Detect: cat, furry, small. dog, it barks. "


def test_chunk_vocabulary__wrong_arguments(tokenizer):
    vocabulary = Vocabulary.of(["cat"])
    with pytest.raises(ValueError, match="prompt must be"):
        chunk_vocabulary(vocabulary, tokenizer, "captions")
    with pytest.raises(ValueError, match="max_classes"):
        chunk_vocabulary(vocabulary, tokenizer, max_classes=0)


ARTICLES = [
    ("cat", "a cat"), ("apple", "an apple"), ("umbrella", "an umbrella"), ("uniform", "a uniform"), ("hourglass", "an hourglass"),
    ("scissors", "scissors"), ("skis", "skis"), ("glass", "a glass"), ("octopus", "an octopus"), ("tennis", "a tennis"),
    ("a red chair", "a red chair"), ("the dog", "the dog"), ("unidentified thing", "an unidentified thing"),
]


@pytest.mark.parametrize(("noun", "said"), ARTICLES)
def test_with_article(noun, said):
    assert with_article(noun) == said


def test_fill_template():
    assert fill_template("a photo of {article} {}.", "orange") == "a photo of an orange."
    assert fill_template("a photo of {article} {}.", "skis") == "a photo of skis."
    assert fill_template("{}", "a {odd} name") == "a {odd} name"
    with pytest.raises(ValueError, match="exactly once"):
        fill_template("a photo", "cat")


def test_find_templates():
    assert find_templates("plain") == ("{}",)
    assert all(t.count("{}") == 1 for group in TEMPLATES.values() for t in group)
    with pytest.raises(KeyError, match="plain"):
        find_templates("nothing")


def test_find_templates__imagenet_are_clips_eighty():
    templates = find_templates("imagenet")
    assert len(templates) == 80 and templates[0] == "a bad photo of a {}."


def test_average_unit__normalises_first_and_last():
    rows = torch.tensor([[100.0, 0.0], [0.0, 1.0]])  # a plain mean would point along the first row
    torch.testing.assert_close(average_unit(rows), torch.tensor([0.5, 0.5]).sqrt())
    torch.testing.assert_close(average_unit(rows[None].expand(3, 2, 2)), torch.full((3, 2), 0.5).sqrt())
    with pytest.raises(ValueError, match="not zero"):
        unit(torch.zeros(1, 2))


def test_describe_templates__names_what_it_knows():
    assert describe_templates("clip_photo") == "clip_photo" and describe_templates(find_templates("plain")) == "plain"
    assert describe_templates(find_templates("imagenet_scene")) == "imagenet_scene"
    assert describe_templates(["a drawing of {}"]) == "'a drawing of {}'" and describe_templates(["{} a", "{} b"]) == "2 of its own"
