"""Does an exported file give what its model gives? The largest difference of each output, and the time of both."""
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ovdense.export.networks import network_of
from ovdense.export.running import ExportedModel


@torch.no_grad()
def parity(model: Any, path: str | Path, images: np.ndarray | None = None, *, turns: int = 3) -> dict[str, Any]:
    """Return, for the file of a model whose vocabulary is still the file's: `largest_difference` of each output, `seconds` (median of `turns`) of both.

    `images`: (1, 3, H, W) RGB of 0..255 of the file's size; None: smooth random colours. The model runs as it does here, not as it was exported:
    what the export changed (a resize as two matrices) is in the difference.
    """
    model = getattr(model, "model", model).eval()
    exported = ExportedModel(path)
    if images is None:
        small = torch.rand(1, 3, 6, 8, generator=torch.Generator().manual_seed(0))
        images = (torch.nn.functional.interpolate(small, size=exported.size_hw, mode="bicubic").clamp(0, 1) * 255).numpy()
    network, _ = network_of(model, exported.about["folded"], exported.size_hw)
    device = model.data_preprocessor.mean.device
    given = [torch.from_numpy(np.asarray(images, dtype=np.float32)).to(device)] + ([] if network.text is None else [network.text])
    ours, theirs = [], []
    for _ in range(max(1, turns)):
        start = time.perf_counter()
        expected = network.eval()(*given)
        ours.append(time.perf_counter() - start)
        start = time.perf_counter()
        found = exported.outputs(images)
        theirs.append(time.perf_counter() - start)
    expected = expected if isinstance(expected, tuple) else (expected,)
    off = {name: float(np.abs(found[name] - want.cpu().numpy()).max()) for name, want in zip(found, expected, strict=True)}
    size = float(np.max([np.abs(v).max() for v in found.values()]))
    return {"largest_difference": off, "largest_value": size, "seconds": {"model": float(np.median(ours)), "file": float(np.median(theirs))},
            "mib": Path(path).stat().st_size / 2**20, "size_hw": exported.size_hw}
