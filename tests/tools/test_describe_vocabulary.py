"""The tool that describes a vocabulary, run as a user runs it."""
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from ovdense.text.vocabulary import load_vocabulary
from tests.ranks import PATIENCE
from tests.text.test_describe import KEY, answer, chat_reply, server
from tests.tiny_run import ROOT, load_script

main = load_script("tools/describe_vocabulary.py").main


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("THE_KEY", KEY)
    monkeypatch.setenv("COLUMNS", "150")


@pytest.fixture
def names(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("cat\ndog\nbus\n")
    return path


def cells(output: str, source: str) -> list[str]:
    """Return the numbers in the table's row of a source."""
    line = next(line for line in output.splitlines() if source in line and "│" in line)
    return [cell.strip() for cell in line.strip("│ ").split("│")[1:]]


def of_server(names, out, url, *more):
    return [str(names), "--from", "server", "lvis", "--base-url", url, "--model", "tiny", "--api-key-env", "THE_KEY", "--out", str(out), *more]


def fails(capsys, arguments) -> str:
    with pytest.raises(SystemExit) as info:
        main(arguments)
    assert info.value.code == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_describe__definitions_alone(tmp_path, capsys):
    out = tmp_path / "coco.json"
    assert main(["coco", "--from", "lvis", "--out", str(out)]) == 0
    made, lvis = load_vocabulary(out), load_vocabulary("lvis")
    assert made.names == load_vocabulary("coco").names
    assert made[made.index("bicycle")].descriptions == lvis[lvis.index("bicycle")].descriptions
    described = sum(bool(e.descriptions) for e in made)
    output = capsys.readouterr().out
    assert described >= 70 and cells(output, "definitions: lvis") == [str(described), "0", "0"] and f"written to {out}" in output
    assert cells(output, "nowhere") == [str(80 - described), "80", "80"]
    assert main(["lvis", "--out", str(tmp_path / "own.json")]) == 0
    assert load_vocabulary(tmp_path / "own.json") == lvis
    assert not list(tmp_path.glob("*.jsonl"))


def test_describe__hand_then_server_then_definitions_and_a_second_run_asks_what_is_missing(names, tmp_path, capsys):
    hand, out = tmp_path / "hand.json", tmp_path / "out.json"
    hand.write_text(json.dumps({"cat": {"descriptions": "says meow", "kind": "pet", "similar": ["lynx"]}}))

    def reply(n, body, headers):
        return 200, {}, chat_reply(answer() if "bus" not in body["messages"][-1]["content"] and len(body["messages"]) == 4 else "no idea")

    with server(reply) as (url, seen):
        assert main(of_server(names, out, url, "--hand", str(hand), "--attempts", "2")) == 1
        assert len(seen) == 3  # dog once, bus twice, cat never
    printed = capsys.readouterr()
    made = load_vocabulary(out)
    assert [e.descriptions for e in made][:2] == [("says meow",), ("furry; four legs",)]
    assert made[2].descriptions == load_vocabulary("lvis")[load_vocabulary("lvis").index("bus_(vehicle)")].descriptions and made[2].kind is None
    assert "no good answer for 1 classes" in printed.err and "bus: 2 answers were broken" in printed.err
    assert cells(printed.out, "hand.json") == ["1", "1", "1"] and cells(printed.out, "server: tiny") == ["1", "1", "1"]
    assert cells(printed.out, "definitions: lvis") == ["1", "0", "0"] and cells(printed.out, "nowhere") == ["0", "1", "1"]
    with server(lambda *_: (200, {}, chat_reply(answer(kind="vehicle")))) as (url, seen):
        assert main(of_server(names, out, url, "--hand", str(hand))) == 0
        assert len(seen) == 1
    assert load_vocabulary(out)[2].kind == "vehicle" and "1 classes asked about, 1 answers from" in capsys.readouterr().out
    everything = "".join(p.read_text() for p in tmp_path.iterdir()) + printed.out + printed.err
    assert KEY not in everything


def test_describe__a_refused_key_keeps_the_good_answers(names, tmp_path, capsys):
    out = tmp_path / "out.json"
    with server(lambda n, *_: (200, {}, chat_reply(answer())) if n == 1 else (401, {}, f"wrong key {KEY}".encode())) as (url, _):
        error = fails(capsys, of_server(names, out, url, "--workers", "1"))
    assert "refuses the key in THE_KEY (HTTP 401)" in error and "run again to go on" in error and KEY not in error
    assert not out.exists() and len((tmp_path / "out.answers.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize("kill", [signal.SIGINT, signal.SIGKILL])
def test_describe__killed_in_the_middle(names, tmp_path, kill):
    out, hang = tmp_path / "out.json", threading.Event()

    def reply(n, body, headers):
        if n > 2:
            hang.wait(PATIENCE)
        return 200, {}, chat_reply(answer())

    with server(reply) as (url, seen):
        command = [sys.executable, str(ROOT / "tools/describe_vocabulary.py"), *of_server(names, out, url, "--workers", "1")]
        process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                   preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))  # a background shell's children ignore it
        deadline = time.monotonic() + PATIENCE
        while len(seen) < 3 and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(kill)
        _, error = process.communicate(timeout=PATIENCE)
        hang.set()
        if kill == signal.SIGINT:
            assert process.returncode == 130 and "interrupted; the answers so far are kept" in error
        assert not out.exists()
        before = len(seen)
        assert main(of_server(names, out, url)) == 0
        assert len(seen) == before + 1
    assert all(e.kind for e in load_vocabulary(out))


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["coco", "--from", "server", "--out", "a.json"], "--from server needs --base-url and --model"),
        (["coco", "--from", "local", "--out", "a.json"], "--from local needs --model-folder"),
        (["coco", "--model-folder", "x", "--out", "a.json"], "--model-folder is for 'local', which --from does not name"),
        (["coco", "--from", "lvis", "lvis", "--out", "a.json"], "must name each source once"),
        (["coco", "--out", "a.txt"], "--out must be a .json file"),
        (["cocoo", "--out", "a.json"], "did you mean 'coco'?"),
        (["coco", "--hand", "none.json", "--out", "a.json"], "a file of descriptions must exist"),
        (["coco", "--from", "local", "--model-folder", "none", "--out", "a.json"], "must be a folder with config.json"),
        (["coco", "--from", "server", "--base-url", "http://127.0.0.1:1/v1", "--model", "m", "--api-key-env", "UNSET_KEY", "--out", "a.json"], "UNSET_KEY"),
        (["coco", "--from", "server", "--base-url", "http://127.0.0.1:1/v1", "--model", "m", "--out", "a.json"], "nothing listens at http://127.0.0.1:1/v1"),
    ],
)
def test_describe__wrong_use_is_one_line(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    error = fails(capsys, arguments)
    assert error.startswith("error: ") and message in error


def test_describe__never_writes_over_what_it_reads(tmp_path, capsys):
    path = tmp_path / "mine.json"
    path.write_text('{"classes": ["cat"]}')
    assert "--out must be another file" in fails(capsys, [str(path), "--out", str(path)])


def test_describe__help_shows_an_example(capsys):
    with pytest.raises(SystemExit) as info:
        main(["--help"])
    assert info.value.code == 0 and "ovdense vocab describe coco --from lvis --out" in capsys.readouterr().out


def test_describe__own_descriptions_that_are_left_out_are_told(tmp_path, capsys):
    (tmp_path / "hand.json").write_text('{"cat": "furry"}')
    (tmp_path / "v.json").write_text('{"classes": [{"name": "cat", "descriptions": ["soft"]}, "dog"]}')
    assert main([str(tmp_path / "v.json"), "--hand", str(tmp_path / "hand.json"), "--from", "lvis", "--out", str(tmp_path / "out.json")]) == 0
    assert "has descriptions of its own, which are left out; name own" in capsys.readouterr().out
