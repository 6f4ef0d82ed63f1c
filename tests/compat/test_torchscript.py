"""TorchScript archives read as data: the tensors of OpenAI's CLIP files without their program."""
import pickle
import zipfile

import pytest
import torch
from torch import nn

from ovdense.compat.torchscript import is_torchscript, torchscript_tensors
from ovdense.compat.weights import read_state_dict


class Tiny(nn.Module):
    """Nested, with a buffer, a scalar, a half-precision and a transposed parameter, as CLIP's archives have them."""

    def __init__(self) -> None:
        super().__init__()
        self.visual = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.logit_scale = nn.Parameter(torch.tensor(4.6))
        self.small = nn.Parameter(torch.randn(3, 5).half())
        self.register_buffer("turned", torch.arange(6).view(2, 3).T)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.visual(x)


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    path = tmp_path_factory.mktemp("archives") / "tiny.pt"
    torch.jit.trace(Tiny().eval(), torch.randn(1, 3, 8, 8)).save(str(path))
    return path


@pytest.mark.filterwarnings("ignore:.*jit.*:FutureWarning", "ignore:.*jit.*:DeprecationWarning")
def test_archive__gives_the_tensors_that_torch_reads(archive):
    ours, theirs = torchscript_tensors(archive), torch.jit.load(str(archive)).state_dict()
    assert ours.keys() == theirs.keys() and len(ours) > 8
    assert all(ours[name].dtype == value.dtype and torch.equal(ours[name], value) for name, value in theirs.items())
    assert read_state_dict(archive).keys() == theirs.keys()


def test_plain_checkpoint__is_no_archive(tmp_path):
    torch.save(Tiny().state_dict(), tmp_path / "plain.pt")
    assert not is_torchscript(tmp_path / "plain.pt")
    assert "visual.0.weight" in read_state_dict(tmp_path / "plain.pt")


def test_archive__nothing_in_it_is_called(archive, tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("called",))

    bad = tmp_path / "bad.pt"
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(bad, "w") as target:
        for name in source.namelist():
            target.writestr(name, pickle.dumps(Evil()) if name.endswith("/data.pkl") else source.read(name))
    with pytest.raises(ValueError, match="tensors only, got builtins.print"):
        read_state_dict(bad)
