"""Dense encoders: parity with the published value path, unit vectors, sizes, batch = singles."""
import json

import numpy as np
import pytest
import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transformer import VisionTransformer
from torch.nn import functional as F

from ovdense.vision.dense import ConseEncoder
from ovdense.vision.dense_clip import ClipDenseEncoder
from ovdense.vision.imagenet import imagenet_glosses, imagenet_names
from tests.golden import load_fill, stated


def golden_tower(folder, fill) -> ModifiedResNet:
    """Return open_clip's ResNet of a case's sizes, with its weights (OpenAI's names)."""
    spec = json.loads((folder / "spec.json").read_text())
    shape = {k.removeprefix("visual."): v["shape"] for k, v in spec.items()}
    width = shape["conv1.weight"][0] * 2
    layers = [len({k.split(".")[1] for k in shape if k.startswith(f"layer{n}.")}) for n in (1, 2, 3, 4)]
    side = round((shape["attnpool.positional_embedding"][0] - 1) ** 0.5)
    tower = ModifiedResNet(layers, output_dim=shape["attnpool.c_proj.weight"][0], heads=1, image_size=32 * side, width=width)
    tower.load_state_dict({k.removeprefix("visual."): v for k, v in fill(spec, stated(folder, "seed")).items()})
    return tower


def test_clip_resnet__gives_the_published_value_path(golden_root):
    folder = golden_root / "reco" / "maskclip"
    encoder = ClipDenseEncoder(visual=golden_tower(folder, load_fill(golden_root).fill))
    given, wanted = np.load(folder / "inputs.npz"), np.load(folder / "outputs.npz")
    cases = [k.removeprefix("image_") for k in given.files if k.startswith("image_")]
    assert cases
    for case in cases:
        image = torch.from_numpy(given[f"image_{case}"])
        for got, name in ((encoder._trunk(image), "stage4"), (encoder.features(image), "features")):
            want = torch.from_numpy(wanted[f"{case}__{name}"])
            assert (got - want).abs().max() <= 1e-4 * want.abs().max(), (case, name)


def tiny_vit(image_size=32) -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(image_size=image_size, patch_size=8, width=32, layers=2, heads=4, mlp_ratio=2.0, output_dim=12).eval()


@pytest.fixture(params=["resnet", "vit", "conse"])
def encoder(request):
    torch.manual_seed(0)
    if request.param == "resnet":
        return ClipDenseEncoder(visual=ModifiedResNet([1, 1, 1, 1], output_dim=12, heads=2, image_size=64, width=8))
    if request.param == "vit":
        return ClipDenseEncoder(visual=tiny_vit())
    return ConseEncoder(anchors_MD=F.normalize(torch.randn(1000, 12), dim=1), short_sides=(64, 32), weights=None)


