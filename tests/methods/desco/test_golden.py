"""Parity with the published DesCo-GLIP code, for weights and inputs that a formula makes."""
import json

import numpy as np
import pytest
import torch

from ovdense.heads.anchors import decode_deltas, encode_deltas, grid_anchors
from ovdense.losses import UNMATCHED
from ovdense.methods.desco.convert import convert_head
from ovdense.methods.desco.criterion import DescoCriterion
from ovdense.methods.desco.head import DescoHead, HeadOutputs
from ovdense.structures import TokenLogits
from tests.golden import load_fill, matching_seed, rnd, seeds_of

STRIDES = (8, 16, 32, 64, 128)


@pytest.fixture(scope="module")
def head_case(golden_root):
    folder = golden_root / "desco" / "vl_fusion_head"
    spec = json.loads((folder / "spec.json").read_text())
    expected = dict(np.load(folder / "outputs.npz"))
    num_blocks = 1 + max(int(n.split(".")[1]) for n in spec if n.startswith("dyhead_tower.")) // 3
    text_width, embed = spec["bias_lang"]["shape"][0], spec["dyhead_tower.0.b_attn.attn.v_proj.weight"]["shape"][0]
    head = DescoHead(channels=spec["bbox_pred.weight"]["shape"][1], text_width=text_width, num_blocks=num_blocks,
                     embed_width=embed, closed_set_classes=spec["cls_logits.weight"]["shape"][0]).eval()

    def attention_error(seed):
        head.load_state_dict(convert_head(load_fill(golden_root).fill(spec, seed)))
        return float(max(np.abs(ours - theirs).max() for ours, theirs in attention(head, expected, seed)))

    seed = matching_seed(seeds_of(golden_root, "desco", "vl_fusion_head"), attention_error)
    head.load_state_dict(convert_head(load_fill(golden_root).fill(spec, seed)))
    sizes, lengths = expected["level_sizes"].tolist(), expected["mask_lengths"].tolist()
    maps = [rnd(f"visual.{i}", (len(lengths), spec["bbox_pred.weight"]["shape"][1], *size), seed=seed) for i, size in enumerate(sizes)]
    length = expected["token_logits.0"].shape[-1]
    text = rnd("lang.hidden", (len(lengths), length, text_width), seed=seed)
    valid = torch.arange(length)[None] < torch.tensor(lengths)[:, None]
    return head, maps, text, valid, sizes, expected, seed


@torch.no_grad()
def attention(head, expected, seed):
    """Return pairs (ours, published) of the first fusion attention's two outputs."""
    (batch, places, width), (_, length, text_width) = expected["attn.out_v"].shape, expected["attn.out_l"].shape
    image, text = rnd("attn.v", (batch, places, width), seed=seed), rnd("attn.l", (batch, length, text_width), seed=seed)
    valid = torch.arange(length)[None] < torch.tensor([length, 5])[:, None]
    out_v, out_l = head.blocks[0].fuse.attn(image, text, valid)
    return (out_v.numpy(), expected["attn.out_v"]), (out_l.numpy(), expected["attn.out_l"])


@torch.no_grad()
def test_fusion_head__equals_the_published_code(head_case):
    head, maps, text, valid, sizes, expected, _ = head_case
    out = head(maps, text, valid)
    counts = [h * w for h, w in sizes]
    parts = zip(out.tokens.logit_BQL.split(counts, 1), out.delta_BQ4.split(counts, 1), out.centerness_BQ.split(counts, 1), sizes)
    for i, (logit, delta, centerness, size) in enumerate(parts):
        assert np.abs(logit.numpy() - expected[f"token_logits.{i}"]).max() < 2e-4
        assert np.abs(delta.transpose(1, 2).unflatten(2, tuple(size)).numpy() - expected[f"bbox_reg.{i}"]).max() < 2e-5
        assert np.abs(centerness.reshape(len(logit), 1, *size).numpy() - expected[f"centerness.{i}"]).max() < 2e-5


