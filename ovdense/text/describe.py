"""Descriptions for the classes of a vocabulary: asked of a language model, looked up in definitions, written by hand, merged.

Every source is the vocabulary itself with only what that source says in `descriptions`, `kind` and `similar`; `merge`
takes each of the three from the first source that has it. The answers' form is DesCo's (arXiv 2306.14060): type,
description "a; b; c", similar objects; its prompts were never published, these are ours.
"""
import hashlib
import json
import queue
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ovdense.compat.atomic import replace_file
from ovdense.compat.json_text import loads
from ovdense.structures import ClassEntry, Vocabulary, is_text
from ovdense.text.answer_cache import AnswerCache
from ovdense.text.language_models import AskingError, Chat, LanguageModel, Stopped
from ovdense.text.prompts import split_description
from ovdense.text.vocabulary import plain, with_descriptions

FIELDS = ("descriptions", "kind", "similar")
SYSTEM = (
    "You describe kinds of things for a system that has to find them in photos. Answer with one JSON object and nothing else. Its keys are: "
    '"type": the broader kind of the thing, one to three words, without an article; '
    '"description": what can be seen of it, as two to five short phrases separated by "; ", such as shape, parts, material, texture, usual colour and size, '
    "without the thing's name and without history or opinions; "
    '"similar objects": a list of two to five other things that it is easily taken for.'
)
QUESTION = "Describe: {noun}{also}{meaning}"
EXAMPLE_MEANING = "a hammer with a large head"
EXAMPLE = ClassEntry(
    name="mallet",
    descriptions=("barrel-shaped wooden or rubber head; long straight handle; head much wider than the handle",),
    kind="tool",
    similar=("hammer", "axe", "gavel"),
)
AGAIN = "That answer cannot be used: {error}. Answer once more, with the JSON object only."
_ANSWER_KEYS = ("type", "description", "similar objects")
_FENCE = re.compile(r"```(?:json)?\s*\n(.*)\n\s*```", re.DOTALL)
_ARTICLE = re.compile(r"^(?:an?|the)\s+", re.IGNORECASE)
_MAX_REPEATED = 2000
_MAX_SILENT = 3
_JOIN_SECONDS = 5.0


