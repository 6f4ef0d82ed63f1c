"""The small text-to-image model: its autoencoder, its data, its training, and that what it leaves is a pipeline like any other."""
import numpy as np
import pytest
import torch

from ovdense.data.object_crops import describe_object, share_covered, square_around
from ovdense.methods.ovdiff.diffusion import TextToImage
from ovdense.structures import ClassEntry
from ovdense.support.generation import GeneratedSupport
from ovdense.support.small_diffusion import build_small_pipeline
from ovdense.vision import patch_autoencoder
from ovdense.vision.diffusion import load_pipeline, pipeline_fingerprint, ready

TINY = dict(image_px=16, channels=(16, 16), head_dim=8)


def test_patch_basis__is_orthonormal():
    rows = patch_autoencoder.patch_basis(4, (16, 16)).flatten(1)
    assert torch.allclose(rows @ rows.T, torch.eye(48), atol=1e-5)


def test_patch_autoencoder__loses_nothing_with_all_frequencies_and_keeps_flat_colours_with_few():
    image = 2 * torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(0)) - 1
    whole, few = patch_autoencoder.PatchAutoencoder(kept=(16, 16), shift=0.25), patch_autoencoder.PatchAutoencoder(kept=(6, 3), shift=0.25)
    assert torch.allclose(whole.decode(whole.encode(image).latent_dist.mode()).sample, image, atol=1e-5)
    flat = torch.tensor([0.3, -0.5, 0.9])[None, :, None, None].expand(1, 3, 8, 8)
    latent = few.encode(flat).latent_dist.mode()
    assert latent.shape == (1, 12, 2, 2) and torch.allclose(few.decode(latent).sample, flat, atol=1e-5)


def test_describe_object__keeps_the_order_of_words():
    entry = ClassEntry(name="ring_(large_red_striped_with_a_tail)", descriptions=("large; red; striped; with a tail",))
    rng = np.random.default_rng(0)
    assert describe_object(entry, rng) == "large red striped ring with a tail"
    assert describe_object(entry, rng, silent=("large",)) == "red striped ring with a tail"
    assert describe_object(entry, rng, keep=0.0) == "ring" and describe_object(ClassEntry(name="hot_dog"), rng) == "hot dog"


@pytest.mark.parametrize("box, window, reason", [
    ((40, 40, 60, 60), (26, 26, 48), "at least min_side"), ((0, 0, 60, 20), (0, 0, 90), "shifted inside"),
    ((0, 0, 100, 100), (0, 0, 100), "never larger than the image"),
])
def test_square_around__box(box, window, reason):
    assert square_around(np.array(box, np.float32), 1.5, 48, (100, 100)) == window, reason


def test_share_covered__counts_overlaps_once():
    boxes = np.array([(0, 0, 10, 10), (5, 0, 10, 10), (50, 50, 60, 60)], np.float32)
    assert share_covered((0, 0, 20), boxes) == 0.25 and share_covered((0, 0, 20), boxes[:0]) == 0


def test_text_to_image__learns_and_leaves_a_pipeline(tmp_path):
    model = TextToImage(pipeline=TINY)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    generator = np.random.default_rng(0)
    images = torch.from_numpy(np.stack([np.full((3, 16, 16), v, np.uint8) for v in generator.integers(0, 255, 8)]))
    losses = []
    for step in range(16):
        torch.manual_seed(step)
        loss = model(images, ["a red ring", ""] * 4)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-4:]) < 0.8 * np.mean(losses[:4])
    model.pipeline.save_pretrained(str(tmp_path / "pipeline"))
    entry = ClassEntry(name="ring", descriptions=("red; plain",))
    settings = dict(num_images=1, num_steps=2, guidance=2.0, negative_prompt="")
    drawn = [GeneratedSupport(p, settings=settings, described=True, store=tmp_path / str(n)).support_set(entry)
             for n, p in enumerate((ready(model.pipeline), str(tmp_path / "pipeline")))]
    assert drawn[0].images[0].details["prompt"] == "A good picture of a red plain ring"
    assert drawn[0].images[0].sha256 == drawn[1].images[0].sha256
    assert pipeline_fingerprint(load_pipeline(tmp_path / "pipeline", device="cpu")) == pipeline_fingerprint(load_pipeline(tmp_path / "pipeline", device="cpu"))


def test_text_to_image__learns_on_another_device_than_its_frozen_parts():
    model = TextToImage(pipeline=TINY).to("meta")
    loss = model(torch.zeros(2, 3, 16, 16, dtype=torch.uint8), ["a red ring", ""])["loss"]
    assert loss.device.type == "meta" and loss.shape == ()


def test_small_pipeline__weights_depend_on_the_seed_alone():
    first = build_small_pipeline(**TINY).unet.state_dict()["conv_in.weight"]
    torch.randn(3)
    second, other = (build_small_pipeline(**TINY, seed=s).unet.state_dict()["conv_in.weight"] for s in (0, 1))
    assert torch.equal(first, second) and not torch.equal(first, other)