def test_fusion_attention__equals_the_published_code(head_case):
    head, *_, expected, seed = head_case
    for ours, theirs in attention(head, expected, seed):
        assert np.abs(ours - theirs).max() < 1e-5


@torch.no_grad()
def test_fusion_head__trimming_padded_tokens_changes_nothing(head_case):
    head, maps, text, valid, *_ = head_case
    length = int(valid.sum(1).max())
    whole, trimmed = head(maps, text, valid), head(maps, text[:, :length], valid[:, :length])
    assert (whole.tokens.logit_BQL[..., :length] - trimmed.tokens.logit_BQL).abs().max() < 2e-4
    assert (whole.delta_BQ4 - trimmed.delta_BQ4).abs().max() < 2e-5


@torch.no_grad()
def test_fusion_head__a_batch_equals_single_images(head_case):
    head, maps, text, valid, *_ = head_case
    batch = head(maps, text, valid)
    for b in range(len(text)):
        single = head([m[b : b + 1] for m in maps], text[b : b + 1], valid[b : b + 1])
        assert (batch.tokens.logit_BQL[b] - single.tokens.logit_BQL[0]).abs().max() < 2e-4


@torch.no_grad()
def test_fusion_head__logits_are_clamped(head_case):
    head, maps, text, valid, sizes, expected, _ = head_case
    before = head.embedding_head.log_scale.clone()
    head.embedding_head.log_scale.fill_(-11.8)
    logit = head(maps, text, valid).tokens.logit_BQL.split([h * w for h, w in sizes], 1)
    head.embedding_head.log_scale.copy_(before)
    for i in (3, 4):
        want = torch.from_numpy(expected[f"clamped_logits.{i}"])
        assert want.abs().max() == 50000 and logit[i].abs().max() == 50000
        assert (logit[i] - want).abs().max() <= 2e-4 * np.exp(11.8 - 2)


