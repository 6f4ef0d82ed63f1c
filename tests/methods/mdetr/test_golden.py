"""Parity with the published MDETR code, for weights and inputs that a formula makes."""
import json
import re

import numpy as np
import pytest
import torch

from ovdense.evaluation.average_precision import giou_xyxy
from ovdense.evaluation.detection import LvisMetric
from ovdense.methods.mdetr.convert import convert_published
from ovdense.methods.mdetr.criterion import MdetrCriterion
from ovdense.methods.mdetr.decode import object_scores, phrase_scores, pixel_boxes, referring_order
from ovdense.methods.mdetr.head import MdetrOutputs
from ovdense.methods.mdetr.mask_head import file_masks
from ovdense.methods.mdetr.model import Mdetr
from ovdense.methods.mdetr.prompts import one_class_prompts
from ovdense.methods.mdetr.truth import image_truths
from ovdense.structures import ClassEntry, ImageTarget, Vocabulary
from ovdense.text.encoders import RobertaTextEncoder
from ovdense.text.phrases import phrase_map
from ovdense.vision.resnet import FrozenNormResNet
from tests.methods.mdetr.golden_case import Case

ATOL = 1e-4
ROBERTA_BASE = dict(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5)


def off(ours: torch.Tensor, theirs) -> float:
    theirs = torch.as_tensor(theirs)
    assert ours.shape == theirs.shape
    return float((ours.detach() - theirs).abs().max()) if ours.numel() else 0.0


def forward(case, model):
    tokenized = model.tokenize([str(c) for c in case.inputs["captions"]])
    images, sizes = case.images()
    image = model.encode_image(images, sizes)
    hidden = model.text_encoder.encode(tokenized)
    text = model.transformer.text_projection(hidden)
    out, slots, memory = model.run(image, text, tokenized.valid_BL)
    return tokenized, image, hidden, text, out, slots, memory


@pytest.fixture(scope="module")
def detection(golden_root):
    case = Case(golden_root, "detection")
    model = case.model()
    with torch.no_grad():
        return case, model, *forward(case, model)


def test_detection__tokens_and_text(detection):
    case, _, tokenized, _, hidden, text, *_ = detection
    assert torch.equal(tokenized.ids_BL, case.tensor("input_ids"))
    assert torch.equal(tokenized.valid_BL, ~case.tensor("text_attention_mask"))
    assert off(hidden, case.outputs["text_hidden"]) < ATOL
    assert off(text.transpose(0, 1), case.outputs["text_memory_resized"]) < ATOL


@torch.no_grad()
def test_detection__backbone_and_positions(detection):
    case, model, _, image, *_ = detection
    c5 = model.backbone(case.images()[0])[0].tensor_BCHW
    assert off(c5, case.outputs["backbone_c5"]) < ATOL
    assert torch.equal(~image.valid_BHW, case.tensor("backbone_mask"))
    assert off(image.positions_BPC.transpose(1, 2).reshape(case.outputs["pos_embed_2d"].shape), case.outputs["pos_embed_2d"]) < 1e-5


def test_detection__memory_and_decoder(detection):
    case, model, *_, memory = detection
    assert off(memory.tokens_BLC.transpose(0, 1), case.outputs["img_memory"]) < ATOL
    assert off(memory.text_BLC.transpose(0, 1), case.outputs["text_memory"]) < ATOL
    assert torch.equal(~memory.valid_BL, case.tensor("memory_mask"))
    with torch.no_grad():
        states, *_ = model.transformer.decode(memory, detection[3], None)
    assert off(states.transpose(1, 2), case.outputs["decoder_hs"]) < ATOL


def test_detection__predictions_of_every_layer(detection):
    case, model, _, _, _, _, out, slots, memory = detection
    assert off(out.logit_NBQT[-1], case.outputs["pred_logits"]) < ATOL and off(out.boxes_NBQ4[-1], case.outputs["pred_boxes"]) < ATOL
    assert off(out.logit_NBQT[:-1], case.outputs["aux_pred_logits"]) < ATOL and off(out.boxes_NBQ4[:-1], case.outputs["aux_pred_boxes"]) < ATOL
    with torch.no_grad():
        assert off(model.head.align.unit_places(slots), case.outputs["proj_queries"]) < ATOL
        assert off(model.head.align.unit_tokens(memory.text_BLC), case.outputs["proj_tokens"]) < ATOL


LOSSES = {"loss_ce": ("loss_token", "loss_ce"), "loss_bbox": ("loss_box", "loss_bbox"), "loss_giou": ("loss_giou", "loss_giou"),
          "cardinality_error": ("cardinality_error", None), "loss_contrastive_align": ("loss_align", "loss_contrastive_align"),
          "loss_mask": ("loss_mask", "loss_mask"), "loss_dice": ("loss_dice", "loss_dice")}


