"""Tools that are no commands answer a misspelt option with the one that is meant, as the commands do."""
import pytest

from tests.tiny_run import ROOT, load_script

TOOLS = sorted(path.name for path in (ROOT / "tools").glob("*.py") if "Parser(" in path.read_text(encoding="utf8"))


@pytest.mark.parametrize("name", TOOLS)
def test_tool__has_the_shared_parser(name):
    assert "ArgumentParser(" not in (ROOT / "tools" / name).read_text(encoding="utf8")


@pytest.mark.parametrize(
    ("name", "argv", "meant"),
    [
        ("context_sensitivity.py", ["c.py", "w.pth", "--num-imges", "3"], "--num-images"),
        ("build_grounding.py", ["--out", "x.json", "refcoco", "a", "b", "--slpit", "val"], "--split"),
        ("results_table.py", ["--uot"], "--out"),
    ],
)
def test_misspelt_option__of_a_tool(name, argv, meant, capsys):
    script = load_script(f"tools/{name}")
    with pytest.raises(SystemExit) as ended:
        (script.parse_args if hasattr(script, "parse_args") else script.main)(argv)
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert ended.value.code == 2 and error.startswith("error: ") and meant in error
