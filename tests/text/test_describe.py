"""Descriptions from models, definitions and hands: strict answers, a cache that loses nothing, servers that fail in all the usual ways."""
import json
import threading
import time
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from ovdense.structures import ClassEntry, Vocabulary
from ovdense.text.answer_cache import AnswerCache
from ovdense.text.chat_server import ChatServer, ServerSpec, _retry_after
from ovdense.text.describe import (
    PROMPT_VERSION,
    AnswerError,
    ask_model,
    chat_about,
    from_definitions,
    from_file,
    merge,
    parse_answer,
    write_descriptions,
)
from ovdense.text.language_models import AskingError, LocalModel, Pace, Stopped
from ovdense.text.tokenizers import embedded_folder
from ovdense.text.vocabulary import load_vocabulary, with_descriptions
from tests.ranks import PATIENCE

KEY = "sk-very-secret-0123456789"
NAMES = Vocabulary((
    ClassEntry(name="cat", synonyms=("kitty",)),
    ClassEntry(name="bow_(weapon)", descriptions=("a weapon for arrows",)),
    ClassEntry(name="dog"),
))  # fmt: skip


def answer(kind="an animal", description="furry; four legs.", similar=("dog", "cat")) -> str:
    return json.dumps({"type": kind, "description": description, "similar objects": list(similar)})


def chat_reply(content: str) -> bytes:
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": content}}]}).encode()


@contextmanager
def server(reply):
    """Serve on a free port; `reply(n, body, headers)` -> (status, headers, bytes) for request n. Yields (base URL, list of bodies)."""
    seen, lock = [], threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                seen.append(body)
                n = len(seen)
            status, headers, content = reply(n, body, self.headers)
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{httpd.server_port}/v1", seen
    finally:
        httpd.shutdown()
        httpd.server_close()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("THE_KEY", KEY)


def client(url: str, **more) -> ChatServer:
    return ChatServer(ServerSpec(base_url=url, model="tiny", **{"back_off": 0.02, "timeout": PATIENCE, "api_key_env": "THE_KEY", **more}))


class FakeModel:
    """Answers from a list, in order; the last one again and again."""

    name, max_workers = "fake", 1

    def __init__(self, *answers):
        self.answers, self.chats = list(answers), []

    def ask(self, chat):
        self.chats.append(chat)
        said = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(said, BaseException):
            raise said
        return said

    def stop(self):
        pass


def ask(model, cache, vocabulary=NAMES, **options):
    return ask_model(vocabulary, range(len(vocabulary)), model, cache, **options)


# answers

@pytest.mark.parametrize("text", [answer(), f"```json\n{answer()}\n```", f"```\n{answer()}\n```", f"\n {answer()} \n"])
def test_parse_answer__what_was_asked_for(text):
    made = parse_answer(text, NAMES[0])
    assert made == ClassEntry(name="cat", synonyms=("kitty",), kind="animal", descriptions=("furry; four legs",), similar=("dog",))


@pytest.mark.parametrize(
    "text, why",
    [
        ("", "must be a JSON object"),
        ("Sure! " + answer(), "must be a JSON object"),
        (answer()[:-5], "must be a JSON object"),
        ("[" * 100_000, "must be a JSON object"),
        (f"[{answer()}]", "exactly the keys .* got list"),
        ('{"type": "x", "description": "y"}', "got the keys .'description', 'type'."),
        (answer(kind=3), "must be strings, got int"),
        (answer(description=["furry"]), "must be strings, got str and list"),
        (answer(description=" ; . "), "must not be empty"),
        (answer(similar=[1]), "must be a list of strings"),
        (answer(description="round; \ud83d"), "whole characters"),
        (answer().replace('["dog", "cat"]', '"dog"'), "must be a list of strings"),
    ],
)
def test_parse_answer__anything_else_is_refused(text, why):
    with pytest.raises(AnswerError, match=why):
        parse_answer(text, NAMES[0])


def test_chat__tells_which_meaning_and_shows_an_example():
    chat = chat_about(NAMES[1])
    assert chat[-1] == ("user", "Describe: bow\nMeaning: bow (weapon); a weapon for arrows")
    assert chat_about(NAMES[0])[-1] == ("user", "Describe: cat (also called kitty)")
    assert [role for role, _ in chat] == ["system", "user", "assistant", "user"]
    parse_answer(chat[2][1], ClassEntry(name="mallet"))


