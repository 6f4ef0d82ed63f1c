"""CLIP's image towers: weights files, tables of positions, sizes."""
import warnings

import pytest
import torch
from torch import nn

from ovdense.vision.clip import ClipResNet, ClipVit
from ovdense.vision.positions import fit_positions

RESNET = dict(layers=(1, 1, 1, 1), width=8, embed_width=12)
VIT = dict(width=16, layers=4, heads=2, embed_width=12, out_blocks=(0, 1, 2, 3))


def images(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "how, size, want",
    [
        ("interpolate", (2, 2), [[0.0, 1.0], [2.0, 3.0]]),  # its own size: as it is
        ("interpolate", (1, 1), [[1.5]]),
        ("interpolate", (2, 4), [[0.0, 0.25, 0.75, 1.0], [2.0, 2.25, 2.75, 3.0]]),
        ("crop", (1, 2), [[0.0, 1.0]]),
        ("crop", (2, 1), [[0.0], [2.0]]),
        ("crop", (1, 4), [[0.0, 0.25, 0.75, 1.0]]),  # wider than the table: interpolated to 4 x 4, then its top row
    ],
)
def test_fit_positions__small_cases(how, size, want):
    table = torch.cat([torch.tensor([[9.0]]), torch.arange(4.0)[:, None]])
    fitted = fit_positions(table, size, how)
    assert fitted[0].item() == 9 and torch.allclose(fitted[1:, 0].view(size), torch.tensor(want))


def test_fit_positions__says_what_is_wrong():
    with pytest.raises(ValueError, match="square grid, got 4 rows"):
        fit_positions(torch.zeros(4, 2), (2, 2))
    with pytest.raises(ValueError, match='"interpolate" or "crop"'):
        fit_positions(torch.zeros(5, 2), (2, 2), "nearest")


@pytest.mark.parametrize("positions", ["interpolate", "crop"])
@torch.no_grad()
def test_clip_resnet__image_larger_than_the_table(positions):
    tower = ClipResNet(**RESNET, table_size=2, positions=positions).eval()
    dense = tower.dense(images(1, 3, 64, 160))
    assert dense.local.tensor_BCHW.shape == (1, 12, 2, 5) and dense.local.tensor_BCHW.isfinite().all() and dense.level == 3


@torch.no_grad()
def test_towers__a_batch_equals_single_images():
    for tower in (ClipResNet(**RESNET).eval(), ClipVit(**VIT, table_size=3).eval()):
        pair = images(2, 3, 64, 96)
        both, one = tower.dense(pair), tower.dense(pair[1:])
        assert torch.allclose(both.local.tensor_BCHW[1:], one.local.tensor_BCHW, atol=1e-5)
        assert torch.allclose(both.global_BC[1:], one.global_BC, atol=1e-5)


def test_openai_archive__loads_with_the_table_resized(tmp_path):
    source = ClipResNet(**RESNET, table_size=7)

    class Clip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.visual, self.positional_embedding = source.net, nn.Parameter(torch.zeros(77, 4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.visual(x)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tracing
        torch.jit.trace(Clip().eval(), images(1, 3, 224, 224), check_trace=False).save(str(tmp_path / "clip.pt"))
    tower = ClipResNet(**RESNET, table_size=16, weights=tmp_path / "clip.pt")
    assert torch.equal(tower.net.layer4[0].conv1.weight, source.net.layer4[0].conv1.weight)
    assert torch.equal(tower.net.attnpool.positional_embedding, fit_positions(source.net.attnpool.positional_embedding, (16, 16)))
    assert ClipResNet(**RESNET, pool=False, weights=tmp_path / "clip.pt").net.attnpool is None
    with pytest.raises(ValueError, match="does not fit"):
        ClipResNet(**RESNET | dict(layers=(1, 2, 1, 1)), weights=tmp_path / "clip.pt")


def test_towers__without_the_text_side_say_so():
    with pytest.raises(ValueError, match="pool=True"):
        ClipResNet(**RESNET, pool=False).dense(images(1, 3, 32, 32))
    with pytest.raises(ValueError, match="embeddings=True"):
        ClipVit(**VIT, embeddings=False).dense(images(1, 3, 32, 32))


def test_clip_vit__drop_path_only_in_training():
    tower = ClipVit(**VIT, drop_path_rate=0.9, table_size=2)
    pair = images(2, 3, 32, 32)
    assert not torch.equal(tower.train().dense(pair).global_BC, tower.dense(pair).global_BC)
    assert torch.equal(tower.eval().dense(pair).global_BC, tower.dense(pair).global_BC)


@pytest.mark.parametrize("patch, size", [(16, (32, 48)), (8, (32, 48))])
def test_clip_vit__pyramid_of_both_patch_sizes(patch, size):
    maps = ClipVit(patch, **VIT, table_size=2)(images(2, 3, *size))
    assert [tuple(m.tensor_BCHW.shape[2:]) for m in maps] == [(size[0] // s, size[1] // s) for s in (4, 8, 16, 32)]


def test_towers__name_an_image_that_is_too_thin():
    for tower, least in ((ClipResNet(**RESNET), 31), (ClipVit(**VIT, table_size=2), 32)):
        for verb in (tower.forward, tower.dense):
            with pytest.raises(ValueError, match=rf"at least {least} pixels .*\(20, 64\)"):
                verb(images(1, 3, 20, 64))
        assert tower.eval().dense(images(1, 3, least, 64)).local.tensor_BCHW.isfinite().all()
