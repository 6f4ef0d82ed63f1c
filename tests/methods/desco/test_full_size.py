"""The published model at full size: parameters, names, and what comes out of it."""
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config

from ovdense.methods.desco.convert import convert_published, split_published
from ovdense.registry import MODELS
from tests.golden import load_fill, rnd

CONFIG = Path(__file__).resolve().parents[3] / "configs" / "desco_lvis.py"


@pytest.fixture(scope="module")
def case(golden_root):
    folder = golden_root / "desco" / "fullsize_spec"
    spec, about = json.loads((folder / "spec.json").read_text()), json.loads((folder / "case.json").read_text())
    weights = load_fill(golden_root).fill(spec, about["seed"])
    for name in weights:
        factor = next((f for pattern, f in about["rules"] if pattern in name), 1.0)
        weights[name] = weights[name] * factor
    return weights, about, dict(np.load(folder / "outputs.npz")), json.loads((folder / "summary.json").read_text())


@pytest.fixture(scope="module")
def model(case):
    built = MODELS.build(Config.fromfile(str(CONFIG)).model).eval()
    published = {f"module.{n}": t for n, t in case[0].items()}
    published["module.language_backbone.body.model.embeddings.position_ids"] = torch.arange(512)[None]
    built.load_state_dict(convert_published({"model": published}, bgr_to_rgb=False), strict=True)
    return built


def test_full_size__parameter_count_is_the_published_one(case, model):
    assert sum(p.numel() for p in model.parameters()) == case[3]["total_params"]


@torch.no_grad()
def test_full_size__outputs_equal_the_published_code(case, model):
    _, about, expected, _ = case
    shape = json.loads(about["input"].split('"image",')[1].split(")")[0].replace("(", "[") + "]")
    features = model.encode_image(rnd("image", shape, seed=about["seed"]))
    tokenized = model.text_encoder.tokenizer.encode([about["caption"]], max_tokens=256, pad="max", on_overflow="truncate")
    ids = tokenized.ids_BL[0].tolist()
    assert ids[: len(about["input_ids"])] == about["input_ids"]
    assert not tokenized.valid_BL[0, len(about["input_ids"]) :].any()
    out = model.head([f.tensor_BCHW for f in features], model.text_encoder.encode(tokenized), tokenized.valid_BL)
    counts = [h * w for h, w in out.sizes_hw]
    levels = zip(out.tokens.logit_BQL.split(counts, 1), out.delta_BQ4.split(counts, 1), out.centerness_BQ.split(counts, 1), out.sizes_hw)
    for i, (logit, delta, centerness, size) in enumerate(levels):
        step = int(expected.get(f"token_logits.{i}.anchor_step", 1))
        assert np.abs(logit[:, ::step].numpy() - expected[f"token_logits.{i}"]).max() < 3e-4
        assert np.abs(delta.transpose(1, 2).unflatten(2, size).numpy() - expected[f"bbox_reg.{i}"]).max() < 3e-5
        assert np.abs(centerness.reshape(1, 1, *size).numpy() - expected[f"centerness.{i}"]).max() < 3e-5


@pytest.mark.slow
def test_full_size__loss_is_finite_and_falls_over_five_steps():
    from tools.benchmark import training_steps

    torch.manual_seed(0)
    rows = training_steps(MODELS.build(Config.fromfile(str(CONFIG)).model), (96, 128), batch=2, steps=5)
    losses = [row["loss"] for row in rows]
    assert np.isfinite(losses).all() and max(losses[1:]) < losses[0]


def test_convert__turns_the_first_convolution_for_rgb(case):
    published = case[0]["backbone.body.patch_embed.proj.weight"]
    converted = convert_published(case[0])["backbone.patch_embed.proj.weight"]
    assert torch.equal(converted, published.flip(1))


def test_convert__unknown_tensors_are_named():
    with pytest.raises(KeyError, match="1 tensors are not those of GLIP.*roi_heads"):
        split_published({"module.roi_heads.box.weight": torch.zeros(1)})