def check_losses(case, prefix, ours, *, without=()):
    """Compare every published loss under `prefix`, of all layers, with ours, whose weights are multiplied in."""
    seen = set()
    for key, value in case.outputs.items():
        name = key.removeprefix(prefix + "/")
        if name == key:
            continue
        stem, layer = re.fullmatch(r"(.+?)((?:_\d+)?)", name).groups()  # no number: the last layer
        if stem in without:
            continue
        mine, weight = LOSSES[stem]
        weight = 1.0 if weight is None else case.config["weight_dict"][weight + layer]
        assert float(ours[mine + layer].detach()) == pytest.approx(float(value) * weight, rel=1e-4, abs=1e-6), key
        seen.add(name)
    layers = ["", *(f"_{n}" for n in range(case.config["model"]["dec_layers"] - 1))]
    assert {f"{stem}{layer}" for stem in ("loss_ce", "loss_bbox", "loss_giou") for layer in layers} <= seen


def rows(matches, layer):
    one = matches.of_layer(layer)
    return sorted(zip(one.image.tolist(), one.slot.tolist(), one.target.tolist()))


def published_rows(case, name):
    return [tuple(r) for r in case.outputs[name].tolist()]


@pytest.fixture(scope="module")
def losses(golden_root):
    case = Case(golden_root, "losses")
    case.inputs |= {k: v for k, v in Case(golden_root, "detection").inputs.items() if k in ("samples", "mask")}
    model = case.model().train()
    tokenized, *_, out, _, _ = forward(case, model)
    truth = image_truths(tokenized, case.targets(), torch.device("cpu"), published=True)
    matches = model.criterion.match(out, truth)
    for leaf in (out.logit_NBQT, out.boxes_NBQ4):
        leaf.retain_grad()
    found = model.criterion(out, truth, matches)
    total = sum(v for k, v in found.items() if k.startswith("loss"))
    total.backward()
    return case, model, out, truth, matches, found, total


def test_losses__equal_the_published_code(losses):
    case, _, out, _, matches, found, total = losses
    check_losses(case, "loss", found)
    assert float(total.detach()) == pytest.approx(float(case.outputs["total"]), rel=1e-4)
    assert rows(matches, len(out.logit_NBQT) - 1) == published_rows(case, "indices")
    for n in range(len(out.logit_NBQT) - 1):
        assert rows(matches, n) == published_rows(case, f"indices_{n}")


def test_losses__targets_are_read_from_characters(losses):
    case, _, out, truth, *_ = losses
    columns = out.logit_NBQT.shape[-1]
    published, own = MdetrCriterion(published=True), MdetrCriterion()
    assert off(torch.cat([published.positive_columns(t.tokens_nL, columns) for t in truth]), case.outputs.get("positive_map", case.inputs["positive_map"])) == 0
    assert off(torch.cat([own.positive_columns(t.tokens_nL, columns) for t in truth]), case.inputs["positive_map_normalized"]) < 1e-5


def test_losses__gradients_equal_the_published_code(losses):
    case, model, out, *_ = losses
    assert off(out.logit_NBQT.grad[-1], case.outputs["grad_out/pred_logits"]) < ATOL
    assert off(out.boxes_NBQ4.grad[-1], case.outputs["grad_out/pred_boxes"]) < ATOL * float(np.abs(case.outputs["grad_out/pred_boxes"]).max())
    assert_gradients(case, model)
    # the frozen stem and first stage, and what the release keeps as buffers, have none
    assert all(p.grad is None for n, p in model.backbone.named_parameters() if n.startswith(("stem", "stages.0")))


def our_name(case, name: str) -> str:
    """Return our name of one published parameter: the tensor that the converter keeps under it."""
    spec = json.loads((case.folder / "spec.json").read_text())
    marked = {n: torch.full((1,), float(n == name)) for n in spec}
    return next(n for n, t in convert_published(marked).items() if float(t))


def assert_gradients(case, model):
    parameters = dict(model.named_parameters())
    for name, norm in zip(case.outputs["grad_names"], case.outputs["grad_norms"]):
        grad = parameters[our_name(case, str(name))].grad
        assert float(grad.norm()) == pytest.approx(float(norm), rel=1e-3), name
    for key, value in case.outputs.items():
        if key.startswith("grad/"):
            grad = parameters[our_name(case, key.removeprefix("grad/"))].grad
            assert off(grad, value) < 1e-3 * max(float(np.abs(value).max()), 1e-3), key
    if "total_grad_norm" in case.outputs:
        total = torch.stack([p.grad.norm() for p in parameters.values() if p.grad is not None]).norm()
        assert float(total) == pytest.approx(float(case.outputs["total_grad_norm"]), rel=1e-3)