class AnswerError(ValueError):
    """An answer that is not what was asked for; the message says what is wrong."""


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What a model said: `described`, the vocabulary with its good answers; `failed`, class name -> why there is none; and counts."""

    described: Vocabulary
    failed: dict[str, str]
    num_asked: int
    num_cached: int


def _question(entry: ClassEntry) -> str:
    """Return the question about a class; synonyms and definition tell which of several meanings is meant."""
    also = f" (also called {', '.join(entry.synonyms)})" if entry.synonyms else ""
    qualifier = entry.name.replace("_", " ") if "(" in entry.name else ""
    meaning = "; ".join(dict.fromkeys(t for t in (qualifier, *entry.descriptions[:1]) if t))
    return QUESTION.format(noun=entry.noun, also=also, meaning=f"\nMeaning: {meaning}" if meaning else "")


def _answer(entry: ClassEntry) -> str:
    return json.dumps(dict(zip(_ANSWER_KEYS, (entry.kind, entry.descriptions[0], list(entry.similar)))))


def chat_about(entry: ClassEntry) -> Chat:
    """Return what a model is told about a class: what to do, one example, the question."""
    example = replace(EXAMPLE, descriptions=(EXAMPLE_MEANING,))
    return (("system", SYSTEM), ("user", _question(example)), ("assistant", _answer(EXAMPLE)), ("user", _question(entry)))


PROMPT_VERSION = hashlib.sha256(json.dumps([chat_about(EXAMPLE), QUESTION]).encode()).hexdigest()[:8]


def parse_answer(answer: str, entry: ClassEntry) -> ClassEntry:
    """Return the class as the answer describes it; AnswerError unless it is the JSON object that was asked for (a code fence may be around it).

    An article before the type goes, and so do similar objects that are the class itself.
    """
    text = answer.strip()
    fenced = _FENCE.fullmatch(text)
    try:
        said = loads(fenced.group(1) if fenced else text)
    except ValueError as error:
        raise AnswerError(f"it must be a JSON object, but {error}") from None
    if not isinstance(said, dict) or set(said) != set(_ANSWER_KEYS):
        got = f"the keys {sorted(said)}" if isinstance(said, dict) else type(said).__name__
        raise AnswerError(f"it must be a JSON object with exactly the keys {', '.join(_ANSWER_KEYS)}, got {got}")
    kind, description, similar = (said[key] for key in _ANSWER_KEYS)
    if not isinstance(kind, str) or not isinstance(description, str):
        raise AnswerError(f"type and description must be strings, got {type(kind).__name__} and {type(description).__name__}")
    if not isinstance(similar, list) or not all(isinstance(s, str) for s in similar):
        raise AnswerError("similar objects must be a list of strings")
    if not all(map(is_text, (kind, description, *similar))):
        raise AnswerError("it must hold whole characters, got half of one (a lone surrogate)")
    kind, parts = _ARTICLE.sub("", " ".join(kind.split()).rstrip(".")), [" ".join(part.split()) for part in split_description(description)]
    if not kind or not parts:
        raise AnswerError("type and description must not be empty")
    own = {plain(text) for text in (entry.name, entry.noun, *entry.synonyms)}
    others = tuple(dict.fromkeys(" ".join(s.split()) for s in similar if s.strip() and plain(s) not in own))
    return replace(entry, kind=kind, descriptions=("; ".join(parts),), similar=others)


def bare(vocabulary: Vocabulary) -> Vocabulary:
    """Return the vocabulary without descriptions, kinds and similar things."""
    return Vocabulary(tuple(replace(entry, descriptions=(), kind=None, similar=()) for entry in vocabulary))


def from_file(vocabulary: Vocabulary, path: str | Path) -> Vocabulary:
    """Return what a file written by hand says, in a form of `with_descriptions`; ValueError for a class that it names and nobody has."""
    return with_descriptions(bare(vocabulary), path, tell_missing=False)


def from_definitions(vocabulary: Vocabulary, definitions: Vocabulary) -> Vocabulary:
    """Return what another vocabulary, such as LVIS's with its WordNet definitions, says about classes of the same name.

    A class is looked up by its name, then by its noun, then by its synonyms, also among the synonyms there; a word that
    several classes there have is no match.
    """
    tables: list[dict[str, set[int]]] = [{}, {}, {}]
    for k, entry in enumerate(definitions):
        for table, texts in zip(tables, ((entry.name,), (entry.noun,), (entry.noun, *entry.synonyms))):
            for text in texts:
                table.setdefault(plain(text), set()).add(k)
    made = []
    for entry, empty in zip(vocabulary, bare(vocabulary)):
        asked = [(table, text) for table in tables for text in dict.fromkeys((entry.name, entry.noun))] + [(tables[2], s) for s in entry.synonyms]
        found = next((next(iter(ks)) for table, text in asked if len(ks := table.get(plain(text), ())) == 1), None)
        made.append(empty if found is None else replace(empty, **{f: getattr(definitions[found], f) for f in FIELDS}))
    return Vocabulary(tuple(made))


def merge(vocabulary: Vocabulary, sources: Sequence[tuple[str, Vocabulary]]) -> tuple[Vocabulary, dict[str, dict[str, int]]]:
    """Return the vocabulary with each field from the first source that has it, and how many classes got each field from each source."""
    counts = {name: dict.fromkeys(FIELDS, 0) for name, _ in sources}
    made = []
    for k, entry in enumerate(bare(vocabulary)):
        fields: dict[str, Any] = {}
        for name, source in sources:
            for field in FIELDS:
                if field not in fields and getattr(source[k], field):
                    fields[field] = getattr(source[k], field)
                    counts[name][field] += 1
        made.append(replace(entry, **fields))
    return Vocabulary(tuple(made)), counts


def write_descriptions(path: str | Path, vocabulary: Vocabulary, made_from: Sequence[str]) -> None:
    """Write the classes with all that is said of them, in the form that `load_vocabulary` and `with_descriptions` read; whole or not at all."""
    classes = []
    for entry in vocabulary:
        row = {field: getattr(entry, field) for field in ("name", "kind", "descriptions", "similar", "synonyms", "frequency")}
        classes.append({key: value for key, value in (*row.items(), ("background", entry.is_background)) if value})
    rows = ",\n".join(json.dumps(row, ensure_ascii=False) for row in classes)
    replace_file(path, f'{{\n"made_from": {json.dumps(list(made_from), ensure_ascii=False)},\n"classes": [\n{rows}\n]\n}}\n')


def ask_model(
    vocabulary: Vocabulary, wanted: Sequence[int], model: LanguageModel, cache: AnswerCache, *,
    workers: int = 4, attempts: int = 3, progress: Callable[[int, int], None] = lambda done, total: None,
) -> Answers:  # fmt: skip
    """Return what the model says about the classes `wanted` (indices); what the cache holds is not asked again.

    A broken answer is asked for again, `attempts` times in all. AskingError ends the asking where no other class would
    fare better: a fatal one, or three classes in a row without any answer. However it ends, each answer that came is in the cache.
    `progress` is told how many of how many questions are done.
    """
    if workers < 1 or attempts < 1:
        raise ValueError(f"workers and attempts must be at least 1, got {workers} and {attempts}")
    made, questions = list(bare(vocabulary)), []
    for k in wanted:
        known = _from_cache(vocabulary[k], model, cache)
        if known is None:
            questions.append(k)
        else:
            made[k] = known
    failed: dict[str, str] = {}
    silent = 0
    with closing(_run(vocabulary, questions, model, cache, min(workers, model.max_workers), attempts)) as outcomes:
        for done, (k, outcome) in enumerate(outcomes, 1):
            silent = silent + 1 if isinstance(outcome, AskingError) else 0
            if isinstance(outcome, AskingError) and (outcome.fatal or silent >= _MAX_SILENT):
                raise outcome if outcome.fatal else AskingError(f"{silent} classes in a row got no answer; the last: {outcome}", fatal=True)
            if isinstance(outcome, ClassEntry):
                made[k] = outcome
            else:
                failed[vocabulary[k].name] = str(outcome)
            progress(done, len(questions))
    order = {entry.name: k for k, entry in enumerate(vocabulary)}
    failed = dict(sorted(failed.items(), key=lambda item: order[item[0]]))
    return Answers(described=Vocabulary(tuple(made)), failed=failed, num_asked=len(questions), num_cached=len(wanted) - len(questions))


def _from_cache(entry: ClassEntry, model: LanguageModel, cache: AnswerCache) -> ClassEntry | None:
    answer = cache.get(model.name, PROMPT_VERSION, entry)
    try:
        return None if answer is None else parse_answer(answer, entry)
    except AnswerError:  # a cache that was edited
        return None


def _ask(entry: ClassEntry, model: LanguageModel, cache: AnswerCache, attempts: int) -> ClassEntry | AnswerError:
    """Return the class as described, or what was wrong with the last answer."""
    first = chat = chat_about(entry)
    for _ in range(attempts):
        answer = model.ask(chat)
        try:
            described = parse_answer(answer, entry)
        except AnswerError as error:
            wrong = error
            cache.add(model.name, PROMPT_VERSION, entry, answer, str(error))
            chat = (*first, ("assistant", answer[:_MAX_REPEATED]), ("user", AGAIN.format(error=error)))
        else:
            cache.add(model.name, PROMPT_VERSION, entry, answer)
            return described
    return AnswerError(f"{attempts} answers were broken; the last: {wrong}")


def _run(
    vocabulary: Vocabulary, questions: Sequence[int], model: LanguageModel, cache: AnswerCache, workers: int, attempts: int
) -> Iterator[tuple[int, ClassEntry | AskingError | AnswerError]]:
    """Yield (class, ClassEntry or error) as answers come, from `workers` threads; the threads end when the caller does."""
    todo: queue.SimpleQueue = queue.SimpleQueue()
    results: queue.SimpleQueue = queue.SimpleQueue()
    stop = threading.Event()
    for k in questions:
        todo.put(k)

    def work() -> None:
        while not stop.is_set():
            try:
                k = todo.get_nowait()
            except queue.Empty:
                return
            try:
                results.put((k, _ask(vocabulary[k], model, cache, attempts)))
            except Stopped:
                if not stop.is_set():
                    results.put((k, AskingError(f"{model.name} was stopped before", fatal=True)))
                return
            except Exception as error:
                results.put((k, error))

    # daemons: a second Ctrl-C ends the process at once, whatever they wait for
    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(workers, len(questions)))]
    finished = False
    try:
        for thread in threads:
            thread.start()
        for _ in questions:
            k, outcome = results.get()
            if isinstance(outcome, Exception) and not isinstance(outcome, AskingError | AnswerError):
                raise outcome
            yield k, outcome
        finished = True
    finally:
        stop.set()
        if not finished:
            model.stop()
        deadline = time.monotonic() + _JOIN_SECONDS
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
