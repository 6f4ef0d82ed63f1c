"""tools/soak.py: what it measures, on a few predictions; the long form is in docs/scaling.md."""
import json

import numpy as np
import pytest

import ovdense
from tests.tiny_run import load_script


def test_growth__compares_tenths_after_the_warm_up():
    growth = load_script("tools/soak.py").growth_percent
    done = list(range(1, 101))
    assert growth(done, [1000.0 if d <= 50 else 100.0 for d in done], 50) == 0
    assert growth(done, [100.0 + d for d in done], 0) == pytest.approx(100 * 90 / 105.5)
    with pytest.raises(ValueError, match="after the warm-up"):
        growth(done, done, 100)


@pytest.fixture(scope="module")
def predictor():
    return ovdense.load("mini")


def test_soak__writes_figures_and_a_plot(tmp_path, monkeypatch, predictor):
    monkeypatch.setattr(ovdense, "load", lambda name, weights: predictor)
    script = load_script("tools/soak.py")
    arguments = ["mini", "--predictions", "8", "--warm-up", "4", "--short-side", "64", "--sides", "20", "60", "--out", str(tmp_path)]
    monkeypatch.setattr(script, "EVERY", 2)
    assert script.main([*arguments, "--max-growth", "50"]) == 0
    found = json.loads((tmp_path / "soak.json").read_text())
    assert found["done"] == [2, 4, 6, 8] and min(found["resident_mib"]) > 50 and (tmp_path / "soak.png").stat().st_size > 5000
    assert set(found["growth_percent"]) >= {"resident_mib", "tensors_mib"}


@pytest.mark.parametrize("what, says_why", [("resident_bytes", True), ("tensor_bytes", False)])
def test_soak__fails_where_memory_grows_and_tells_a_leak_from_what_the_allocator_keeps(what, says_why, tmp_path, monkeypatch, capsys, predictor):
    monkeypatch.setattr(ovdense, "load", lambda name, weights: predictor)
    script = load_script("tools/soak.py")
    monkeypatch.setattr(script, "EVERY", 2)
    held, grown = getattr(script, what), []

    def leaking():
        grown.append(np.ones(2))
        return held() * 2 ** len(grown)

    monkeypatch.setattr(script, what, leaking)
    monkeypatch.setattr(script, "in_use_bytes", lambda: 2**28)
    arguments = ["mini", "--predictions", "8", "--warm-up", "4", "--short-side", "64", "--sides", "20", "60", "--return-memory", "--out", str(tmp_path)]
    assert script.main([*arguments, "--max-growth", "50"]) == 1
    assert ("does not grow" in capsys.readouterr().out) == says_why
