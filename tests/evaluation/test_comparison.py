"""Results side by side: the lines that differ are named, equal ones are not; protocols of several metrics as one; fingerprints."""
import math

import pytest
import torch

from ovdense.evaluation.comparison import comparison, differing_lines, markdown_table, read_report, short_names
from ovdense.evaluation.detection import LvisMetric
from ovdense.evaluation.protocol import merged, software, weights_fingerprint
from ovdense.evaluation.report import format_table, plain_text, write_report
from tests.evaluation.metric_samples import evaluate, sample, write_lvis
from tests.tiny_run import load_script

BOX = (10, 10, 110, 110)


def two_protocols(tmp_path):
    """The same predictions as AP and as fixed AP, asked by names and by descriptions; return the two files."""
    path = write_lvis(tmp_path / "a.json", {1: [("cat", BOX)]}, [{"name": "cat", "frequency": "f"}])
    files = []
    for name, fixed, prompt in (("one", False, "names"), ("two", True, "descriptions")):
        metric = LvisMetric(ann_file=path, fixed_ap=fixed)
        metric.conditions = {"prompt": prompt, "classes_per_chunk": 8}
        numbers = evaluate(metric, [sample(1, [BOX], [0.5], [0])], ["cat"])
        files.append(write_report(tmp_path / name / "test_metrics.json", numbers, metric.protocol | software()))
    return files


def test_compare__the_same_predictions_under_two_protocols(tmp_path, capsys):
    files = two_protocols(tmp_path)
    reports = [read_report(f) for f in files]
    assert {k for k, _ in differing_lines([r["protocol"] for r in reports])} == {"ap", "detections", "prompt"}
    test_py = load_script("tools/test.py")
    assert test_py.main(["--compare", *map(str, files)]) == 1
    text = capsys.readouterr().out
    for part in ("lines differ", "fixed AP", "no cap per image, 10,000 per class", "300 per image", "descriptions", "one", "two", "+0.0"):
        assert part in text
    assert "annotations" not in text and "classes per chunk" not in text, "what is the same is not shown"
    assert test_py.main(["--compare", str(files[0]), str(files[0])]) == 0
    assert "lines are the same" in capsys.readouterr().out


def test_compare__three_results_missing_lines_and_nan():
    a, b, c = ({"metrics": m, "protocol": p} for m, p in (({"x": 1.0, "n": 3}, {"k": 1}), ({"x": math.nan, "n": 5}, {"k": 1, "new": True}), ({}, {"k": 2})))
    text = " ".join(plain_text(comparison(["a", "b", "c"], [a, b, c]), 120).split())
    assert "2 of 2 lines differ" in text and "difference" not in text
    assert differing_lines([a["protocol"], b["protocol"]]) == [("new", ["-", True])]
    two = plain_text(comparison(["a", "b"], [a, b]), 120)
    row = next(line for line in two.splitlines() if line.startswith("│ x"))
    assert "+2" in two and [c.strip() for c in row.strip("│").split("│")] == ["x", "1.0", "-", "-"]


@pytest.mark.parametrize(
    ("text", "message"),
    [("[1]", "must have 'metrics' and 'protocol'.*got list"), ("{", "must be JSON"), ('{"metrics": {}}', r"got \['metrics'\]")],
)
def test_compare__what_is_no_result_is_said(tmp_path, text, message):
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_report(tmp_path / "r.json")
    with pytest.raises(FileNotFoundError, match="none.json"):
        read_report(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("argv", "message"),
    [([], "a config is required, or --compare"), (["c.py", "--compare", "a", "b"], "takes results only")],
)
def test_test_py__arguments(argv, message, capsys):
    with pytest.raises(SystemExit):
        load_script("tools/test.py").parse_args(argv)
    assert message in capsys.readouterr().err


def test_short_names__what_tells_paths_apart():
    assert short_names(["runs/a/test_metrics.json", "runs/b/test_metrics.json"]) == ["a", "b"]
    assert short_names(["x/a.metrics.json", "x/b.metrics.json"]) == ["a.metrics", "b.metrics"]
    assert short_names(["only.json"]) == ["only"]
    assert short_names(["r/a/1/m.json", "r/b/1/m.json"]) == ["a/1", "b/1"]


def test_results_table__a_row_a_result_with_its_protocol(tmp_path, capsys):
    files = two_protocols(tmp_path)
    tool = load_script("tools/results_table.py")
    assert tool.main([*map(str, files), "--out", str(tmp_path / "t.md")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["| run | numbers | protocol |", "|---|---|---|"] and (tmp_path / "t.md").read_text().splitlines() == lines
    assert lines[2].startswith("| one | lvis: bbox_AP 100.0, bbox_AP50 100.0, bbox_AP75 100.0, bbox_APl 100.0 | a.json; 1 images; 1 classes; prompt: names;")
    assert "fixed AP" in lines[3]
    assert tool.main([str(files[0]), "--numbers", "bbox_APf", "--lines", "images", "--names", "DesCo | mini"]) == 0
    assert capsys.readouterr().out.splitlines()[2] == "| DesCo \\| mini | lvis: bbox_APf 100.0 | a.json; 1 images |"
    assert "| - |" in markdown_table(["x"], [{"metrics": {"a": math.nan}, "protocol": {}}])
    with pytest.raises(SystemExit):
        tool.main([str(files[0]), "--names", "a", "b"])


def test_merged__lines_that_metrics_state_differently_are_there_for_each():
    both = merged([("lvis", {"images": 5, "ap": "AP", "prompt": "not stated"}), ("lvis_fixed", {"images": 5, "ap": "fixed AP", "prompt": "names"})])
    assert both == {"images": 5, "lvis: ap": "AP", "lvis_fixed: ap": "fixed AP", "prompt": "names"}
    assert merged([]) == {}


def test_weights_fingerprint__of_values_names_types_and_shapes():
    state = {"b": torch.zeros(2, 3), "a": torch.ones(4, dtype=torch.bfloat16), "n": torch.tensor(3)}
    same = {k: state[k].clone() for k in sorted(state)}
    found = weights_fingerprint(state)
    assert found == weights_fingerprint(same) and len(found) == 16
    transposed = state | {"b": torch.zeros(3, 2)}
    for other in (transposed, state | {"b": torch.zeros(2, 3).double()}, {**state, "c": state["b"]}, state | {"n": torch.tensor(4)}, {}):
        assert weights_fingerprint(other) != found
    assert weights_fingerprint({"a": torch.arange(6).reshape(2, 3).T}) == weights_fingerprint({"a": torch.arange(6).reshape(2, 3).T.contiguous()})


def test_software__names_versions():
    told = software()
    assert told["torch"] == torch.__version__.partition("+")[0] and told["hotcoco"] != "unknown" and told["ovdense"]


def test_format_table__numbers_of_each_class():
    text = format_table({"x/AP": 1.0}, {}, per_class={"cat": {"bbox_AP": 50.0, "objects": 3}, "dog": {"bbox_AP": math.nan}})
    rows = [[c.strip() for c in line.strip("│").split("│")] for line in text.splitlines() if line.startswith("│")]
    assert rows[:2] == [["cat", "50.0", "3"], ["dog", "-", ""]]