def test_losses__alignment_gradients_equal_the_published_code(losses):
    """From the case's own predictions, without the model."""
    case, model, _, truth, *_ = losses
    place = torch.stack([*case.tensor("aux_proj_queries"), case.tensor("proj_queries")]).requires_grad_()
    token = case.tensor("proj_tokens").clone().requires_grad_()
    logits = torch.stack([*case.tensor("aux_pred_logits"), case.tensor("pred_logits")]).requires_grad_()
    boxes = torch.stack([*case.tensor("aux_pred_boxes"), case.tensor("pred_boxes")]).requires_grad_()
    align = place @ token.transpose(-1, -2) / case.config["temperature"]
    out = MdetrOutputs(logit_NBQT=logits, boxes_NBQ4=boxes, align_NBQL=align, valid_BL=case.tensor("attention_mask").bool())
    found = model.criterion(out, truth)
    check_losses(case, "loss", found)
    sum(v for k, v in found.items() if k.startswith("loss")).backward()
    for ours, name in ((place.grad[-1], "proj_queries"), (token.grad, "proj_tokens"), (logits.grad[-1], "pred_logits"), (boxes.grad[-1], "pred_boxes")):
        theirs = case.outputs[f"grad_out/{name}"]
        assert off(ours, theirs) < ATOL * max(1.0, float(np.abs(theirs).max())), name


@pytest.mark.parametrize("which", ["one_empty", "all_empty"])
def test_losses__images_without_boxes(losses, which):
    case, model, out, *_ = losses
    counts = case.inputs["num_boxes"].tolist()
    kept = [0 if which == "all_empty" or b == 1 else count for b, count in enumerate(counts)]  # image 1 is the one without
    truth = image_truths(model.tokenize([str(c) for c in case.inputs["captions"]]), case.targets(kept), torch.device("cpu"), published=True)
    found = model.criterion(out, truth)
    check_losses(case, f"loss_{which}", found)
    assert rows(model.criterion.match(out, truth), len(out.logit_NBQT) - 1) == published_rows(case, f"indices_{which}")


def test_losses__the_papers_distribution_is_the_default(losses):
    """Tokens share 1 as in the paper; only padding's part in the alignment differs from the stored case, which the switch of its own shows."""
    case, model, out, truth, *_ = losses
    own = MdetrCriterion(**case.criterion(published=False))(out, truth)
    check_losses(case, "loss_normalized_map", own, without=("loss_contrastive_align",))


def test_positive_map__equals_the_published_code(golden_root):
    case = Case(golden_root, "positive_map")
    captions = [str(c) for c in case.inputs["captions"]]
    tokenized = case.tokenizer().encode(captions)
    found = []
    for b, count in enumerate(case.inputs["num_targets"].tolist()):
        spans = [[(int(s), int(e)) for c, t, s, e in case.inputs["spans"] if (c, t) == (b, n)] for n in range(count)]
        found.append(phrase_map(tokenized, b, spans).tokens_PL)
    columns = case.outputs["positive_map"].shape[1]
    assert off(MdetrCriterion().positive_columns(torch.cat(found), columns), case.outputs["positive_map"]) < 1e-5


@pytest.fixture(scope="module")
def segmentation(golden_root):
    case = Case(golden_root, "segmentation")
    return case, case.model()


def test_segmentation__masks_equal_the_published_code(segmentation):
    case, model = segmentation
    with torch.no_grad():
        *_, image, _, _, out, slots, memory = forward(case, model)
        maps = model.backbone(case.images()[0])
        for n, feature in enumerate(maps):
            assert off(feature.tensor_BCHW[:, :2], case.outputs[f"feat{n}_channels0_1"]) < ATOL
        batch, num_slots, width = slots.shape
        which = torch.arange(batch).repeat_interleave(num_slots)
        valid = image.valid_BHW.flatten(1)
        attention = model.mask_head.attention(slots.flatten(0, 1), which, memory.image_BPC, valid)
        assert off(attention.reshape(case.outputs["bbox_attention"].shape), case.outputs["bbox_attention"]) < ATOL
        logit = model.mask_head(slots.flatten(0, 1), which, image.source_BCHW, memory.image_BPC, valid, image.fine)
    assert off(out.logit_NBQT[-1], case.outputs["pred_logits"]) < ATOL
    assert off(logit.reshape(case.outputs["pred_masks"].shape), case.outputs["pred_masks"]) < ATOL
    for b, target in enumerate(case.targets()):
        own = logit.unflatten(0, (batch, num_slots))[b]
        masks = file_masks(own, tuple(case.images()[0].shape[-2:]), target.size_hw, target.original_size_hw)
        shape = case.outputs[f"masks_shape_{b}"].tolist()
        theirs = np.unpackbits(case.outputs[f"masks_packed_{b}"], axis=1)[:, : shape[1] * shape[2]].reshape(shape).astype(bool)
        assert tuple(masks.shape) == tuple(shape) and (masks.numpy() == theirs).mean() >= 0.999