# asking

def test_ask_model__broken_answers_are_asked_for_again_a_bounded_number_of_times(tmp_path):
    cache = AnswerCache(tmp_path / "a.jsonl")
    model = FakeModel(answer(), "Sure!", answer(kind="weapon"), "never", "never", "never")
    made = ask(model, cache, workers=1)
    assert [e.kind for e in made.described] == ["animal", "weapon", None] and made.described[1].name == "bow_(weapon)"
    assert list(made.failed) == ["dog"] and "3 answers were broken" in made.failed["dog"] and "JSON" in made.failed["dog"]
    assert len(model.chats) == 6 and model.chats[2][-2] == ("assistant", "Sure!") and "cannot be used" in model.chats[2][-1][1]
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [row["error"] is None for row in rows] == [True, False, True, False, False, False]

    again = ask(FakeModel(answer(kind="pet")), AnswerCache(tmp_path / "a.jsonl"))
    assert [e.kind for e in again.described] == ["animal", "weapon", "pet"]
    assert (again.num_asked, again.num_cached, again.failed) == (1, 2, {})


def test_ask_model__the_cache_is_of_one_model_prompt_and_entry(tmp_path):
    cache = AnswerCache(tmp_path / "a.jsonl")
    ask(FakeModel(answer()), cache)
    other = FakeModel(answer())
    other.name = "another"
    assert ask(other, cache).num_cached == 0
    changed = Vocabulary((ClassEntry(name="cat"), *NAMES[1:]))
    assert ask(FakeModel(answer()), cache, changed).num_cached == 2
    assert cache.get("fake", "another prompt", NAMES[0]) is None and cache.get("fake", PROMPT_VERSION, NAMES[0]) is not None


def test_ask_model__an_interrupted_run_goes_on_where_it_was(tmp_path):
    path = tmp_path / "a.jsonl"
    with pytest.raises(AskingError, match="the power is gone"):
        ask(FakeModel(answer(), AskingError("the power is gone", fatal=True)), AnswerCache(path), workers=1)
    with open(path, "a") as file:
        file.write('{"model": "fake", "prompt": "')  # killed while writing
    with pytest.warns(UserWarning, match="line 2 is cut short or broken and ignored"):
        cache = AnswerCache(path)
    assert len(cache) == 1
    made = ask(FakeModel(answer()), cache)
    assert (made.num_asked, made.num_cached) == (2, 1)
    with pytest.warns(UserWarning, match="line 2"):
        assert len(AnswerCache(path)) == 3


def test_ask_model__ctrl_c_keeps_what_came(tmp_path):
    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ask(FakeModel(answer()), AnswerCache(tmp_path / "a.jsonl"), workers=1, progress=interrupt)
    assert len(AnswerCache(tmp_path / "a.jsonl")) >= 1


def test_ask_model__classes_without_an_answer(tmp_path):
    many = Vocabulary.of([f"c{n}" for n in range(9)])
    silent = AskingError("no answer after 2 tries", fatal=False)
    made = ask(FakeModel(silent, silent, answer()), AnswerCache(tmp_path / "a.jsonl"), many, workers=1)
    assert list(made.failed) == ["c0", "c1"] and made.described[2].kind
    with pytest.raises(AskingError, match="3 classes in a row got no answer; the last: no answer after"):
        ask(FakeModel(silent), AnswerCache(tmp_path / "b.jsonl"), many, workers=1)
    with pytest.raises(ZeroDivisionError):
        ask(FakeModel(ZeroDivisionError()), AnswerCache(tmp_path / "c.jsonl"), many)
    with pytest.raises(AskingError, match="stopped before"):
        ask(FakeModel(Stopped()), AnswerCache(tmp_path / "d.jsonl"), many)


# servers

