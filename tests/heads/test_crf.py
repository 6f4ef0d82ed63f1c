"""The dense CRF against the release's, and its borders."""
import numpy as np
import pytest
import torch

from ovdense.heads.crf import CrfSettings, dense_crf


def test_dense_crf__is_the_published_one(golden_root):
    folder = golden_root / "reco" / "crf"
    given, wanted = np.load(folder / "inputs.npz"), np.load(folder / "outputs.npz")
    mean, std = np.array([0.485, 0.456, 0.406]).reshape(3, 1, 1), np.array([0.229, 0.224, 0.225]).reshape(3, 1, 1)
    pixels = torch.from_numpy(given["image_normalised"]) * torch.tensor(std, dtype=torch.float32) + torch.tensor(mean, dtype=torch.float32)
    image = pixels.mul(255).byte().permute(1, 2, 0).numpy()  # truncated, as the release does
    for suffix in ("", "_strong"):
        got = dense_crf(torch.from_numpy(given[f"logits{suffix}"]), image)
        np.testing.assert_allclose(got.numpy(), wanted[f"Q{suffix}"], atol=1e-3)
        assert (got.argmax(0).numpy() == wanted[f"argmax{suffix}"]).mean() >= 0.99


def test_dense_crf__moves_a_border_to_the_images_edge():
    image = np.zeros((20, 20, 3), dtype=np.uint8)
    image[:, 10:] = 255
    logit = torch.zeros(2, 20, 20)
    logit[0, :, :8], logit[1, :, 12:] = 2, 2  # nothing is said between 8 and 12
    label = dense_crf(logit, image, CrfSettings(iterations=5)).argmax(0)
    assert (label[:, :10] == 0).all() and (label[:, 10:] == 1).all()


def test_dense_crf__one_class_and_wrong_sizes():
    assert torch.equal(dense_crf(torch.zeros(1, 3, 4), np.zeros((3, 4, 3), dtype=np.uint8)), torch.ones(1, 3, 4))
    with pytest.raises(ValueError, match="as the logits"):
        dense_crf(torch.zeros(2, 3, 4), np.zeros((4, 3, 3), dtype=np.uint8))