def loss_inputs(case, seed):
    """Return the head's outputs (leaves that take gradients first), the boxes and the positive tokens of a case."""
    (width, height), images, key = case["image_size_wh"], case["images"], case["random_key"]
    sizes, batch = tuple((-(-height // s), -(-width // s)) for s in STRIDES), len(case["images"])
    logit = [rnd(f"{key}.logits.{i}", (batch, h * w, 256), 1.5, -3, seed).requires_grad_() for i, (h, w) in enumerate(sizes)]
    delta = [rnd(f"{key}.reg.{i}", (batch, 4, h, w), 0.5, 0, seed).requires_grad_() for i, (h, w) in enumerate(sizes)]
    centerness = [rnd(f"{key}.ctr.{i}", (batch, 1, h, w), 1, 0, seed).requires_grad_() for i, (h, w) in enumerate(sizes)]
    valid = torch.arange(256)[None] < torch.tensor([image["text_length"] for image in images])[:, None]
    outputs = HeadOutputs(
        tokens=TokenLogits(logit_BQL=torch.cat(logit, 1), valid_BL=valid, activation="sigmoid"),
        delta_BQ4=torch.cat([d.flatten(2) for d in delta], 2).transpose(1, 2),
        centerness_BQ=torch.cat([c.flatten(1) for c in centerness], 1), sizes_hw=sizes,
    )
    boxes, positive = [], []
    for image in images:
        # the case's boxes count pixels: x2 = x1 + width - 1
        boxes.append(torch.tensor(image["boxes_xyxy"]).reshape(-1, 4) + torch.tensor([0.0, 0.0, 1.0, 1.0]))
        tokens = torch.zeros(len(image["boxes_xyxy"]), 256, dtype=torch.bool)
        for n, wanted in enumerate(image["positive_tokens"]):
            tokens[n, wanted] = True
        positive.append(tokens)
    return (logit, delta, centerness), outputs, boxes, positive


@pytest.fixture(scope="module")
def loss_cases(golden_root):
    """Return the cases by name, the stored arrays, and the seed of all."""
    folder = golden_root / "desco" / "losses"
    cases = {name: case for name, case in json.loads((folder / "cases.json").read_text()).items() if "images" in case}
    assert any(not image["boxes_xyxy"] for case in cases.values() for image in case["images"]) and any(case["muted_last_token"] for case in cases.values())
    first = next(iter(cases.values()))

    def error(seed):
        _, outputs, boxes, positive = loss_inputs(first, seed)
        return abs(criterion_of(first)(outputs, STRIDES, boxes, positive)["loss_token"].item() - first["expected"]["loss_dot_product_token"])

    return cases, np.load(folder / "outputs.npz"), matching_seed(seeds_of(golden_root, "desco", "losses"), error)


def criterion_of(case):
    return DescoCriterion(no_object_token=not case["muted_last_token"])


def test_losses__equal_the_published_code(loss_cases):
    cases, arrays, seed = loss_cases
    for name, case in cases.items():
        leaves, outputs, boxes, positive = loss_inputs(case, seed)
        expected, losses = case["expected"], criterion_of(case)(outputs, STRIDES, boxes, positive)
        for ours, theirs in (("loss_token", "loss_dot_product_token"), ("loss_box", "loss_reg"), ("loss_centerness", "loss_centerness")):
            assert losses[ours].item() == pytest.approx(expected[theirs], rel=1e-4, abs=1e-7), name
        sum(losses.values()).backward()
        for tensors, part in zip(leaves, ("logits", "reg", "ctr")):
            assert [float(t.grad.norm()) for t in tensors] == pytest.approx(expected[f"grad_norm_{part}"], rel=1e-4, abs=1e-7), name
            stored = {int(key.rsplit(".", 1)[1]): arrays[key] for key in arrays.files if key.startswith(f"{name}.grad_{part}.")}
            assert stored
            for level, wanted in stored.items():
                assert np.abs(tensors[level].grad.numpy() - wanted).max() <= 1e-4 * np.abs(wanted).max() + 1e-9, name


def test_targets__equal_the_published_code(loss_cases):
    cases, arrays, seed = loss_cases
    for name, case in cases.items():
        _, outputs, boxes, positive = loss_inputs(case, seed)
        criterion, anchors = criterion_of(case), grid_anchors(outputs.sizes_hw, STRIDES)
        match_BQ = criterion.assign(anchors, [h * w for h, w in outputs.sizes_hw], boxes)
        target = criterion.token_target(match_BQ, positive, outputs.tokens.logit_BQL.shape[-1])
        for b in range(len(boxes)):
            matched = match_BQ[b] != UNMATCHED
            assert np.flatnonzero(matched.numpy()).tolist() == arrays[f"{name}.{b}.pos_anchor"].tolist(), name
            assert int(target[b].sum()) == int(arrays[f"{name}.{b}.n_token_target_ones"]), name
            deltas = encode_deltas(boxes[b][match_BQ[b, matched]], anchors[matched])
            assert np.abs(deltas.numpy() - arrays[f"{name}.{b}.pos_reg_target"]).max(initial=0.0) < 1e-4, name
            if f"{name}.{b}.pos_token_target" in arrays.files:
                assert (target[b, matched].numpy() == np.unpackbits(arrays[f"{name}.{b}.pos_token_target"], axis=1)).all(), name


def test_box_deltas__equal_the_published_coder(golden_root):
    case = json.loads((golden_root / "desco" / "losses" / "cases.json").read_text())["box_coder"]
    whole = torch.tensor([0.0, 0.0, 1.0, 1.0])  # the case's boxes count pixels: x2 = x1 + width - 1
    anchors, boxes = torch.tensor(case["anchors"]) + whole, torch.tensor(case["gt"]) + whole
    torch.testing.assert_close(encode_deltas(boxes, anchors), torch.tensor(case["encoded"]), atol=1e-5, rtol=1e-5)
    for deltas, decoded in ((case["encoded"], case["decoded_back"]), (case["other_deltas"], case["decoded_other"])):
        torch.testing.assert_close(decode_deltas(torch.tensor(deltas), anchors) - whole, torch.tensor(decoded), atol=1e-3, rtol=1e-5)
