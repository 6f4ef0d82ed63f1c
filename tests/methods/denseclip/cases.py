"""Reading DenseCLIP's parity cases: every number comes from the case's own files."""
import ast
import json
import re
from pathlib import Path

import numpy as np
import torch

from ovdense.methods.denseclip.convert import convert_published
from tests.golden import load_fill


class Case:
    """One folder of golden/denseclip: `about` the README, `seed`, `kwargs` of its class, `state` the filled weights."""

    def __init__(self, golden_root: Path, name: str) -> None:
        self.root, self.folder = golden_root, golden_root / "denseclip" / name
        self.about = (self.folder / "README.md").read_text()
        self.seed = int(re.search(r"seed\s*=\s*(\d+)", self.about)[1])
        self.inputs, self.outputs = ({k: torch.from_numpy(np.asarray(v)) for k, v in np.load(self.folder / f"{n}.npz").items()} for n in ("inputs", "outputs"))

    @property
    def kwargs(self) -> dict:
        return self.kwargs_of("")

    def kwargs_of(self, kind: str) -> dict:
        """Return the arguments in the README of the class `kind` (the first, if it is empty)."""
        return ast.literal_eval(re.search(rf"{kind}\(\*\*(\{{.*?\}})\)", self.about)[1])

    def json(self, name: str):
        return json.loads((self.folder / name).read_text())

    def fill(self, spec: str | dict = "spec.json") -> dict[str, torch.Tensor]:
        state = load_fill(self.root).fill(self.folder / spec if isinstance(spec, str) else spec, seed=self.seed)
        scales = self.folder / "scales.json"
        for name, factor in json.loads(scales.read_text()).items() if scales.exists() else ():
            if name in state:
                state[name] = state[name] * factor
        return state

    def tower(self) -> dict[str, torch.Tensor]:
        """Return the filled weights of an image tower under our names."""
        return {k.removeprefix("backbone."): v for k, v in convert_published({f"backbone.{k}": v for k, v in self.fill().items()}).items()}


def close(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float = 2e-5) -> bool:
    """Return whether the two have one shape and differ by no more than `tolerance` x the largest absolute value."""
    assert ours.shape == theirs.shape, f"{tuple(ours.shape)} for {tuple(theirs.shape)}"
    return bool((ours.detach().double() - theirs.double()).abs().max() <= tolerance * theirs.double().abs().max())
