"""The command line: help, misspelt words, exit codes, JSON. What commands do is tested with the tools that share their code."""
import ast
import inspect
import json
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ovdense.cli import COMMANDS, info, main, support, vocab
from ovdense.cli.output import outcome, size
from ovdense.cli.parser import Commands, Parser
from tests.tiny_run import ROOT, shapes, write_config

# every command that has options of its own: (its words, its module)
PARENTS = {m.__name__: m.COMMANDS.table for m in (support, vocab)}
LEAVES = [((name,), module) for name, (module, _) in COMMANDS.table.items() if module not in PARENTS]
LEAVES += [((name, sub), module) for name, (top, _) in COMMANDS.table.items() for sub, (module, _) in PARENTS.get(top, {}).items()]
IDS = [" ".join(words) for words, _ in LEAVES]


def test_help__lists_every_command_and_imports_none(capsys):
    assert main(["--help"]) == 0
    told = capsys.readouterr().out
    assert all(re.search(rf"^  {name} +{re.escape(line)}$", told, re.M) for name, (_, line) in COMMANDS.table.items())
    code = "import sys; from ovdense.cli import main; main(['--help']); print([m for m in ('torch', 'mmengine', 'rich', 'numpy', 'PIL') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip().endswith("[]")


@pytest.fixture(scope="module")
def helps():
    """What each command's --help prints, in one new process that must not need torch for it."""
    code = """import io, json, sys
from contextlib import redirect_stdout
from ovdense.cli import main
told = {}
for words in json.loads(sys.argv[1]):
    with redirect_stdout(io.StringIO()) as out:
        try:
            main([*words, "--help"])
        except SystemExit as error:
            assert error.code == 0
    told[" ".join(words)] = out.getvalue()
assert "torch" not in sys.modules
print(json.dumps(told))"""
    done = subprocess.run([sys.executable, "-c", code, json.dumps([w for w, _ in LEAVES])], capture_output=True, text=True, check=True, cwd=ROOT)
    return json.loads(done.stdout)


@pytest.mark.parametrize(("words", "module"), LEAVES, ids=IDS)
def test_help__of_a_command_names_every_option(words, module, helps):
    source = Path(inspect.getfile(import_module(module))).read_text(encoding="utf8")
    shared = inspect.getsource(import_module("ovdense.runs").add_run_arguments) if "add_run_arguments(" in source else ""
    flags = re.findall(r'\.add_argument\(\s*"(--[a-z][a-z-]*)"', "\n".join(line for line in (source + shared).splitlines() if "SUPPRESS" not in line))
    told = helps[" ".join(words)]
    assert told.startswith(f"usage: ovdense {' '.join(words)} [-h]") and all(flag in told for flag in flags)


@pytest.mark.parametrize(("words", "module"), LEAVES, ids=IDS)
def test_misspelt_option__is_said_first_with_the_right_one(words, module, capsys):
    options = [k for action in _parser_of(module, words)._actions for k in action.option_strings]
    known = [k for k in options if k.startswith("--") and len(k) > 5 and k not in ("--local_rank", "--local-rank")]
    for flag in known:
        wrong = flag[:-2] + flag[-1] + flag[-2] if flag[-1] != flag[-2] else flag + "x"
        if any(k.startswith(wrong) for k in known):
            continue
        with pytest.raises(SystemExit) as exit_info:
            main([*words, wrong])
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert exit_info.value.code == 2 and error.startswith(f"error: unknown option {wrong}; did you mean ") and flag in error


def _parser_of(module: str, words: tuple[str, ...]) -> Parser:
    made, parse = [], Parser.parse_known_args
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(Parser, "parse_known_args", lambda self, args=None, namespace=None: (made.append(self), parse(self, ["--nothing-like-it"]))[1])
        import_module(module).parse_args([], " ".join(words))
    return made[0]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["prdict"], "did you mean predict?"),
        (["tarin", "x.py"], "did you mean train?"),
        (["vocab", "shwo"], "did you mean show?"),
        (["--hepl"], "did you mean --help?"),
        (["xyz"], "it has: predict"),
        (["predict", "a.jpg", "--texts", "cat", "--prompt", "nmaes"], "did you mean names?"),
        (["vocab", "show", "lviss"], "did you mean 'lvis'?"),
        (["vocab", "show", "coco", "--most", "-1"], "0 or more"),
        (["index", "nothing"], "existing folder"),
        (["predict", "a.jpg", "--caption", "a dog", "--prompt", "descriptions"], "--prompt says how --texts or --vocab are asked"),
        (["predict", "a.jpg", "--exemplars", "mugs", "--prompt", "names"], "--prompt says how --texts or --vocab are asked"),
        (["predict", "a.jpg", "--texts", "cat", "--data-root", "nothing"], "--data-root must be an existing folder"),
        (["index", ".", "--data-root", "nothing"], "--data-root must be an existing folder"),
        (["demo", "--data-root", "nothing"], "--data-root must be an existing folder"),
        (["export", "mini", "--texts", "cat", "--out", "a.onnx", "--data-root", "nothing"], "--data-root must be an existing folder"),
        (["support", "show", "reco_mini", "--texts", "cat", "--columns", "0"], "--columns must be at least 1"),
        (["annotations", "labels.yaml", "out", "--from", "yolo", "--to", "coco", "--drop"], "--drop: reading YOLO leaves nothing out"),
        (["train"], "the following arguments are required: config"),
        (["train", "mini"], "mini trains nothing"),
        (["predict", "", "--texts", "cat"], 'an argument is empty ("")'),
        (["annotations", "", "out", "--to", "coco"], 'an argument is empty ("")'),
        (["predict", "a.jpg", "--texts", "cat", "--cfg-options", "model.foo"], "must be KEY=VALUE"),
        (["train", "mini", "--cfg-options", "=3"], "must be KEY=VALUE"),
        (["test", "mini", "--cfg-options", "a=[1,2"], "cannot be read"),
        (["test", "--compare", "one.json"], "at least two results"),
    ],
)
def test_bad_input__is_one_line_and_exit_code_2(argv, said, capsys):
    try:
        code = main(argv)
    except SystemExit as error:
        code = error.code
    captured = capsys.readouterr()
    line = captured.err.strip().splitlines()[-1]
    assert code == 2 and line.startswith("error: ") and said in line and not captured.out