def test_segmentation__losses_and_gradients_equal_the_published_code(segmentation):
    case, model = segmentation
    model.zero_grad()
    tokenized, image, _, _, out, slots, memory = forward(case, model)
    targets = case.targets()
    truth = image_truths(tokenized, targets, torch.device("cpu"), published=True)
    matches = model.criterion.match(out, truth)
    last = matches.of_layer(len(out.logit_NBQT) - 1)
    assert rows(matches, len(out.logit_NBQT) - 1) == published_rows(case, "indices")
    found = model.criterion(out, truth, matches)
    found |= model._mask_losses(image, targets, truth, last, slots, out.boxes_NBQ4[-1], memory, tuple(case.images()[0].shape[-2:]))
    check_losses(case, "loss", found)
    total = sum(v for k, v in found.items() if k.startswith("loss"))
    assert float(total.detach()) == pytest.approx(float(case.outputs["total"]), rel=1e-4)
    total.backward()
    assert_gradients(case, model)


def test_postprocess__boxes_and_scores_equal_the_published_code(golden_root):
    case = Case(golden_root, "postprocess")
    logits, boxes = case.tensor("pred_logits"), case.tensor("pred_boxes")
    assert off(object_scores(logits), case.outputs["scores"]) < 1e-6
    assert off(object_scores(logits) * case.tensor("pred_isfinal").sigmoid().squeeze(-1), case.outputs["scores_refexp"]) < 1e-6
    for b, size in enumerate(case.inputs["target_sizes"].tolist()):
        pixels = pixel_boxes(boxes[b], tuple(size))
        assert off(pixels, case.outputs["boxes"][b]) < 1e-3
        keep = object_scores(logits[b]) > case.config["phrasecut_score_thresh"]
        xywh = torch.cat([pixels[:, :2], pixels[:, 2:] - pixels[:, :2]], dim=1)[keep]
        assert off(xywh, case.outputs[f"phrasecut_boxes_xywh_{b}"]) < 1e-3


def test_postprocess__referring_equals_the_published_code(golden_root):
    case = Case(golden_root, "postprocess")
    hits = []
    for b, size in enumerate(case.inputs["target_sizes"].tolist()):
        scores, pixels = object_scores(case.tensor("pred_logits")[b]), pixel_boxes(case.tensor("pred_boxes")[b], tuple(size))
        order = referring_order(scores, pixels)
        assert order.tolist() == case.outputs["refexp_order"][b].tolist()
        truth = case.inputs["refexp_gt_xyxy"][b]
        found = giou_xyxy(pixels[order].double().numpy(), truth[None].astype(np.float64))[:, 0]
        assert np.abs(found - case.outputs["refexp_giou_sorted"][b]).max() < 1e-5
        hits.append([float((found[:k] >= 0.5).any()) for k in (1, 5, 10)])
    for b, name in enumerate(("refcoco", "refcocog")):
        assert hits[b] == pytest.approx(case.outputs[f"refexp_precision_{name}"].tolist())


def test_postprocess__phrases_equal_the_published_code(golden_root):
    case = Case(golden_root, "postprocess")
    start = 0
    for b, count in enumerate(case.inputs["items_per_batch_element"].tolist()):
        tokens = case.tensor("positive_map_eval")[start : start + count] > 1e-6
        scores = phrase_scores(case.tensor("pred_logits")[b], tokens, "max")
        pixels = pixel_boxes(case.tensor("pred_boxes")[b], tuple(case.inputs["target_sizes"][b].tolist()))
        for p in range(count):
            order = scores[:, p].argsort(descending=True, stable=True)
            theirs = case.outputs["flickr_scores"][start + p]
            assert off(scores[order, p], np.sort(theirs)[::-1].copy()) < 1e-6
            assert off(pixels[order], case.outputs["flickr_boxes"][start + p]) < 1e-3
        start += count


