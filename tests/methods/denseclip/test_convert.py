"""Converters: every name of the full-size files has its place, both ways; CLIP's weights; the released schedule and rates."""
import json
import warnings
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from torch import nn

from ovdense.methods.denseclip.convert import convert_published, is_denseclip, to_published, with_longer_contexts
from ovdense.methods.denseclip.optim import PublishedPolyLR
from ovdense.registry import MODELS

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
FILES = {  # full-size spec: its config
    "seg_r50_ade20k": "denseclip_r50_ade20k",
    "seg_r101_ade20k": "denseclip_r101_ade20k",
    "seg_vitb16_ade20k": "denseclip_vitb16_ade20k",
    "det_retinanet_r50_coco": "denseclip_retinanet_r50_coco",
    "det_retinanet_r101_coco": "denseclip_retinanet_r101_coco",
    "det_maskrcnn_r50_coco": "denseclip_maskrcnn_r50_coco",
    "seg_r50_clip_baseline": "clip_fpn_r50_ade20k",
    "seg_vitb16_clip_baseline": "clip_fpn_vitb16_ade20k",
}


def on_meta(config: str, **changes) -> nn.Module:
    """Return the config's model without memory for its weights."""
    cfg = Config.fromfile(str(CONFIGS / f"{config}.py"))
    cfg.merge_from_dict(changes)
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return MODELS.build(cfg.model)


@pytest.fixture(scope="module")
def specs(golden_root):
    return golden_root / "denseclip" / "fullsize_spec"


@pytest.mark.parametrize("name", FILES)
def test_every_published_name_has_its_place(specs, name):
    spec = {n: tuple(s["shape"]) for n, s in json.loads((specs / f"{name}.json").read_text()).items()}
    published = {n: torch.empty(shape, device="meta") for n, shape in spec.items()}
    model = on_meta(FILES[name])
    ours = {n: tuple(t.shape) for n, t in model.state_dict().items()}
    assert {n: tuple(t.shape) for n, t in convert_published(published).items()} == ours
    assert {n: tuple(t.shape) for n, t in to_published(model.state_dict()).items()} == spec
    assert is_denseclip(published) and not is_denseclip(ours)
    total = sum(p.numel() for p in model.parameters()) / 1e6
    assert total == pytest.approx(json.loads((specs / "info.json").read_text()).get(name, {"params_M": total})["params_M"], abs=0.01)


def test_every_full_size_spec_is_covered(specs):
    assert {p.stem for p in specs.glob("*.json") if p.stem.startswith(("seg_", "det_"))} == set(FILES)


CLIP = [("clip_rn50", "denseclip_r50_coco_stuff"), ("clip_rn101", "denseclip_r101_coco_stuff"), ("clip_vitb16", "denseclip_vitb16_ade20k")]


@pytest.mark.slow
@pytest.mark.parametrize("name, config", CLIP)
def test_every_name_of_openai_clip_has_its_place(specs, name, config):
    from ovdense.compat.weights import load_checked
    from ovdense.text.clip_context import clip_text_state
    from ovdense.vision.clip import clip_tower_state

    spec = json.loads((specs / f"{name}.json").read_text())
    state = {n: torch.zeros(s["shape"], dtype=torch.float16) for n, s in spec.items()}
    model = on_meta(config)
    model.to_empty(device="cpu")
    text, image = clip_text_state(state, model.text_encoder.text), clip_tower_state(state, model.backbone.net)
    load_checked(model.text_encoder.text, text, name)
    load_checked(model.backbone.net, image, name)
    ignored = {"logit_scale", "input_resolution", "context_length", "vocab_size"}
    assert set(text) | {f"visual.{n}" for n in image} | ignored >= set(state)
    assert set(text) == set(model.text_encoder.text.state_dict()) and set(image) == set(model.backbone.net.state_dict())


def test_unknown_names__are_named():
    with pytest.raises(KeyError, match="image_encoder.weight"):
        convert_published({"image_encoder.weight": torch.zeros(1), "gamma": torch.zeros(1)})


def test_longer_contexts__keep_the_released_rows():
    name = "text_encoder.text.positional_embedding"
    clip = torch.arange(77.0)[:, None].expand(77, 4)
    longer = with_longer_contexts({name: -torch.ones(13, 4), "other": torch.zeros(1)}, clip)
    assert longer[name].shape == (77, 4) and (longer[name][:13] == -1).all() and torch.equal(longer[name][13:], clip[13:]) and "other" in longer
    with pytest.raises(ValueError, match="at least 13 long and 4 wide"):
        with_longer_contexts({name: torch.zeros(13, 4)}, torch.zeros(77, 5))


def published_groups(config: str, **changes) -> dict[str, list[float]]:
    """Return [rate, weight decay] by published name, as the config's optimizer has them."""
    from mmengine.optim import DefaultOptimWrapperConstructor

    wrapper = dict(Config.fromfile(str(CONFIGS / f"{config}.py")).optim_wrapper)
    model = on_meta(config, **changes)
    constructor = DefaultOptimWrapperConstructor({k: v for k, v in wrapper.items() if k != "paramwise_cfg"}, wrapper["paramwise_cfg"])
    groups = constructor(model).optimizer.param_groups
    of = {id(p): [g["lr"], g["weight_decay"]] for g in groups for p in g["params"]}
    return {n: of[id(p)] for n, p in to_published(dict(model.named_parameters())).items()}


def test_rates__equal_the_released_ones(specs):
    stored = json.loads((specs / "optimizer_groups.json").read_text())
    assert stored
    for name, groups in stored.items():
        ours = published_groups(FILES[name], **{"model.text_encoder.frozen": False} if "baseline" not in name else {})
        assert set(ours) == set(groups)
        for parameter, (rate, decay) in groups.items():
            assert ours[parameter] == pytest.approx([rate, decay], rel=1e-9), (name, parameter)


def test_rates__a_frozen_text_tower_has_no_gradients():
    model = on_meta("denseclip_r50_ade20k")
    assert not any(p.requires_grad for p in model.text_encoder.parameters()) and model.pixel_text.contexts.requires_grad


def test_schedule__equals_the_released_trace(specs):
    trace = json.loads((specs / "lr_trace_seg.json").read_text())
    cfg = Config.fromfile(str(CONFIGS / "denseclip_r50_ade20k.py")).param_scheduler[0]
    base = {"base": 1e-4, "backbone": 1e-5, "text_encoder": 0.0}
    optimizer = torch.optim.SGD([dict(params=[nn.Parameter(torch.zeros(1))], lr=rate) for rate in base.values()], lr=1.0)
    schedule = PublishedPolyLR(optimizer, **{k: v for k, v in cfg.items() if k != "type"})
    wanted, found = set(trace["iters"]), {}
    for step in range(max(wanted) + 1):
        if step in wanted:
            found[step] = [g["lr"] for g in optimizer.param_groups]
        schedule.step()
    for n, step in enumerate(trace["iters"]):
        assert found[step] == pytest.approx([trace[key][n] for key in base], rel=1e-6, abs=1e-16)
