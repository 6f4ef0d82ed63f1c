"""The benchmark tools at their smallest: rows, ratios, equal numbers, a page with a plot."""
import json

import pytest
from PIL import Image

from ovdense.measure import interleaved_seconds, median_seconds, paired_ratio
from tests.tiny_run import load_script


@pytest.mark.slow
def test_benchmark_evaluation__both_engines_give_the_same_numbers_and_a_page(tmp_path):
    out = tmp_path / "evaluation.json"
    assert load_script("tools/benchmark_evaluation.py").main(["--images", "6", "12", "--per-image", "30", "--kinds", "bbox", "segm", "--out", str(out)]) == 0
    rows = json.loads(out.read_text())["tables"][0]["rows"]
    assert [(r["kind"], r["images"], r["detections"]) for r in rows] == [(k, n, 30 * n) for k in ("bbox", "segm") for n in (6, 12)]
    assert all(float(r["largest_difference"]) < 1e-6 and r["AP"] > 1 and r["hotcoco_mib"] > 50 and r["times_faster"] > 0 for r in rows)
    page, plot = tmp_path / "docs" / "benchmarks.md", tmp_path / "docs" / "images" / "b.png"
    assert load_script("tools/benchmark_page.py").main([str(out), "--page", str(page), "--plot", str(plot)]) == 0
    text = page.read_text()
    assert "![Seconds over size](images/b.png)" in text and "| kind | images | detections |" in text and text.count("| segm |") == 2
    assert Image.open(plot).size[0] > 300


def test_benchmark_page__without_sizes_there_is_no_plot_and_other_files_are_refused(tmp_path):
    module = load_script("tools/benchmark_page.py")
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"machine": "m", "tables": [{"title": "T", "rows": [{"what": "a|b", "n": 1200}, {"other": 2.5}]}]}))
    assert module.main([str(path), "--page", str(tmp_path / "p.md"), "--plot", str(tmp_path / "p.png")]) == 0
    text = (tmp_path / "p.md").read_text()
    assert "| what | n | other |" in text and "| a\\|b | 1,200 |  |" in text and "![" not in text and not (tmp_path / "p.png").exists()
    for content, message in (("{}", "must have 'tables'"), ("{", "must be JSON")):
        path.write_text(content)
        with pytest.raises(ValueError, match=message):
            module.read_tables(path)


def test_paired_ratio__of_the_same_turn():
    assert paired_ratio([4.0, 2.0, 9.0], [2.0, 2.0, 3.0]) == {"ratio": 2.0, "lowest": 1.0, "highest": 3.0, "turns": 3}
    assert paired_ratio([4.0, 2.0], [2.0, 2.0])["ratio"] == 1.5
    with pytest.raises(ValueError, match="as many times of both"):
        paired_ratio([1.0], [])


def test_interleaved__takes_turns():
    seen = []
    times = interleaved_seconds({"a": lambda: seen.append("a"), "b": lambda: seen.append("b")}, repeats=3)
    assert seen == ["a", "b", *"ab", *"ba", *"ab"] and [len(t) for t in times.values()] == [3, 3]
    for timed in (lambda: median_seconds(print, 0), lambda: interleaved_seconds({"a": print}, -1)):
        with pytest.raises(ValueError, match="at least once, got .* repeats; give --repeats 1"):
            timed()


def test_benchmark_page__keeps_what_is_written_by_hand_and_names_the_machine_that_is_known(tmp_path):
    page = tmp_path / "p.md"
    page.write_text("# Old\n\n<!-- by hand -->\n\n## Earlier\n\nmine\n")
    for name, machine in (("a", {"machine": "a machine"}), ("b", {})):
        (tmp_path / f"{name}.json").write_text(json.dumps(machine | {"tables": [{"title": name, "rows": [{"x": 1}]}]}))
    files = [str(tmp_path / f"{name}.json") for name in "ab"]
    for _ in range(2):
        assert load_script("tools/benchmark_page.py").main([*files, "--page", str(page), "--plot", str(tmp_path / "p.png")]) == 0
    text = page.read_text()
    assert "Machine: a machine\n" in text and "# Old" not in text and text.count("by hand") == 1 and text.endswith("\n\n## Earlier\n\nmine\n")


def test_benchmark_page__reads_runs_against_the_published_arithmetic(tmp_path):
    rows = [{"prompt": "names", "times_faster": 1.8}]
    content = {"config": "/some/where/configs/a.py", "size_hw": [480, 640], "threads": 2, "test": rows, "retrieval": {"k": 5}}
    (tmp_path / "a.json").write_text(json.dumps(content))
    assert load_script("tools/benchmark_page.py").main([str(tmp_path / "a.json"), "--page", str(tmp_path / "p.md"), "--plot", str(tmp_path / "p.png")]) == 0
    text = (tmp_path / "p.md").read_text()
    assert "## a.py: test" in text and "size hw 480x640, threads 2" in text and "| names | 1.8 |" in text and "/some/where" not in text


@pytest.mark.slow
def test_benchmark_ovdiff__tables_of_prediction_and_of_building(tmp_path):
    out, small = tmp_path / "ovdiff.json", ["--images", "2", "--grid", "8", "--width", "16", "--clusters", "2", "--repeats", "1"]
    assert load_script("tools/benchmark_ovdiff.py").main(["--classes", "1", "12", *small, "--out", str(out)]) == 0
    prediction, building = json.loads(out.read_text())["tables"]
    assert [(r["classes"], r["looked_for"]) for r in prediction["rows"]] == [(1, 1), (12, 12), (12, 10)]
    assert all(r["seconds"] >= 0 and r["matrix_product_s"] >= 0 for r in prediction["rows"])  # which is longer depends on the machine, at this size
    ours, theirs = building["rows"]
    assert ours["rows"] == theirs["rows"] == 2 * (1 + 2 + 2) and all(0 < r["peak_gib"] < 8 for r in building["rows"])
