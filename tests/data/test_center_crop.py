"""ReCo's published squares."""
import numpy as np
import pytest
import torch

from ovdense.data.center_crop import CenterSquare, center_square
from ovdense.methods.reco.archive import archive_batch

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def test_squares__are_the_published_ones(golden_root):
    folder = golden_root / "reco" / "preprocess"
    given, wanted = np.load(folder / "inputs.npz"), np.load(folder / "outputs.npz")
    size = wanted["eval_image"].shape[-1]
    sample = CenterSquare(size)({"image": given["image"], "label_map": given["label"], "original_size_hw": given["image"].shape[:2]})
    pixels = torch.from_numpy(sample["image"].copy()).permute(2, 0, 1).float()
    image = (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    np.testing.assert_allclose(image.numpy(), wanted["eval_image"], atol=1e-5)
    assert np.array_equal(sample["label_map"], wanted["eval_label"][0]) and sample["original_size_hw"] == (size, size)
    archive = archive_batch([given["image"]], wanted["index_image"].shape[-1], MEAN, STD)
    np.testing.assert_allclose(archive[0].numpy(), wanted["index_image"], atol=1e-5)


def test_square__of_small_images_and_bad_sizes():
    assert center_square(np.zeros((3, 9, 3), dtype=np.uint8), 5).shape == (5, 5, 3)
    with pytest.raises(ValueError, match="at least 1"):
        center_square(np.zeros((3, 9, 3), dtype=np.uint8), 0)