def test_server__happy_path(tmp_path):
    with server(lambda n, body, headers: (200, {}, chat_reply(answer(kind=headers["Authorization"][:6])))) as (url, seen):
        made = ask(client(url, temperature=0.5, max_tokens=99, json_mode=True), AnswerCache(tmp_path / "a.jsonl"), workers=3)
    assert [e.kind for e in made.described] == ["Bearer"] * 3 and not made.failed
    assert {body["messages"][-1]["content"] for body in seen} == {chat_about(e)[-1][1] for e in NAMES}
    assert all((b["model"], b["temperature"], b["max_tokens"], b["response_format"]) == ("tiny", 0.5, 99, {"type": "json_object"}) for b in seen)
    with server(lambda n, body, headers: (200, {}, chat_reply(str(headers["Authorization"])))) as (url, seen):
        assert client(url, api_key_env=None).ask([("user", "hi")]) == "None"
        assert set(seen[0]) == {"model", "messages"}


def test_server__several_workers_ask_at_once(tmp_path):
    barrier = threading.Barrier(3, timeout=PATIENCE)

    def reply(n, body, headers):
        barrier.wait()
        return 200, {}, chat_reply(answer())

    with server(reply) as (url, _):
        assert not ask(client(url), AnswerCache(tmp_path / "a.jsonl"), workers=3).failed


def test_server__429_waits_as_long_as_it_is_told():
    replies = {1: (429, {"Retry-After": "1"}, b"slow down")}
    with server(lambda n, *_: replies.get(n, (200, {}, chat_reply("hello")))) as (url, seen):
        start = time.monotonic()
        assert client(url).ask([("user", "hi")]) == "hello"
        assert time.monotonic() - start >= 0.99 and len(seen) == 2
    with server(lambda *_: (429, {"Retry-After": "9999"}, b"come tomorrow")) as (url, seen):
        with pytest.raises(AskingError, match=r"asks to wait for 9999 seconds \(HTTP 429\): come tomorrow; run again later"):
            client(url).ask([("user", "hi")])
        assert len(seen) == 1


def test_server__500_then_ok_and_500_for_ever():
    with server(lambda n, *_: (500, {}, b"oops") if n < 3 else (200, {}, chat_reply("hello"))) as (url, seen):
        assert client(url).ask([("user", "hi")]) == "hello" and len(seen) == 3
    with server(lambda *_: (503, {}, b"oops")) as (url, seen):
        with pytest.raises(AskingError, match="no answer after 3 tries: HTTP 503 .*: oops") as info:
            client(url, tries=3).ask([("user", "hi")])
        assert len(seen) == 3 and not info.value.fatal


@pytest.mark.parametrize(
    "status, headers, content, message",
    [
        (401, {}, b"bad key " + KEY.encode(), r"refuses the key in THE_KEY \(HTTP 401\); put a valid one there. It says: bad key \*\*\*"),
        (404, {}, b"no such model", r"does not exist or has no model 'tiny' \(HTTP 404\); check the base URL .* no such model"),
        (400, {}, b"no temperature here", r"does not take the request \(HTTP 400\); it says: no temperature here"),
        (307, {"Location": "http://127.0.0.1:9/elsewhere"}, b"", r"redirects to http://127.0.0.1:9/elsewhere \(HTTP 307\)"),
        (200, {}, b"<html>" + b"x" * 185 + KEY.encode(), "must reply in OpenAI's form .*got '<html>.*; check the base URL"),
    ],
)
def test_server__what_no_second_try_can_mend(status, headers, content, message):
    with server(lambda *_: (status, headers, content)) as (url, seen):
        with pytest.raises(AskingError, match=message) as info:
            client(url).ask([("user", "hi")])
    assert info.value.fatal and len(seen) == 1 and KEY[:8] not in str(info.value)


def test_server__nothing_listens_or_nothing_comes():
    with server(lambda *_: (200, {}, b"")) as (url, _):
        pass
    with pytest.raises(AskingError, match=rf"nothing listens at {url} \(connection refused\); start the server"):
        client(url).ask([("user", "hi")])

    def slow(*_):
        time.sleep(0.4)
        return 200, {}, b""

    with server(slow) as (url, seen):
        with pytest.raises(AskingError, match="no answer after 2 tries: no reply .* within 0.1 seconds"):
            client(url, timeout=0.1, tries=2).ask([("user", "hi")])


