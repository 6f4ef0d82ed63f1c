"""Parity of whole segmenters and detectors with the published code: features, logits, losses and their gradients."""
import pytest
import torch

from ovdense.heads.segment import resized
from ovdense.losses import box_label_maps
from ovdense.methods.denseclip.convert import convert_published, to_published
from ovdense.methods.denseclip.decoders import MaskRcnnDecoder, RetinaNetDecoder, SemanticFpn, with_scores
from ovdense.methods.denseclip.model import DenseClip
from ovdense.structures import ImageTarget, Vocabulary
from ovdense.text.clip_context import ClipContextEncoder
from ovdense.vision.clip import ClipResNet, ClipVit
from tests.methods.denseclip.cases import Case, close


def build(case: Case, decoder, positions="interpolate"):
    """Return our model for the case's config, with its weights, in eval mode; all parameters have gradients."""
    config = case.json("config.json")
    config = config.get("model", config)
    about, text, reader = config["backbone"], config["text_encoder"], config["context_decoder"]
    if about["type"] == "CLIPVisionTransformer":
        backbone = ClipVit(about["patch_size"], width=about["width"], layers=about["layers"], heads=about["heads"], embed_width=about["output_dim"],
                           table_size=about["input_resolution"] // about["patch_size"], out_blocks=about["out_indices"])
    else:
        backbone = ClipResNet(about["layers"], width=about["width"], embed_width=about["output_dim"], table_size=about["input_resolution"] // 32,
                              positions=positions)  # fmt: skip
    encoder = ClipContextEncoder(embed_width=text["embed_dim"], width=text["transformer_width"], heads=text["transformer_heads"],
                                 layers=text["transformer_layers"], context_length=text["context_length"], frozen=False)
    test = config.get("test_cfg") or {}
    model = DenseClip(
        backbone=backbone, decoder=decoder(config, backbone), vocabulary=config["class_names"], text_encoder=encoder,
        pixel_text=dict(num_contexts=text["context_length"] - config["context_length"], **{k: config[k] for k in ("tau",) if k in config}, decoder=dict(
            width=reader["transformer_width"], heads=reader["transformer_heads"], num_layers=reader["transformer_layers"])),
        test=dict(crop=tuple(test["crop_size"]), stride=tuple(test["stride"])) if test.get("mode") == "slide" else None,
    )
    model.set_vocabulary(Vocabulary.of(config["class_names"]))
    ours = convert_published(case.fill())
    missing, unexpected = model.load_state_dict(ours, strict=False)
    # the Mask R-CNN case was made without the heads; nothing else may be left
    assert not unexpected and all(name.startswith(("decoder.rpn_head.", "decoder.roi_head.")) for name in missing)
    return model.eval(), config


def check_gradients(case: Case, model: DenseClip) -> None:
    """Compare stored gradients to 1e-4, and every parameter's norm; a stored null is a parameter without gradient."""
    own = to_published(dict(model.named_parameters()))
    stored = {key.removeprefix("grad."): value for key, value in case.outputs.items() if key.startswith("grad.")}
    assert len(stored) >= 6
    for name, value in stored.items():
        assert close(own[name].grad, value, 1e-4), name
    norms = case.json("grad_norms.json")
    largest = max(v for v in norms.values() if v)
    for name, norm in norms.items():
        grad = own[name].grad
        assert (grad is None or float(grad.norm()) == 0) if norm is None else abs(float(grad.norm()) - norm) <= 1e-4 * max(norm, 1e-3 * largest), name


def semantic(config, backbone):
    return SemanticFpn(len(config["class_names"]), in_channels=backbone.channels, channels=config["neck"]["out_channels"],
                       score_stride=backbone.strides[config["score_concat_index"]], head_channels=config["decode_head"]["channels"],
                       aux_weight=config["identity_head"]["loss_decode"]["loss_weight"])  # fmt: skip


def targets_of(images, **fields):
    size = tuple(images.shape[2:])
    count = len(images)
    empty = dict(boxes_xyxy=[torch.zeros(0, 4)] * count, labels=[torch.zeros(0, dtype=torch.long)] * count)
    rows = [{k: v[b] for k, v in (empty | fields).items()} for b in range(count)]
    return [ImageTarget(image_id=b, file_name=f"{b}.jpg", size_hw=size, original_size_hw=size, **row) for b, row in enumerate(rows)]


@pytest.fixture(scope="module", params=["score_map", "score_map_vit"])
def segmenter(request, golden_root):
    case = Case(golden_root, request.param)
    return case, *build(case, semantic)


@torch.no_grad()
def test_segmenter__forward_equals_the_published_code(segmenter):
    case, model, config = segmenter
    images, out = case.inputs["img"], case.outputs
    maps, pixels = model.compare(model.encode_image(images), model.text())
    assert close(pixels.text_BKC, out["text_embeddings"]) and close(pixels.score_BKHW, out["score_map"])
    joined = with_scores(maps, pixels, divided=False)
    assert close(joined[config["score_concat_index"]], out["concat"])
    neck = model.decoder.neck(joined)
    assert close(neck[0], out["neck0"]) and close(neck[3], out["neck3"])
    logits = model.decoder.logits(maps, pixels)
    assert close(logits, out["seg_logits"]) and close(resized(logits, images.shape[2:])[0], out["encode_decode_b0"])


@torch.no_grad()
@pytest.mark.parametrize("how", ["slide", "whole"])
def test_segmenter__inference_equals_the_published_code(segmenter, how):
    case, model, _ = segmenter
    expected, images, test = case.outputs[f"{how}_prob"], case.inputs["slide_img"], model.test
    if how == "whole":
        model.test = type(test)()
    try:
        probability = resized(resized(model.segment(images), images.shape[2:]), expected.shape[2:]).softmax(1)
    finally:
        model.test = test
    assert close(probability.flip(3), expected)  # the case says that its image was given mirrored


def test_segmenter__losses_and_gradients_equal_the_published_code(segmenter):
    case, model, _ = segmenter
    images, labels = case.inputs["img"], case.inputs["gt"][:, 0]
    model.zero_grad()
    losses = model.loss(images, targets_of(images, label_map_HW=list(labels)))
    assert close(losses["loss_ce"], case.outputs["loss.decode.loss_ce"]) and close(losses["loss_aux_ce"], case.outputs["loss.aux_identity.loss_ce"])
    sum(losses.values()).backward()
    check_gradients(case, model)


def retina(config, backbone):
    return RetinaNetDecoder(len(config["class_names"]), in_channels=backbone.channels, channels=config["neck"]["out_channels"],
                            stacked_convs=config["bbox_head"]["stacked_convs"])


def mask_rcnn(config, backbone):
    return MaskRcnnDecoder(len(config["class_names"]), in_channels=backbone.channels, channels=config["neck"]["out_channels"])


@pytest.fixture(scope="module", params=["score_map_det_retinanet", "score_map_det_maskrcnn"])
def detector(request, golden_root):
    case = Case(golden_root, request.param)
    boxes, labels = ([case.inputs[f"gt_{what}{b}"] for b in range(len(case.inputs["img"]))] for what in ("bboxes", "labels"))
    return case, build(case, retina if "retina" in request.param else mask_rcnn, "crop")[0], targets_of(case.inputs["img"], boxes_xyxy=boxes, labels=labels)


@torch.no_grad()
def test_detector__forward_equals_the_published_code(detector):
    case, model, _ = detector
    maps, pixels = model.compare(model.encode_image(case.inputs["img"]), model.text())
    out, score = case.outputs, pixels.score_BKHW / pixels.tau
    assert close(pixels.text_BKC, out["text_features"]) and close(score, out["score_map3"])
    assert close(resized(score, maps[0].tensor_BCHW.shape[2:]), out["score_map0"])
    pyramid = model.decoder.pyramid(maps, pixels)
    assert len(pyramid) == sum(key.startswith("neck") for key in out)
    for level, tensor in enumerate(pyramid):
        assert close(tensor, out[f"neck{level}"])
    if "cls_score0" in out:
        for kind, tensors in zip(("cls_score", "bbox_pred"), model.decoder.bbox_head(pyramid)):
            assert all(close(t, out[f"{kind}{level}"]) for level, t in enumerate(tensors))


def test_detector__targets_of_boxes_equal_the_published_code(detector):
    case, model, targets = detector
    expected = case.outputs["seg_target"]
    target, covered = box_label_maps([t.boxes_xyxy for t in targets], [t.labels for t in targets], expected.shape[1], tuple(expected.shape[2:]), 4)
    assert torch.equal(target.to(torch.uint8), expected)
    assert torch.equal(covered.expand_as(expected).to(torch.uint8), case.outputs["seg_mask"])


def test_detector__losses_and_gradients_equal_the_published_code(detector):
    case, model, targets = detector
    images, out = case.inputs["img"], case.outputs
    model.zero_grad()
    if "loss.loss_cls" in out:
        losses = model.loss(images, targets)
        assert close(losses["loss_cls"], out["loss.loss_cls"]) and close(losses["loss_bbox"], out["loss.loss_bbox"])
    else:  # made without the heads
        maps, pixels = model.compare(model.encode_image(images), model._training_text())
        losses = {"loss_aux_box": model.decoder.box_loss(pixels, targets, tuple(maps[0].tensor_BCHW.shape[2:]))}
    assert close(losses["loss_aux_box"], out["loss.loss_seg" if "loss.loss_seg" in out else "loss.loss_aux_seg"])
    sum(losses.values()).backward()
    check_gradients(case, model)
