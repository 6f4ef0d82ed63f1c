"""Every caption of the published code, text by text, span by span, token by token."""
import json

import numpy as np
import pytest

from ovdense.data.description_queries import QuerySpec, build_published_query
from ovdense.data.grounding_captions import GroundedCaption, nouns_of_phrases
from ovdense.data.grounding_descriptions import GroundingOutput, read_grounding_outputs
from ovdense.data.grounding_published import build_published_caption_query, build_published_grounding_query, build_published_noun_query
from ovdense.data.positive_rates import PositiveRates
from ovdense.data.published_names import build_published_names
from ovdense.structures import Vocabulary
from ovdense.text.description_files import nouns_of, read_altered
from ovdense.text.evaluation_prompts import altered_prompt, omnilabel_chunks
from ovdense.text.phrases import phrase_map
from ovdense.text.prompts import SEPARATOR, DescriptionPiece, join_pieces
from ovdense.text.published_pieces import published_description, published_name, published_piece
from ovdense.text.reading import Source
from ovdense.text.tokenizers import embedded_tokenizer
from ovdense.text.vocabulary import load_vocabulary
from tests.data.test_description_queries import ListedDraws

KINDS = {
    "form_span", "od_description", "od_names", "grounding", "grounding_sequence", "eval_description", "eval_names", "eval_negative_description",
    "eval_omnilabel",
}  # fmt: skip


@pytest.fixture(scope="module")
def cases(golden_root) -> dict[str, list[dict]]:
    found: dict[str, list[dict]] = {}
    for case in json.loads((golden_root / "desco/captions/cases.json").read_text())["cases"]:
        found.setdefault(case["kind"], []).append(case)
    return found


@pytest.fixture(scope="module")
def tokenizer():
    return embedded_tokenizer()


def as_lists(spans) -> list:
    return [[list(span) for span in of_box] for of_box in spans]


def check_tokens(tokenizer, caption, spans, expected) -> None:
    """Assert the token ids (cut at 256) and the tokens of each box."""
    tokenized = tokenizer.encode([caption], on_overflow="truncate")
    assert tokenizer.count(caption) + 2 == expected["n_tokens_untruncated"]
    assert tokenized.ids_BL[0].tolist() == expected["input_ids"]
    rows = phrase_map(tokenized, 0, spans).tokens_PL
    assert [row.nonzero().flatten().tolist() for row in rows] == expected.get("positive_map_tokens", [])


def check_labels(tokenizer, chunk_caption, spans_of_label, expected) -> None:
    """Assert the tokens of each label of an evaluation prompt; a label without tokens is not listed there."""
    rows = phrase_map(tokenizer.encode([chunk_caption], max_tokens=600), 0, list(spans_of_label.values())).tokens_PL
    found = {str(label): row.nonzero().flatten().tolist() for label, row in zip(spans_of_label, rows)}
    assert {label: tokens for label, tokens in found.items() if tokens} == expected


def test_cases__every_kind_is_known(cases):
    assert set(cases) == KINDS


def test_form_span__texts_and_spans(cases):
    for case in cases["form_span"]:
        for e in case["expected"]:
            piece, said = published_piece(e["object"], e["gpt3_output"], e["keep_name"]), published_description(e["gpt3_output"])
            assert published_name(e["object"]) == e["clean_name"]
            assert piece.text == e["text"] and piece.positive == (0, e["positive_end_relative"]), e["object"]
            ends = np.cumsum([len(part) + 2 for part in ([e["clean_name"]] if e["keep_name"] else []) + [said.kind_phrase, *said.parts]]) + e["start_index"]
            spans = list(zip([e["start_index"], *ends[:-1]], ends))
            assert [list(s) for s in spans] == e["spans"]
            assert [list(s) for s in spans[: 1 + e["keep_name"]]] == e["positive_spans"]


