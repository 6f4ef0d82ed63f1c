"""Two processes that share a batch learn and measure as one process with the whole of it."""
from pathlib import Path

import pytest
import torch
from torch import distributed

from tests.methods.mdetr.tiny import BIRD, DOG, image, losses, target, tiny, total
from tests.ranks import call_on_ranks


def shared(out):
    """Learn and measure this rank's half, and write what came out to `out` and the rank's number."""
    rank = distributed.get_rank()
    loss, grads, found = step([rank])
    metrics = measured([rank, rank + 2], 4)
    torch.save({"loss": loss, "grads": grads, "found": found, "metrics": metrics}, f"{out}{rank}")


def step(which):
    """Return the loss, the gradients and the single losses of the targets `which` of two."""
    model = tiny(slots_from="proposals", tokens="alignment", joined=1).train()
    targets = [target(n, **(DOG, BIRD)[n]) for n in which]
    found = losses(model, targets, [image(n) for n in which])
    loss = total(found)
    loss.backward()
    return loss.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}, {k: float(v.detach()) for k, v in found.items()}


def measured(which, count):
    """Return the figures of phrase grounding over images 0..count - 1, of which this process has seen `which`."""
    import json
    import tempfile

    from ovdense.evaluation.grounding import PhraseGroundingMetric

    images = [{"id": n, "file_name": f"{n}.png", "height": 50, "width": 50, "caption": "a cat"} for n in range(count)]
    annotations = [{"id": n, "image_id": n, "bbox": [5, 5, 20, 20], "tokens_positive": [[0, 5]]} for n in range(count)]
    with tempfile.NamedTemporaryFile("w", suffix=".json", delete=False) as file:
        json.dump({"images": images, "annotations": annotations}, file)
    metric = PhraseGroundingMetric(ann_file=file.name, class_names=["phrase 1"])
    for n in which:
        box = [5.0, 5.0, 25.0, 25.0] if n % 3 else [30.0, 30.0, 40.0, 40.0]
        metric.process(None, [{"img_id": n, "pred_instances": {"bboxes": torch.tensor([box]), "scores": torch.tensor([0.5]), "labels": torch.tensor([0])}}])
    found = metric.evaluate(count)
    Path(file.name).unlink()
    return found


@pytest.mark.slow
def test_two_gloo_ranks__equal_one_process_with_the_doubled_batch(tmp_path):
    call_on_ranks(shared, str(tmp_path / "out"), folder=tmp_path)
    ranks = [torch.load(tmp_path / f"out{r}", weights_only=True) for r in (0, 1)]
    loss, grads, found = step([0, 1])
    torch.testing.assert_close((ranks[0]["loss"] + ranks[1]["loss"]) / 2, loss, rtol=1e-5, atol=1e-6)
    for name, value in found.items():
        if name.startswith("loss"):
            assert (ranks[0]["found"][name] + ranks[1]["found"][name]) / 2 == pytest.approx(value, rel=1e-5, abs=1e-6), name
    for name, grad in grads.items():
        mean = sum(r["grads"].get(name, torch.zeros_like(grad)) for r in ranks) / 2
        assert float((mean - grad).norm()) <= 2e-4 * float(grad.norm()) + 1e-6, name  # rounding: sums in another order
    whole = measured([0, 1, 2, 3], 4)
    for rank in ranks:
        assert {k: v for k, v in rank["metrics"].items()} == pytest.approx(whole, nan_ok=True)
