"""Example pictures of the constructed scenes."""
import numpy as np
import pytest
from PIL import Image

from tests.methods.ovdiff.scenes import COLOURS, scene


@pytest.fixture
def examples(tmp_path):
    """Return a folder of the user's own pictures with masks, two a class."""
    for k, name in enumerate(COLOURS):
        (tmp_path / "mine" / name).mkdir(parents=True)
        for n in range(2):
            image, label = scene({name: (8 + 4 * n, 8, 40, 40 + 8 * k)})
            Image.fromarray(image).save(tmp_path / "mine" / name / f"{n}.png")
            Image.fromarray((label > 0).astype(np.uint8) * 255).save(tmp_path / "mine" / name / f"{n}.mask.png")
    return tmp_path / "mine"