@torch.no_grad()
def test_lvis__one_name_a_caption_over_cached_features_equals_the_published_script(golden_root):
    case = Case(golden_root, "lvis")
    entries = [ClassEntry(name=str(n)) for n in case.inputs["category_names"]]
    prompts = one_class_prompts(Vocabulary(tuple(entries)), published=True)
    assert [p.caption for p in prompts] == [str(p) for p in case.inputs["prompts"]]
    chunk = int(case.inputs["chunk"])
    model = case.model(published=True, pairs=chunk)
    h, w = case.inputs["orig_size"][0].tolist()
    images = case.tensor("samples")
    target = ImageTarget(image_id=1, file_name="", size_hw=tuple(images.shape[-2:]), original_size_hw=(h, w), boxes_xyxy=torch.zeros(0, 4),
                         labels=torch.zeros(0, dtype=torch.int64))
    model.set_vocabulary(Vocabulary(tuple(entries)))
    text = model.text()
    features = model.encode_image(images)
    logits, boxes = [], []
    for _, out, *_ in model.score(features, text):
        logits.append(out.logit_NBQT[-1])
        boxes.append(out.boxes_NBQ4[-1])
    assert off(torch.cat(logits), case.outputs["pred_logits"]) < ATOL and off(torch.cat(boxes), case.outputs["pred_boxes"]) < ATOL
    for k, theirs in enumerate(case.outputs["text_memory_resized"]):
        assert off(text[k].text_LC, theirs[: len(text[k].text_LC)]) < ATOL
    (result,) = model.predict(images, [target])
    names, slots = case.outputs["scores"].shape
    assert len(result) == names * slots
    for k in range(names):
        mine = result.labels == k
        order = np.argsort(-case.outputs["scores"][k], kind="stable")
        assert off(result.scores[mine], case.outputs["scores"][k][order]) < ATOL
        assert off(result.boxes_xyxy[mine], case.outputs["boxes"][k][order]) < 2e-2


@pytest.mark.parametrize("fixed", [True, False])
def test_lvis__ap_equals_the_published_protocols(golden_root, fixed):
    case = Case(golden_root, "lvis")
    truth = json.loads((case.folder / "gt.json").read_text())
    names = {c["id"]: c["name"] for c in truth["categories"]}
    ids = case.inputs["category_ids"].tolist()
    metric = LvisMetric(ann_file=str(case.folder / "gt.json"), class_names=[names[i] for i in ids], fixed_ap=fixed,
                        max_dets=None if fixed else case.config["max_dets_standard"])
    scores, slots = torch.from_numpy(case.outputs["scores"]), case.outputs["scores"].shape[1]
    labels = torch.arange(len(ids)).repeat_interleave(slots)
    first = {"bboxes": torch.from_numpy(case.outputs["boxes"]).flatten(0, 1), "scores": scores.flatten(), "labels": labels}
    none = {key: value[:0] for key, value in first.items()}
    seen = int(case.outputs["detections"][0, 0])
    metric.process(None, [{"img_id": i["id"], "pred_instances": first if i["id"] == seen else none} for i in truth["images"]])
    found = metric.evaluate(len(truth["images"]))
    for name in ("AP", "AP50", "AP75", "APm", "APl", "APr", "APc", "APf"):
        theirs = float(case.outputs[f"{'fixed_ap' if fixed else 'standard'}/{name}"])
        assert found[f"lvis/bbox_{name}"] == pytest.approx(100 * theirs if theirs >= 0 else float("nan"), abs=1e-3, nan_ok=True), name


FULL = {"spec.json": dict(), "spec_gqa.json": dict(head=dict(align_width=0, answers="gqa")), "spec_phrasecut.json": dict(head=dict(align_width=0), masks=True)}


@pytest.mark.parametrize("file", FULL)
def test_full_size__published_names_map_strictly(golden_root, file):
    spec = json.loads((golden_root / "mdetr" / "fullsize_spec" / file).read_text())
    settings = FULL[file]
    with torch.device("meta"):
        state = {n: torch.empty(s["shape"], dtype=getattr(torch, s["dtype"])) for n, s in spec.items()}
        tokenizer = Case(golden_root, "detection").tokenizer()
        text = RobertaTextEncoder(weights=None, tokenizer=tokenizer, frozen=False, config=ROBERTA_BASE)
        model = Mdetr(backbone=FrozenNormResNet(101, out_strides=(4, 8, 16, 32) if settings.get("masks") else (32,)), text_encoder=text, **settings)
    ours, own = convert_published({"model": state, "model_ema": None}), model.state_dict()
    assert set(ours) == set(own)
    assert all(own[n].shape == t.shape for n, t in ours.items())
    dropped = len(spec) - len(ours)
    assert dropped == sum(n.endswith("position_ids") or ".pooler." in n for n in spec) > 0