def test_od_description__captions(cases, tokenizer):
    for case in cases["od_description"]:
        said = {d["object"]: d["gpt3_output"] for d in case["description"]}
        names = [case["ind_to_class"][str(k + 1)] for k in range(len(case["ind_to_class"]))]
        labels, wanted, draws = np.array(case["labels"], dtype=int) - 1, case["expected"], ListedDraws(case["rng_trace"])
        pieces = {}

        def piece_of(k, keep_name, names=names, said=said, pieces=pieces):
            pieces[k] = published_piece(names[k], said[names[k]], keep_name)
            return pieces[k]

        spec = QuerySpec(published_quirks=True, confusable=0.0)
        order = [k - 1 for k in case["positive_label_order"]]
        numbered = Vocabulary.of([str(k) for k in range(len(names))])  # `piece_of` says the names, some of which a vocabulary would not tell apart
        caption, spans, keep = build_published_query(draws, numbered, labels, tokenizer.count, spec, positive_order=order, piece_of=piece_of)
        assert caption == wanted["caption"] and not draws.trace, case["name"]
        assert as_lists(spans) == wanted["tokens_positive"]
        assert (labels[keep] + 1).tolist() == wanted["kept_labels"]
        for label, (begin, end) in wanted["label_to_positions"].items():
            piece = pieces[int(label) - 1]
            assert caption[begin:].startswith(piece.text) and piece.positive == (0, end - begin)
        check_tokens(tokenizer, caption, spans, wanted)


def test_od_names__captions(cases, tokenizer):
    for case in cases["od_names"]:
        names = [published_name(case["ind_to_class"][str(k + 1)]) for k in range(len(case["ind_to_class"]))]
        labels, wanted, draws = np.array(case["labels"], dtype=int) - 1, case["expected"], ListedDraws(case["rng_trace"])
        caption, spans, keep = build_published_names(draws, labels, len(names), names.__getitem__, tokenizer.count)
        assert caption == wanted["caption"] and not draws.trace
        assert as_lists(spans) == wanted["tokens_positive"]
        assert (labels[keep] + 1).tolist() == wanted["kept_labels"]
        check_tokens(tokenizer, caption, spans, wanted)


def grounded_of(case) -> tuple[GroundedCaption, list[int]]:
    spans = tuple(tuple(map(tuple, a["tokens_positive"])) for a in case["annotations"])
    outputs = None
    if case.get("gpt3_outputs") is not None:
        outputs, _ = read_grounding_outputs(case["gpt3_outputs"], case["name"])
    nouns = nouns_of_phrases(case["caption"], spans, [a.get("nouns") for a in case["annotations"]])
    return GroundedCaption(caption=case["caption"], spans=spans, nouns=nouns, outputs=outputs), [a["id"] for a in case["annotations"]]


def check_query(query, ids, expected) -> None:
    assert query.caption == expected["caption"]
    assert [i for i, kept in zip(ids, query.keep) if kept] == expected["kept_box_ids"]
    assert as_lists(query.spans) == expected["tokens_positive"]
    if "span_texts" in expected:
        assert [[query.caption[b:e] for b, e in of_box] for of_box in query.spans] == expected["span_texts"]


def test_grounding__captions(cases, tokenizer):
    for case in cases["grounding"]:
        grounded, ids = grounded_of(case)
        nouns = nouns_of(case["vocab"], Source(case["name"]), on_broken="skip")
        draws, version = ListedDraws(case["rng_trace"]), case["version"]
        rates = PositiveRates(counts={tuple(pair): number for pair, number in case.get("controller_bins") or []})
        if version.startswith("v4"):
            query = build_published_caption_query(draws, grounded, tokenizer.count, rates)
        elif version.startswith("v3"):
            query = build_published_noun_query(draws, grounded, nouns, phrase_order=case.get("unique_phrase_order"))
        else:
            assert version.startswith("mixed.v4-v3.5-4-1")
            query = build_published_grounding_query(draws, grounded, tokenizer.count, nouns, rates, phrase_order=case.get("unique_phrase_order"))
        check_query(query, ids, case["expected"])
        assert not draws.trace, case["name"]
        check_tokens(tokenizer, query.caption, [[(b, e) for b, e in s if b < e] for s in query.spans], case["expected"])


