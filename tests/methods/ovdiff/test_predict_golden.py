"""Parity of the whole prediction with the published code: crops, ensemble, refinement, label maps."""
import re

import numpy as np
import pytest
import torch
from PIL import Image

from ovdense.layers.pamr import refine
from ovdense.methods.ovdiff.predict import label_map, mean_scores, read_places
from ovdense.support.prototypes import prototype_bank


def setup_of(golden_root):
    """Return (crops as (side, stride), {extractor: cell in pixels}), which only the case's README says."""
    text = (golden_root / "ovdiff" / "predict" / "README.md").read_text()
    sides, stride = re.search(r"Crops ([\d and,]+), stride (\d+) each", text).groups()
    cells = dict(re.findall(r"\b([a-z]): (\d+)", re.search(r"with cell s \(([^)]*)\)", text)[1]))
    return tuple((int(side), int(stride)) for side in re.findall(r"\d+", sides)), {e: int(c) for e, c in cells.items()}


@pytest.fixture(scope="module")
def predicted(golden_root):
    folder = golden_root / "ovdiff" / "predict"
    return dict(np.load(folder / "inputs.npz")), dict(np.load(folder / "outputs.npz")), *setup_of(golden_root)


def stub(weight_3C, cell):
    """Return the case's stand-in for a feature extractor."""
    def extract(image_B3HW):
        height, width = image_B3HW.shape[2:]
        pooled = torch.nn.functional.adaptive_avg_pool2d(image_B3HW, (height // cell, width // cell))
        return torch.tanh(torch.einsum("bchw,cd->bdhw", pooled - 0.5, weight_3C))

    return extract


def extractors_of(given, cells):
    """Return the case's extractors by letter."""
    return {e: stub(torch.from_numpy(given[f"W_{e}"]), cell) for e, cell in sorted(cells.items())}


def banks_of(given, extractors):
    names = list(dict.fromkeys(k.split("__")[1] for k in given if k.endswith("__bank_fg")))
    rows = {end: {e: [torch.from_numpy(given[f"{e}__{n}__bank_{end}"]) for n in names] for e in extractors} for end in ("fg", "bg")}
    stuff = [all(len(rows["bg"][e][k]) == 0 for e in extractors) for k in range(len(names))]
    return names, [prototype_bank(rows["fg"][e], rows["bg"][e]) for e in extractors], stuff


def test_prediction__equals_the_published_code(predicted):
    given, want, crops, cells = predicted
    extractors = extractors_of(given, cells)
    names, banks, stuff = banks_of(given, extractors)
    numbers = sorted(int(k.removeprefix("image")) for k in given if k.startswith("image"))
    assert numbers
    for n in numbers:
        picture = given[f"image{n}"]
        size_hw, out_hw = want[f"similarity{n}"].shape[1:], want[f"label{n}"].shape
        image = np.asarray(Image.fromarray(picture).resize(size_hw[::-1], Image.Resampling.LANCZOS))
        image_3HW = torch.from_numpy(image.copy()).permute(2, 0, 1).float()
        places = read_places(image_3HW / 255, list(extractors.values()), crops)
        selected = set(np.atleast_1d(given[f"selected{n}"]).tolist())
        things = [k for k, s in enumerate(stuff) if not s]
        active = torch.tensor([s or things.index(k) in selected for k, s in enumerate(stuff)])
        everything = torch.ones(len(names), dtype=torch.bool)
        for key, which in (("", active), ("_classmode_all", everything)):
            score = mean_scores(places, banks, which, size_hw)
            assert np.abs(score.numpy() - want[f"similarity{key}{n}"]).max() < 1e-4
            assert (label_map(places, banks, which, size_hw, out_hw).numpy() == want[f"label{key}{n}"]).mean() >= 0.999
        score = refine(image_3HW[None], mean_scores(places, banks, active, size_hw)[None])[0]
        assert np.abs(score.numpy() - want[f"similarity_pamr{n}"]).max() < 1e-4
        refined = label_map(places, banks, active, size_hw, out_hw, pamr_image_3HW=image_3HW)
        assert (refined.numpy() == want[f"label_pamr{n}"]).mean() >= 0.999
        without = label_map(places, banks, active, size_hw, out_hw, background=False)
        assert (without.numpy() == want[f"label_bg_zero{n}"]).mean() >= 0.999


def test_label_map__does_not_depend_on_blocks(predicted, monkeypatch):
    given, _, crops, cells = predicted
    extractors = extractors_of(given, cells)
    names, banks, _ = banks_of(given, extractors)
    places = read_places(torch.rand(3, 40, 56, generator=torch.Generator().manual_seed(0)), list(extractors.values()), crops)
    everything = torch.ones(len(names), dtype=torch.bool)
    whole = label_map(places, banks, everything, (40, 56), (50, 70))
    monkeypatch.setattr("ovdense.methods.ovdiff.predict.MOST_NUMBERS", 1)
    assert torch.equal(label_map(places, banks, everything, (40, 56), (50, 70)), whole) and len(whole.unique()) > 1
