"""ReCo+'s augmentation of colours: torchvision's ColorJitter and a Gaussian blur, drawn from the sample's own generator."""
import numpy as np
import torch
from torchvision.transforms import functional as T

from ovdense.data.transforms import check_probability
from ovdense.registry import TRANSFORMS


@TRANSFORMS.register_module()
class StrongColours:
    """With `jitter_prob` change brightness, contrast, saturation (by up to `strength`) and hue (by up to `hue`) in random order; with `blur_prob` blur.

    The defaults are ReCo+'s release: ColorJitter(.8, .8, .8, .2) with 0.8, kernel 33 and sigma in 0.1..2 with 0.5.
    """

    def __init__(self, *, strength: float = 0.8, hue: float = 0.2, jitter_prob: float = 0.8, blur_prob: float = 0.5, kernel: int = 33,
                 sigma: tuple[float, float] = (0.1, 2.0)) -> None:
        if not 0 <= strength <= 1 or not 0 <= hue <= 0.5:
            raise ValueError(f"strength must lie in 0..1 and hue in 0..0.5, got {strength} and {hue}")
        if kernel < 1 or kernel % 2 == 0:
            raise ValueError(f"kernel must be an odd number of pixels, got {kernel}")
        self.strength, self.hue, self.kernel, self.sigma = strength, hue, kernel, tuple(sigma)
        self.jitter_prob, self.blur_prob = check_probability("jitter_prob", jitter_prob), check_probability("blur_prob", blur_prob)

    def __call__(self, sample: dict) -> dict:
        rng: np.random.Generator = sample["rng"]
        image = torch.from_numpy(np.ascontiguousarray(sample["image"])).permute(2, 0, 1)
        if rng.random() < self.jitter_prob:
            for step in rng.permutation(4):
                factor = float(rng.uniform(1 - self.strength, 1 + self.strength))
                if step == 3:
                    image = T.adjust_hue(image, float(rng.uniform(-self.hue, self.hue)))
                else:
                    image = (T.adjust_brightness, T.adjust_contrast, T.adjust_saturation)[step](image, factor)
        if rng.random() < self.blur_prob:
            image = T.gaussian_blur(image, [self.kernel, self.kernel], [float(rng.uniform(*self.sigma))] * 2)
        sample["image"] = image.permute(1, 2, 0).numpy()
        return sample