def test_encoder__gives_unit_vectors_and_batch_is_singles(encoder):
    images = torch.rand(2, 3, 64, 96) - 0.5
    places, whole = encoder.encode_places(images)
    assert places.tensor_BCHW.shape[:2] == (2, encoder.width) and whole.shape == (2, encoder.width)
    torch.testing.assert_close(places.tensor_BCHW.norm(dim=1), torch.ones_like(places.tensor_BCHW[:, 0]))
    torch.testing.assert_close(whole.norm(dim=1), torch.ones(2))
    single = encoder.encode_dense(images[1:])
    torch.testing.assert_close(single.tensor_BCHW[0], places.tensor_BCHW[1], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(encoder.encode_image(images[:1])[0], whole[0], atol=1e-5, rtol=1e-4)


def test_encoder__is_frozen_and_keeps_its_fingerprint(encoder):
    encoder.train()
    assert not any(p.requires_grad for p in encoder.parameters()) and not any(m.training for m in encoder.modules())
    before = encoder.fingerprint()
    assert before == encoder.fingerprint()
    next(encoder.parameters()).data.add_(1)
    assert encoder.fingerprint() != before


@pytest.mark.parametrize("size_hw, grid_hw", [((32, 32), (4, 4)), ((48, 32), (6, 4)), ((37, 50), (4, 6))])
def test_clip_vit__takes_any_size_and_drops_what_is_left_over(size_hw, grid_hw):
    encoder = ClipDenseEncoder(visual=tiny_vit())
    assert encoder.encode_dense(torch.rand(1, 3, *size_hw)).tensor_BCHW.shape[2:] == grid_hw


def test_clip__whole_image_is_open_clips_own():
    for tower, side in ((tiny_vit(), 32), (ModifiedResNet([1, 1, 1, 1], output_dim=12, heads=2, image_size=64, width=8).eval(), 64)):
        image = torch.rand(1, 3, side, side)
        torch.testing.assert_close(ClipDenseEncoder(visual=tower).encode_image(image), F.normalize(tower(image), dim=1))


def test_clip_vit__a_place_keeps_its_own_value():
    """Attention over one token is the identity: the last block, run on a lone patch token, must give what the value path gives."""
    tower = tiny_vit(image_size=8)  # one patch
    image = torch.rand(1, 3, 8, 8)
    encoder = ClipDenseEncoder(visual=tower)
    token = encoder._trunk(image)
    block = tower.transformer.resblocks[-1]
    alone = block(token[:, 1:])
    want = tower.ln_post(alone) @ tower.proj
    torch.testing.assert_close(encoder.features(image)[..., 0, 0], want[:, 0])


def test_clip__names_unfit_towers_and_models():
    with pytest.raises(KeyError, match="near it there are"):
        ClipDenseEncoder("ViT-B-61")
    tower = tiny_vit()
    tower.pool_type = "avg"
    with pytest.raises(ValueError, match="reads the class token"):
        ClipDenseEncoder(visual=tower)


def test_conse__is_the_mean_posteriors_mixture_of_anchors():
    anchors = F.normalize(torch.randn(1000, 6), dim=1)
    encoder = ConseEncoder(anchors_MD=anchors, short_sides=(64, 32), weights=None)
    image = torch.rand(1, 3, 64, 64) * 2 - 1
    fine, coarse = encoder.class_probs(image, 64), encoder.class_probs(image, 32)
    assert fine.shape == (1, 1000, 2, 2) and coarse.shape == (1, 1000, 1, 1)
    torch.testing.assert_close(fine.sum(1), torch.ones(1, 2, 2))
    want = F.normalize(torch.einsum("bmhw,md->bdhw", (fine + coarse) / 2, anchors), dim=1)
    torch.testing.assert_close(encoder.encode_dense(image).tensor_BCHW, want)


def test_conse__a_strip_is_not_blown_up():
    anchors = F.normalize(torch.randn(1000, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    encoder = ConseEncoder(anchors_MD=anchors, weights=None, short_sides=(64,))
    assert encoder.size_at((480, 640), 384) == [384, 512] and encoder.size_at((1, 400), 512) == [32, 3072] and encoder.size_at((20_000, 10), 64) == [384, 32]
    places, whole = encoder.encode_places(torch.randn(1, 3, 1, 400))
    assert places.tensor_BCHW.shape[1] == 8 and places.tensor_BCHW.shape[-1] == 12 and torch.isfinite(whole).all()


def test_conse__anchors_must_be_as_many_as_classes():
    with pytest.raises(ValueError, match="one an anchor"):
        ConseEncoder(anchors_MD=torch.eye(10), weights=None)
    with pytest.raises(ValueError, match="short_sides"):
        ConseEncoder(anchors_MD=torch.eye(1000), short_sides=(), weights=None)


def test_imagenet__has_a_name_and_a_gloss_for_each_class():
    names, glosses = imagenet_names(), imagenet_glosses()
    assert len(names) == len(glosses) == 1000 and all(glosses) and names[1] == "goldfish"
    assert not any(gloss.startswith(name + ":") for name, gloss in zip(names, glosses))
    assert "freshwater fishes" in glosses[1]


def test_clip__normalisation_is_part_of_the_fingerprint():
    tower = tiny_vit()
    assert len({ClipDenseEncoder(visual=tower, **own).fingerprint() for own in ({}, dict(mean=(1.0, 2.0, 3.0)), dict(std=(1.0, 2.0, 3.0)))}) == 3


def test_clip__an_image_thinner_than_a_patch_is_named():
    from ovdense.vision.vit import VitBackbone

    for encoder in (ClipDenseEncoder(visual=tiny_vit()), ClipDenseEncoder(visual=ModifiedResNet([1, 1, 1, 1], output_dim=12, heads=2, image_size=64, width=8))):
        with pytest.raises(ValueError, match=r"at least \d+ pixels .*\(5, 48\)"):
            encoder.encode_dense(torch.rand(1, 3, 5, 48))
    with pytest.raises(ValueError, match=r"at least one patch.*\(48, 5\)"):
        VitBackbone("vit_tiny_patch16_224")(torch.rand(1, 3, 48, 5))
