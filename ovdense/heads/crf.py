"""Fully connected CRF on a segmenter's scores (Kraehenbuehl and Koltun, arXiv 1210.5644), by the optional package pydensecrf2."""
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class CrfSettings:
    """The defaults are ReCo's (and STEGO's): smoothness of `sxy` 1 pixel, weight 3; appearance of `sxy` 67 pixels and `srgb` 3 grey levels, weight 4."""

    iterations: int = 10
    smooth_sxy: float = 1.0
    smooth_compat: float = 3.0
    bilateral_sxy: float = 67.0
    bilateral_srgb: float = 3.0
    bilateral_compat: float = 4.0


def require_densecrf() -> Any:
    """Return the library's module; ModuleNotFoundError says how to install it."""
    try:
        from pydensecrf import densecrf
    except ImportError as error:
        raise ModuleNotFoundError("the CRF needs the package pydensecrf2, which is not installed: pip install ovdense[crf]", name="pydensecrf") from error
    return densecrf


def dense_crf(logit_KHW: Tensor, image_HW3: np.ndarray, settings: CrfSettings | None = None) -> Tensor:
    """Return (K, H, W) probabilities on the CPU after mean-field inference; `image_HW3` uint8 RGB of the logits' size.

    The unary is -log softmax(logits), the probabilities clipped at 1e-5. ModuleNotFoundError says how to install the library.
    """
    settings = settings or CrfSettings()
    k, height, width = logit_KHW.shape
    if image_HW3.dtype != np.uint8 or image_HW3.shape != (height, width, 3):
        raise ValueError(f"the image must be uint8 of shape {(height, width, 3)}, as the logits, got {image_HW3.dtype} {image_HW3.shape}")
    if k == 1:
        return torch.ones(1, height, width)
    densecrf = require_densecrf()
    probability = logit_KHW.detach().float().cpu().softmax(0).numpy().reshape(k, -1)
    crf = densecrf.DenseCRF2D(width, height, k)
    crf.setUnaryEnergy(np.ascontiguousarray(-np.log(np.clip(probability, 1e-5, 1.0))))
    crf.addPairwiseGaussian(sxy=settings.smooth_sxy, compat=settings.smooth_compat)
    # the filter knows no order of colours; the release gives it blue first, and the lattice's rounding follows the order
    bgr = np.ascontiguousarray(image_HW3[:, :, ::-1])
    crf.addPairwiseBilateral(sxy=settings.bilateral_sxy, srgb=settings.bilateral_srgb, rgbim=bgr, compat=settings.bilateral_compat)
    return torch.from_numpy(np.array(crf.inference(settings.iterations), dtype=np.float32).reshape(k, height, width))