def test_no_command__prints_the_help_and_is_an_error(capsys):
    assert main([]) == 2
    assert "commands:" in capsys.readouterr().err


def test_interrupt__is_said_and_has_its_code(monkeypatch, capsys):
    def stopped(self, argv):
        raise KeyboardInterrupt

    monkeypatch.setattr(Commands, "run", stopped)
    assert main(["info"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_outcome__json_alone_on_stdout(capsys):
    with outcome(True) as found:
        print("by the way")
        found["scores"] = [np.float32(0.5), np.int64(3)]
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"scores": [0.5, 3]} and captured.err == "by the way\n"
    with pytest.raises(ValueError), outcome(True):
        raise ValueError
    assert capsys.readouterr().out == ""
    assert [size(n) for n in (0, 1023, 1024, 3 * 2**29, 5 * 2**40)] == ["0 B", "1023 B", "1.0 KiB", "1.5 GiB", "5120.0 GiB"]


def test_info__says_what_pyproject_says(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("OVDENSE_CACHE", str(tmp_path))
    (tmp_path / "embeddings" / "a").mkdir(parents=True)
    (tmp_path / "embeddings" / "a" / "b.bin").write_bytes(b"12345")
    assert main(["info", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["caches"] == [{"name": "embeddings", "what": "text embeddings", "files": 1, "bytes": 5}] and found["cache_root"] == str(tmp_path)
    assert found["packages"]["torch"] and found["devices"][0]["device"] == "cpu" and found["settings"]["OVDENSE_CACHE"] == str(tmp_path)
    section = (ROOT / "pyproject.toml").read_text(encoding="utf8").partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    extras = {extra: ast.literal_eval(packages) for extra, packages in re.findall(r"^(\w+) = (\[[^]]*\])", section, re.M)}
    extras = {extra: tuple(re.split(r"[><=]", package)[0] for package in packages) for extra, packages in extras.items()}
    assert {extra: names for extra, (names, _) in info.EXTRAS.items()} == {e: names for e, names in extras.items() if e not in ("test", "docs", "fuzz")}
    assert main(["info"]) == 0
    told = capsys.readouterr().out
    assert "onedl-mmengine" in told and str(tmp_path) in told and "5 B" in told


def test_vocab__list_and_show(capsys):
    assert main(["vocab", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["vocabularies"]["lvis"] == 1203
    assert main(["vocab", "show", "coco", "--find", "dog", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [c["name"] for c in found["classes"]] == ["dog", "hot dog"] and found["of"] == 80
    assert main(["vocab", "show", "coco", "--most", "2"]) == 0
    assert "and 78 more" in capsys.readouterr().out


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Two folders that both have a scene 0.png, and a broken file."""
    folder, scenes = tmp_path_factory.mktemp("photos"), sorted((shapes(tmp_path_factory) / "images" / "val").glob("*.png"))
    for n, name in enumerate(("a", "b")):
        (folder / name).mkdir()
        Image.open(scenes[n]).save(folder / name / "0.png")
    (folder / "b" / "1.png").write_bytes(b"no image")
    return folder


def test_predict__several_folders_as_json(photos, tmp_path, capsys, tmp_path_factory):
    import torch

    from ovdense.api import load_model

    config = write_config(tmp_path, "predict")
    torch.save({"state_dict": load_model(config, device="cpu").state_dict()}, tmp_path / "w.pth")
    argv = ["predict", str(photos / "a"), str(photos / "b"), "--texts", "ring. star", "--model", str(config), "--weights", str(tmp_path / "w.pth")]
    assert main([*argv, "--score-thr", "0", "--device", "cpu", "--json", "--out", str(tmp_path / "out")]) == 1
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert [i["file_name"] for i in found["images"]] == ["a/0.png", "b/0.png"] and len(found["errors"]) == 1 and "1.png" in captured.err
    assert {a["image_id"] for a in found["annotations"]} == {1, 2} and [c["name"] for c in found["categories"]] == ["ring", "star"]
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"0_png_1.jpg", "0_png_2.jpg", "contact_sheet.jpg", "predictions.json"}


def test_index__finds_by_text_and_keeps_what_it_computed(photos, capsys):
    assert main(["index", str(photos), "--find", "a ring. a star", "--top", "1", "--json", "--model", str(ROOT / "configs" / "reco_mini.py")]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["photos"] == 2 and list(found["left_out"]) == [str(photos / "b" / "1.png")]
    assert [row["text"] for row in found["found"]] == ["a ring", "a star"] and all(-1 <= row["similarity"] <= 1 for row in found["found"])
    assert any(Path(found["kept_in"]).iterdir())
