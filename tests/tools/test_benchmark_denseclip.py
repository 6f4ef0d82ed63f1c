"""The published arithmetic that DenseCLIP is timed against gives the same outputs, and leaves the model as it was."""
import pytest
import torch

from tests.methods.denseclip.tiny import images, make
from tests.tiny_run import load_script


@pytest.fixture(scope="module")
def tool():
    return load_script("tools/benchmark_denseclip.py")


def test_published_arithmetic__equals_ours_and_is_undone(tool):
    model, batch, seen = make(), images(1, 64, 64), []
    with torch.no_grad():
        ours = model.segment(batch)
        with tool.PublishedArithmetic(model):
            original = model.text_encoder.encode_names
            model.text_encoder.encode_names = lambda *given: seen.append(1) or original(*given)
            theirs = model.segment(batch), model.segment(batch)
        assert torch.equal(model.segment(batch), ours)
    assert len(seen) == 2 and torch.allclose(theirs[0], ours, atol=1e-5)
    assert not any(p.requires_grad for p in model.text_encoder.parameters()) and "score" not in vars(model)


def test_published_arithmetic__encodes_text_for_every_window(tool):
    model, seen = make(test=dict(crop=(32, 32), stride=(32, 32))), []
    model.text()  # ours, once
    with torch.no_grad(), tool.PublishedArithmetic(model):
        original = model.text_encoder.encode_names
        model.text_encoder.encode_names = lambda *given: seen.append(1) or original(*given)
        model.segment(images(1, 64, 96))
    assert len(seen) == 6


def test_rows__have_ratios_of_one_run(tool):
    model = make(test=dict(crop=(32, 32), stride=(32, 32)))
    for rows in (tool.testing(model, (64, 64), 1, slide=False), tool.testing(model, (64, 64), 1, slide=True), tool.training(model, (32, 32), 2, 1)):
        assert [row["arithmetic"] for row in rows] == ["published", "ours"] and rows[0]["times_faster"] == 1
        assert float(rows[1]["largest_difference"]) < 1e-4 and rows[1]["peak_mib"] > 0
