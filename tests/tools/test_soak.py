"""tools/soak.py: what it measures, on a few predictions; the long form is in docs/scaling.md."""
import json

import numpy as np
import pytest

from tests.tiny_run import load_script


def test_growth__compares_tenths_after_the_warm_up():
    growth = load_script("tools/soak.py").growth_percent
    done = list(range(1, 101))
    assert growth(done, [1000.0 if d <= 50 else 100.0 for d in done], 50) == 0
    assert growth(done, [100.0 + d for d in done], 0) == pytest.approx(100 * 90 / 105.5)
    with pytest.raises(ValueError, match="after the warm-up"):
        growth(done, done, 100)


def test_soak__writes_figures_and_a_plot_and_fails_where_memory_grows(tmp_path, monkeypatch):
    script = load_script("tools/soak.py")
    arguments = ["mini", "--predictions", "8", "--warm-up", "4", "--short-side", "64", "--sides", "20", "60", "--out", str(tmp_path)]
    monkeypatch.setattr(script, "EVERY", 2)
    assert script.main([*arguments, "--max-growth", "50"]) == 0
    found = json.loads((tmp_path / "soak.json").read_text())
    assert found["done"] == [2, 4, 6, 8] and min(found["resident_mib"]) > 50 and (tmp_path / "soak.png").stat().st_size > 5000
    held, grown = script.resident_bytes, []

    def leaking():
        grown.append(np.ones(2))
        return held() * 2 ** len(grown)

    monkeypatch.setattr(script, "resident_bytes", leaking)
    assert script.main([*arguments, "--max-growth", "50"]) == 1
