"""Attention maps and queries: parity with the published stores, tokens of names."""
import ast
import re

import numpy as np
import pytest
import torch

from ovdense.support.heat import HeatMaps
from ovdense.vision.diffusion import grid_sides, join_queries


@pytest.fixture(scope="module")
def parts(golden_root):
    folder = golden_root / "ovdiff" / "parts"
    text = (folder / "README.md").read_text()  # only there: the token groups and the layers
    groups, layers = (ast.literal_eval(re.search(pattern, text)[1]) for pattern in (r"token_groups=(\[\[.*?\]\])", r'FeatStore\((\[.*?\])'))
    return dict(np.load(folder / "inputs.npz")), dict(np.load(folder / "outputs.npz")), groups, layers


def test_heat_maps__equal_the_published_store(parts):
    given, want, groups, _ = parts
    keys = sorted((k for k in given if k.startswith("attn_t")), key=lambda k: [int(n[1:]) for n in k.split("_")[1:]])
    batch = len(want["heatmaps"])
    heads = len(given[keys[0]]) // (2 * batch)
    heat = HeatMaps(groups)
    for key in keys:
        heat.add(torch.from_numpy(given[key]), heads)
    assert np.abs(heat.maps().numpy() - want["heatmaps"]).max() < 1e-5


def test_queries__equal_the_published_store(parts):
    given, want, _, layers = parts
    size_hw = want["features"].shape[2:]
    queries = [torch.from_numpy(v) for k, v in given.items() if k.startswith("query_") and k.removeprefix("query_") in layers]  # in forward order
    side = round(max(q.shape[1] for q in queries) ** 0.5)
    joined = join_queries(queries, size_hw, (side, side))
    assert len(queries) == len(layers)
    assert np.abs(joined.numpy() - want["features"]).max() < 1e-5


@pytest.mark.parametrize("places, latent_hw, sides", [(64, (8, 8), (8, 8)), (16, (8, 8), (4, 4)), (8 * 12, (15, 24), (8, 12)), (1, (2, 2), (1, 1))])
def test_grid_sides__halves_the_latent(places, latent_hw, sides):
    assert grid_sides(places, latent_hw) == sides


def test_grid_sides__places_that_do_not_fit_raise():
    with pytest.raises(ValueError, match="do not fit"):
        grid_sides(7, (8, 8))
