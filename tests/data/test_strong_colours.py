"""Colours change, places do not, and the sample's generator decides."""
import numpy as np
import pytest

from ovdense.data.strong_colours import StrongColours


def sample(seed=0):
    rng = np.random.default_rng(1)
    image = np.kron(rng.integers(60, 200, (8, 8, 3)), np.ones((6, 6, 1))).astype(np.uint8)
    return {"image": image, "rng": np.random.default_rng(seed)}


def test_strong_colours__repeat_with_the_seed_and_differ_without_it():
    step = StrongColours(kernel=5)
    one, same, other = (step(sample(s))["image"] for s in (0, 0, 3))
    assert one.shape == (48, 48, 3) and one.dtype == np.uint8 and np.array_equal(one, same) and not np.array_equal(one, other)


def test_strong_colours__without_probability_change_nothing():
    step = StrongColours(jitter_prob=0.0, blur_prob=0.0)
    assert np.array_equal(step(sample())["image"], sample()["image"])


def test_strong_colours__blur_keeps_the_mean_and_takes_the_contrast():
    blurred = StrongColours(jitter_prob=0.0, blur_prob=1.0, sigma=(2.0, 2.0))(sample())["image"].astype(float)
    sharp = sample()["image"].astype(float)
    assert abs(blurred.mean() - sharp.mean()) < 4 and blurred.std() < 0.95 * sharp.std()


@pytest.mark.parametrize("kwargs", [dict(strength=2.0), dict(hue=0.7), dict(kernel=4), dict(jitter_prob=1.5)])
def test_strong_colours__bad_settings(kwargs):
    with pytest.raises(ValueError, match="must"):
        StrongColours(**kwargs)