def test_server__the_key_is_written_nowhere(tmp_path, capsys):
    """Not even where a server repeats it."""
    with server(lambda *_: (200, {}, chat_reply(answer(description=f"furry; {KEY}")))) as (url, _):
        model = client(url)
        made = ask(model, AnswerCache(tmp_path / "a.jsonl"))
        write_descriptions(tmp_path / "out.json", made.described, [model.name])
    output = capsys.readouterr()
    texts = [p.read_text() for p in tmp_path.iterdir()] + [output.out, output.err, repr(model), repr(model.spec), model.name, repr(made)]
    assert len(texts) == 8 and not any(KEY in text for text in texts) and "***" in texts[0]


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(base_url="127.0.0.1:8000"), "must begin with http"),
        (dict(base_url="file:///etc/passwd"), "must begin with http"),
        (dict(base_url=f"http://me:{KEY}@host/v1"), "no user, password"),
        (dict(base_url=f"http://host/v1?key={KEY}"), "no user, password, query"),
        (dict(model=" "), "model must be named"),
        (dict(tries=0), "tries must be more than 0"),
        (dict(requests_per_minute=0), "requests per minute"),
        (dict(api_key_env="NOT_SET"), "NOT_SET must hold the API key, but it is not set"),
        (dict(api_key_env="BROKEN"), "key in BROKEN must be printable ASCII"),
    ],
)
def test_server__wrong_settings(options, message, monkeypatch):
    monkeypatch.setenv("BROKEN", KEY + "\nX-Other: 1")
    with pytest.raises(ValueError, match=message) as info:
        ChatServer(ServerSpec(**{"base_url": "http://127.0.0.1/v1", "model": "tiny", **options}))
    assert KEY not in str(info.value)


def test_server__a_key_in_the_clear_is_warned_of():
    with pytest.warns(UserWarning, match="sent in the clear to example.org"):
        ChatServer(ServerSpec(base_url="http://example.org/v1", model="tiny", api_key_env="THE_KEY"))


def test_pace__spreads_requests(monkeypatch):
    clock, pace = [100.0], Pace(1200)
    monkeypatch.setattr("ovdense.text.language_models.time.monotonic", lambda: clock[0])
    monkeypatch.setattr(pace, "sleep", lambda seconds: clock.append(clock.pop() + seconds))
    sent = []
    for busy in (0, 0, 0.02, 0.3, 0):  # seconds that are spent before each request
        clock.append(clock.pop() + busy)
        pace.wait()
        sent.append(clock[0])
    assert sent == pytest.approx([100, 100.05, 100.1, 100.4, 100.45])
    pace.pause(60)
    pace.wait()
    assert clock[0] == pytest.approx(160.45)


def test_pace__can_be_stopped():
    pace = Pace(1200)
    pace.pause(PATIENCE)
    threading.Timer(0.05, pace.stopped.set).start()
    with pytest.raises(Stopped):
        pace.wait()


@pytest.mark.parametrize("value, expected", [(None, None), ("3", 3.0), ("-1", 0.0), ("soon", None), ("inf", None), ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0)])
def test_retry_after__forms(value, expected, monkeypatch):
    monkeypatch.setattr("ovdense.text.chat_server.time.time", lambda: 2e9)
    assert _retry_after(value) == expected
    assert _retry_after(formatdate(2e9 + 30, usegmt=True)) == 30


# a local model

