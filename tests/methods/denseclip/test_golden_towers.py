"""Parity of the towers, the text with contexts and the context decoder with the published code."""
import ast
import json
import re

import numpy as np
import pytest
import torch

from ovdense.layers.context_decoder import ContextDecoder
from ovdense.methods.denseclip.convert import convert_published
from ovdense.text.clip_context import ClipContextEncoder
from ovdense.vision.clip import ClipResNet, ClipVit
from ovdense.vision.positions import fit_positions
from tests.golden import load_fill
from tests.methods.denseclip.cases import Case, close


def resnet(case: Case, positions: str) -> ClipResNet:
    kwargs = case.kwargs
    tower = ClipResNet(kwargs["layers"], width=kwargs["width"], embed_width=kwargs["output_dim"], table_size=kwargs["input_resolution"] // 32,
                       positions=positions)  # fmt: skip
    tower.load_state_dict(case.tower())
    return tower.eval()


@pytest.mark.parametrize("name, positions", [("clip_resnet", "interpolate"), ("clip_resnet_w64", "interpolate"), ("clip_resnet_det", "crop")])
@torch.no_grad()
def test_clip_resnet__equals_the_published_code(golden_root, name, positions):
    case = Case(golden_root, name)
    tower = resnet(case, positions)
    for image in case.inputs:
        dense = tower.dense(case.inputs[image])
        ours = {f"stage{i + 1}": m.tensor_BCHW for i, m in enumerate(dense.maps)} | {"global": dense.global_BC, "local": dense.local.tensor_BCHW}
        compared = [key for key in ours if f"{image}_{key}" in case.outputs]
        assert {"stage4", "global", "local"} <= set(compared)
        for key in compared:
            assert close(ours[key], case.outputs[f"{image}_{key}"]), (image, key)


@pytest.mark.parametrize("name", ["clip_resnet", "clip_resnet_det", "clip_vit"])
def test_positions_at_loading__equal_the_published_code(golden_root, name):
    case = Case(golden_root, name)
    expected = case.outputs["init_positional_embedding"]
    # the checkpoint's table: written out in the README, or its side ("the 7x7 checkpoint table")
    found, side = re.search(r"\{'(visual\.[\w.]+)': (\[\d+,\s*\d+\])\}", case.about), re.search(r"(\d+)x\1 checkpoint table", case.about)
    key, shape = (found[1], ast.literal_eval(found[2])) if found else ("visual.attnpool.positional_embedding", [int(side[1]) ** 2 + 1, expected.shape[1]])
    table = load_fill(golden_root).fill({key: {"shape": shape, "dtype": "float32"}}, seed=case.seed)[key]
    side = round((len(expected) - 1) ** 0.5)
    assert close(fit_positions(table, (side, side)), expected)


@torch.no_grad()
def test_clip_vit__equals_the_published_code(golden_root):
    case = Case(golden_root, "clip_vit")
    kwargs = case.kwargs
    tower = ClipVit(kwargs["patch_size"], width=kwargs["width"], layers=kwargs["layers"], heads=kwargs["heads"], embed_width=kwargs["output_dim"],
                    table_size=kwargs["input_resolution"] // kwargs["patch_size"], out_blocks=kwargs["out_indices"]).eval()
    tower.load_state_dict(case.tower())
    for image in case.inputs:
        dense = tower.dense(case.inputs[image])
        ours = {f"fpn{i + 1}": m.tensor_BCHW for i, m in enumerate(dense.maps)} | {"global": dense.global_BC, "local": dense.local.tensor_BCHW}
        for key, value in ours.items():
            assert close(value, case.outputs[f"{image}_{key}"]), (image, key)


def text_tower(case: Case, kind: str, spec: str) -> ClipContextEncoder:
    kwargs = case.kwargs_of(kind)
    tower = ClipContextEncoder(embed_width=kwargs["embed_dim"], width=kwargs["transformer_width"], heads=kwargs["transformer_heads"],
                               layers=kwargs["transformer_layers"], context_length=kwargs["context_length"])
    state = {k: v for k, v in case.fill(spec).items() if k not in ("contexts", "gamma")}
    tower.load_state_dict({k.removeprefix("text_encoder."): v for k, v in convert_published({f"text_encoder.{k}": v for k, v in state.items()}).items()})
    return tower


def names_of(case: Case) -> list[str]:
    return ast.literal_eval(re.search(r"class names: (\[.*?\])", case.about)[1])


@torch.no_grad()
def test_text_with_contexts__equals_the_published_code(golden_root):
    case = Case(golden_root, "text_context")
    tower, contexts = text_tower(case, "CLIPTextContextEncoder", "spec.json"), case.inputs["contexts"]
    tokens = tower.tokenize(names_of(case), contexts.shape[1])
    assert torch.equal(tokens.ids_BL, case.inputs["tokens"][:, : tokens.ids_BL.shape[1]])
    assert torch.equal(tokens.valid_BL.sum(1) - 1 + contexts.shape[1], case.outputs["eos_index"])
    assert close(tower.encode_names(tokens, contexts), case.outputs["text_embeddings"])
    assert close(tower.encode_names(tokens, torch.cat([contexts, contexts / 2])), case.outputs["text_embeddings_two_contexts"])


@torch.no_grad()
def test_plain_text_and_cut_positions__equal_the_published_code(golden_root):
    case = Case(golden_root, "text_context")
    long = text_tower(case, "CLIPTextEncoder", "spec77.json")
    tokens = long.tokenizer.encode([f"a photo of a {name}." for name in names_of(case)])
    assert close(long.pool(tokens), case.outputs["plain77"])
    # the first rows of the long table serve the short sequence
    assert close(long.encode_names(long.tokenize(names_of(case), case.inputs["contexts"].shape[1]), case.inputs["contexts"]), case.outputs["sliced_from_77"])


@torch.no_grad()
def test_context_decoder__equals_the_published_code(golden_root):
    case = Case(golden_root, "context_decoder")
    kwargs = case.kwargs
    decoder = ContextDecoder(kwargs["visual_dim"], width=kwargs["transformer_width"], heads=kwargs["transformer_heads"],
                             num_layers=kwargs["transformer_layers"])  # fmt: skip
    decoder.load_state_dict(case.fill())
    change = decoder.eval()(case.inputs["text"], case.inputs["visual"])
    assert close(change, case.outputs["text_diff"])
    assert close(case.inputs["text"] + case.inputs["gamma"] * change, case.outputs["text_out"])


def test_tokens__equal_the_published_ones(golden_root):
    from ovdense.text.clip_tokenizer import OpenClipTokenizer

    folder = golden_root / "denseclip" / "fullsize_spec"
    names, tokenizer = json.loads((folder / "class_names.json").read_text()), OpenClipTokenizer("RN50-quickgelu")
    tokens = np.load(folder / "tokens.npz")
    assert set(tokens) and set(tokens) <= set(names)
    for key, expected in tokens.items():
        ids = tokenizer.encode(names[key], max_tokens=expected.shape[1]).ids_BL.numpy()
        assert np.array_equal(np.pad(ids, ((0, 0), (0, expected.shape[1] - ids.shape[1]))), expected)
