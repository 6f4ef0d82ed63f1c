"""Our use of segment-anything against its own predictor, with a small network of random weights."""
import sys
from functools import partial

import numpy as np
import pytest
import torch

from ovdense.structures import Results
from ovdense.vision.sam import SamMasks, _regions, load_sam

IMAGE = np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8)
BOXES = torch.tensor([[10.0, 20, 60, 80], [0, 0, 120, 90], [70.5, 5.25, 110, 40], [30, 30, 31, 31]])


def small_sam(side=64):
    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

    torch.manual_seed(0)
    return Sam(
        image_encoder=ImageEncoderViT(depth=2, embed_dim=32, img_size=side, num_heads=2, patch_size=16, out_chans=32, use_rel_pos=True, window_size=3,
                                      global_attn_indexes=(1,), norm_layer=partial(torch.nn.LayerNorm, eps=1e-6)),
        prompt_encoder=PromptEncoder(embed_dim=32, image_embedding_size=(side // 16,) * 2, input_image_size=(side, side), mask_in_chans=4),
        mask_decoder=MaskDecoder(num_multimask_outputs=3, transformer=TwoWayTransformer(depth=2, embedding_dim=32, mlp_dim=32, num_heads=2), transformer_dim=32,
                                 iou_head_depth=2, iou_head_hidden_dim=16),
        pixel_mean=[123.675, 116.28, 103.53], pixel_std=[58.395, 57.12, 57.375],
    ).eval()  # fmt: skip


@pytest.fixture(scope="module")
def network():
    return small_sam()


def test_sam__boxes_in_batches_are_its_own_predictors_one_by_one(network, monkeypatch):
    from segment_anything import SamPredictor

    theirs = SamPredictor(network)
    theirs.set_image(IMAGE)
    single = [theirs.predict(box=box.numpy(), multimask_output=False) for box in BOXES]
    for most in (64, 3):
        monkeypatch.setattr("ovdense.vision.sam.MOST_BOXES", most)
        masks, expected = SamMasks(network).of_boxes(IMAGE, BOXES)
        assert masks.dtype == torch.bool and masks.shape == (4, 90, 120)
        assert np.mean(masks.numpy() == np.stack([m[0] for m, _, _ in single])) > 0.999  # a logit next to 0 may fall on either side
        np.testing.assert_allclose(expected.numpy(), [iou[0] for _, iou, _ in single], atol=1e-4)
    assert 0.02 < masks.float().mean() < 0.98  # the comparison says something


def test_sam__mask_prompts_are_what_its_own_predictor_takes(network):
    from segment_anything import SamPredictor

    sam, theirs = SamMasks(network), SamPredictor(network)
    theirs.set_image(IMAGE)
    sam._embed(IMAGE)
    old = torch.zeros(1, 90, 120, dtype=torch.bool)
    old[0, 20:80, 10:60] = True
    prompt = sam._mask_prompts(old)
    assert prompt.shape == (1, 1, *network.prompt_encoder.mask_input_size) and prompt[0, 0, 3, 3] > 7 > -7 > prompt[0, 0, -1, -1]
    ours, _ = sam._masks(BOXES[:1], torch.tensor([[[35.0, 50.0]]]), prompt)
    mask, _, _ = theirs.predict(np.array([[35.0, 50.0]]), np.array([1]), BOXES[0].numpy(), prompt[0].numpy(), multimask_output=False)
    assert np.mean(ours[0].numpy() == mask[0]) > 0.999


def test_sam__the_image_is_embedded_once(network, monkeypatch):
    calls = []
    encoder = network.image_encoder.forward
    monkeypatch.setattr(network.image_encoder, "forward", lambda x: calls.append(1) or encoder(x))
    sam = SamMasks(network, keep_images=2)
    first = sam.of_boxes(IMAGE, BOXES)[0]
    assert torch.equal(sam.of_boxes(IMAGE.copy(), BOXES)[0], first) and len(calls) == 1
    others = [np.roll(IMAGE, n, 1) for n in (1, 2)]
    for other in others:
        sam.of_boxes(other, BOXES)
    assert len(calls) == 3 and torch.equal(sam.of_boxes(IMAGE, BOXES)[0], first) and len(calls) == 4
    assert len(sam.of_boxes(IMAGE, BOXES[:0])[0]) == 0 and len(calls) == 4


def test_sam__gives_results_masks(network):
    found = Results(boxes_xyxy=BOXES, scores=torch.ones(4), labels=torch.zeros(4, dtype=torch.int64), names=("cat",), size_hw=(90, 120))
    sam = SamMasks(network)
    assert torch.equal(sam(IMAGE, found).masks_NHW, sam.of_boxes(IMAGE, BOXES)[0])


class _Square(SamMasks):
    """Sees the same square whatever it is asked."""

    def _masks(self, boxes_xyxy, points_N12=None, mask_N1hw=None):
        masks = torch.zeros(len(boxes_xyxy), 90, 120, dtype=torch.bool)
        masks[:, 30:60, 30:60] = True
        return masks, torch.ones(len(masks))


def test_refine__takes_the_border_where_it_is_the_same_region_only(network):
    label = torch.zeros(90, 120, dtype=torch.int64)
    label[28:58, 32:64] = 1  # shares most of the square
    label[70:90, 90:120] = 2  # far away: stays
    label[0, 0] = 2  # a speck: stays
    want = torch.zeros_like(label)
    want[70:90, 90:120], want[0, 0], want[30:60, 30:60] = 2, 2, 1
    sam = _Square(network)
    assert torch.equal(sam.refine(IMAGE, label, background=[0]), want)
    refined = sam(IMAGE, Results.of_label_map(label, ("background", "cat", "dog")))
    assert torch.equal(refined.label_map_HW, want)
    only = torch.zeros(90, 120, dtype=torch.int64)
    assert torch.equal(sam.refine(IMAGE, only, background=[0]), only)


def test_regions__box_and_innermost_point():
    label = np.zeros((90, 120), np.int64)
    label[20:31, 40:61] = 3
    region, = _regions(label, [0])
    assert region.label == 3 and region.box == (40, 20, 61, 31)
    assert region.point[1] == 25.5 and 45 <= region.point[0] <= 56


def test_load_sam__says_what_is_missing(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="sam_vit_b_01ec64.pth"):
        load_sam(tmp_path / "sam.pth")
    torch.save(small_sam().state_dict(), tmp_path / "small.pth")
    with pytest.raises(ValueError, match="published file of SAM"):
        load_sam(tmp_path / "small.pth")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="no image_encoder.pos_embed"):
        load_sam(tmp_path / "other.pth")
    monkeypatch.setitem(sys.modules, "segment_anything", None)
    with pytest.raises(ImportError, match=r"ovdense\[sam\]"):
        load_sam(tmp_path / "small.pth")


def test_load_sam__knows_the_size_by_the_shapes(tmp_path, monkeypatch):
    import segment_anything

    asked = []
    monkeypatch.setattr("ovdense.vision.sam.SIZES", {32: "vit_l"})
    monkeypatch.setitem(segment_anything.sam_model_registry, "vit_l", lambda: asked.append("vit_l") or small_sam())
    torch.save(small_sam().state_dict(), tmp_path / "small.pth")
    loaded = load_sam(tmp_path / "small.pth", "cpu")
    assert asked == ["vit_l"] and not loaded.training
    assert all(torch.equal(a, b) for a, b in zip(loaded.state_dict().values(), small_sam().state_dict().values()))


@pytest.mark.slow
def test_load_sam__vit_b_as_published(tmp_path):
    """The published architecture itself, from a file of random weights."""
    from segment_anything import sam_model_registry

    torch.save(sam_model_registry["vit_b"]().state_dict(), tmp_path / "sam_vit_b.pth")
    network = load_sam(tmp_path / "sam_vit_b.pth", "cpu")
    assert network.image_encoder.img_size == 1024 and len(network.image_encoder.blocks) == 12