def test_grounding_sequence__the_controller_remembers(cases, tokenizer):
    for case in cases["grounding_sequence"]:
        draws, rates = ListedDraws(case["rng_trace"]), PositiveRates()
        for expected in case["expected"]:
            grounded, ids = grounded_of(case)
            query = build_published_caption_query(draws, grounded, tokenizer.count, rates)
            rates.record(query.num_positives, query.num_negatives)
            check_query(query, ids, expected)
        assert not draws.trace


def test_grounding__outputs_are_read_in_both_layouts(cases):
    grounded, _ = grounded_of(cases["grounding"][0])
    assert all(isinstance(o, GroundingOutput) and o.negative_captions for o in grounded.outputs.values()) and len(grounded.outputs) == 2


def in_chunks(items, size):
    return [items[at : at + size] for at in range(0, len(items), size)]


def test_eval_description__prompts(cases, tokenizer):
    for case in cases["eval_description"]:
        said = {d["object"]: d["gpt3_output"] for d in case["description"]}
        chunks = in_chunks(list(case["categories"].items()), case["chunk"])
        assert len(chunks) == len(case["expected"])
        for chunk, expected in zip(chunks, case["expected"]):
            caption, spans = join_pieces([published_piece(name, said[name]) for _, name in chunk])
            assert caption == expected["query"]
            assert tokenizer.encode([caption]).ids_BL[0].tolist() == expected["input_ids"]
            check_labels(tokenizer, caption, {label: span for (label, _), span in zip(chunk, spans)}, expected["label_to_tokens"])


def test_eval_names__prompts(cases, tokenizer):
    for case in cases["eval_names"]:
        chunks = in_chunks(list(case["categories"].items()), case["chunk"])
        assert len(chunks) == len(case["expected"])
        for chunk, expected in zip(chunks, case["expected"]):
            names = [published_name(name, split_parts=False) for _, name in chunk]
            caption, spans = join_pieces([DescriptionPiece(name + SEPARATOR, (0, len(name))) for name in names], prefix="")
            assert caption.removesuffix(SEPARATOR) == expected["query"]
            assert tokenizer.encode([expected["query"]]).ids_BL[0].tolist() == expected["input_ids"]
            check_labels(tokenizer, expected["query"], {label: span for (label, _), span in zip(chunk, spans)}, expected["label_to_tokens"])


def test_eval_negative_description__prompts(cases, tokenizer, tmp_path):
    for case in cases["eval_negative_description"]:
        path = tmp_path / "altered.json"
        path.write_text(json.dumps(case["description"]), encoding="utf-8")
        altered, entries = read_altered(path), load_vocabulary(path)
        for e in case["expected"]:
            entry = entries[e["label"] - 1]
            chunk = altered_prompt(entry, altered[entry.name], e["negative_index"], published_quirks=True)
            assert chunk.caption == e["query"]
            check_labels(tokenizer, chunk.caption, {e["label"]: chunk.spans_per_class[0]}, e["label_to_tokens"])


def test_eval_omnilabel__prompts(cases, tokenizer):
    for case in cases["eval_omnilabel"]:
        chunks = omnilabel_chunks(case["texts"], max_texts=case["chunk"], noun_phrases=case.get("noun_phrases"), published_quirks=True)
        assert len(chunks) == len(case["expected"])
        for chunk, e in zip(chunks, case["expected"]):
            assert chunk.caption == e["query"]
            assert [case["ids"][k] for k in chunk.class_indices] == e["description_ids"]
            check_labels(tokenizer, chunk.caption, {n + 1: spans for n, spans in enumerate(chunk.spans_per_class)}, e["label_to_tokens"])