@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory):
    """A language model of a few thousand numbers that babbles, with the embedded tokenizer."""
    import torch
    from tokenizers import Tokenizer
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny_model")
    backend = Tokenizer.from_file(str(embedded_folder() / "tokenizer.json"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", eos_token="[SEP]", unk_token="[UNK]")
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=512, n_embd=4, n_layer=1, n_head=1, bos_token_id=101, eos_token_id=102)
    GPT2LMHeadModel(config).save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
    return folder


def test_local_model__babble_is_reported_as_failed(tiny_folder, tmp_path):
    model = LocalModel(tiny_folder, max_tokens=8)
    made = ask(model, AnswerCache(tmp_path / "a.jsonl"), workers=4, attempts=1)
    assert list(made.failed) == list(NAMES.names) and all(not e.descriptions and not e.kind for e in made.described)
    assert model.ask([("user", "hi")]) == model.ask([("user", "hi")])
    assert LocalModel(tiny_folder, temperature=0.7).name != model.name


def test_local_model__a_chat_template_is_used(tiny_folder):
    model = LocalModel(tiny_folder, max_tokens=4)
    plain = model._encode([("user", "hi")])
    model._tokenizer.chat_template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    assert model._tokenizer.decode(model._encode([("user", "hi")])[0]).replace(" ", "") == "<user>hi" != model._tokenizer.decode(plain[0])
    assert isinstance(model.ask([("user", "hi")]), str)


def test_local_model__too_long_a_question_and_stop(tiny_folder):
    with pytest.raises(AskingError, match="has room for 512 tokens, the question and its answer need"):
        LocalModel(tiny_folder, max_tokens=4).ask([("user", "word " * 600)])
    model = LocalModel(tiny_folder, max_tokens=4)
    model.stop()
    with pytest.raises(Stopped):
        model.ask([("user", "hi")])


def test_local_model__only_data_is_read(tiny_folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="must be a folder with config.json"):
        LocalModel(tmp_path / "none")
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ValueError, match="weights as .*safetensors, found none"):
        LocalModel(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="must hold a causal language model and its tokenizer"):
        LocalModel(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "gpt2", "auto_map": {"AutoModelForCausalLM": "evil.Model"}}')
    with pytest.raises(ValueError, match="asks for code of its own"):
        LocalModel(tmp_path)


# definitions, hands, merging

def test_definitions__are_found_by_name_noun_and_synonym():
    lvis = load_vocabulary("lvis")
    found = from_definitions(Vocabulary.of(["cat", "bow", "aeroplane", "spray can", "nothing like it"]), lvis)
    assert found[0].descriptions == lvis[lvis.index("cat")].descriptions
    assert not found[1].descriptions  # two bows: a weapon and a decoration
    assert found[3].descriptions == lvis[0].descriptions and not found[4].descriptions
    voc = from_definitions(load_vocabulary("voc"), lvis)
    assert voc[0].descriptions == lvis[lvis.index("airplane")].descriptions  # by VOC's synonym
    assert from_definitions(NAMES, lvis)[1].descriptions == lvis[lvis.index("bow_(weapon)")].descriptions


def test_merge__hand_wins_then_the_earlier_source(tmp_path):
    (tmp_path / "hand.json").write_text(json.dumps({"cat": {"kind": "pet"}, "dog": ["barks", "a good boy"]}))
    hand = from_file(NAMES, tmp_path / "hand.json")
    model = Vocabulary(tuple(parse_answer(answer(), e) for e in NAMES[:2]) + (NAMES[2],))
    merged, counts = merge(NAMES, [("hand", hand), ("model", model), ("own", NAMES)])
    assert merged[0] == ClassEntry(name="cat", synonyms=("kitty",), kind="pet", descriptions=("furry; four legs",), similar=("dog",))
    assert merged[1].descriptions == ("furry; four legs",) and merged[2].descriptions == ("barks", "a good boy")
    assert counts == {
        "hand": {"descriptions": 1, "kind": 1, "similar": 0},
        "model": {"descriptions": 2, "kind": 1, "similar": 2},
        "own": {"descriptions": 0, "kind": 0, "similar": 0},
    }
    assert merge(NAMES, [])[0][1].descriptions == ()
    with pytest.raises(ValueError, match="1 names are not in the vocabulary"):
        (tmp_path / "hand.json").write_text('{"catt": "furry"}')
        from_file(NAMES, tmp_path / "hand.json")


def test_write_descriptions__both_readers_take_it(tmp_path):
    full = Vocabulary((
        ClassEntry(name="café", kind="place", descriptions=("a; b", "c"), similar=("bar",), synonyms=("coffee house",), frequency="r"),
        ClassEntry(name="wall", is_background=True),
    ))
    path = tmp_path / "new" / "out.json"
    write_descriptions(path, full, ["hand", "model"])
    assert load_vocabulary(path) == full
    described = with_descriptions(Vocabulary.of(["wall", "café"]), path, tell_missing=False)
    assert described[1].descriptions == ("a; b", "c") and described[1].kind == "place"
    assert [p.name for p in path.parent.iterdir()] == ["out.json"] and json.loads(path.read_text())["made_from"] == ["hand", "model"]


def test_answer_cache__a_folder_is_refused(tmp_path):
    with pytest.raises(IsADirectoryError, match="must be a file"):
        AnswerCache(tmp_path)
