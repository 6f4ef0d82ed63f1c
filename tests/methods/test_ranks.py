"""Two processes that share a batch learn as one process with the whole of it: each trained method, with norms that train and uneven targets."""
from functools import partial

import numpy as np
import pytest
import torch
from torch import distributed, nn

from ovdense.layers.rank_norm import RankBatchNorm, norms_over_ranks
from ovdense.methods.ranks import RankedDataParallel, over_ranks
from tests.ranks import call_on_ranks

STEPS = 3


def desco():
    from tests.methods.desco.test_model import image, target, tiny

    caption = "cat. dog. tie."
    one = partial(target, caption=caption)
    targets = [one(0, boxes=[(4, 4, 40, 40), (30, 10, 80, 60)], labels=[0, 1], spans=(((0, 3),), ((5, 8),))), one(1),
               one(2, boxes=[(10, 10, 60, 60)], labels=[2], spans=(((10, 13),),)), one(3, boxes=[(1, 1, 9, 9)] * 3, labels=[0, 0, 1], spans=(((0, 3),),) * 3)]
    return tiny(), [image(n) for n in range(4)], targets


def mdetr(masks=False):
    from tests.methods.mdetr.tiny import BIRD, DOG, image, target, tiny

    found = [target(0, **DOG), target(1, caption="nothing"), target(2, **BIRD), target(3, **DOG)]
    model = tiny(joined=2, slots_from="proposals", tokens="alignment")
    return model, [image(n) for n in range(4)], found


def denseclip(decoder="open_semantic"):
    from tests.methods.denseclip.tiny import make, targets

    model = make(decoder)
    images = [torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(n)) for n in range(4)]
    label = torch.randint(0, 3, (4, 64, 96), generator=torch.Generator().manual_seed(9))
    label[1, :, 30:] = 255
    label[3] = 255
    found = targets(torch.zeros(4, 3, 64, 96), label=label)
    if decoder == "retina":
        boxes = ([(4, 4, 40, 40), (30, 10, 90, 60)], [], [(10, 10, 60, 60)], [(0, 0, 90, 60)])
        found = [targets(torch.zeros(1, 3, 64, 96), boxes=b, classes=[n % 3 for n in range(len(b))])[0] for b in boxes]
    return model, images, found


def reco_plus():
    from ovdense.methods.reco.plus import RecoPlus
    from ovdense.vision.backbones import TimmBackbone

    torch.manual_seed(0)
    model = RecoPlus(TimmBackbone("resnet18", out_strides=(4, 16), norm_eval=False), classes=["cat", "sofa", "tree"], channels=16, low_channels=8,
                     dilations=(1, 2), dropout=0.0)
    return model, *denseclip()[1:]


def diffusion():
    from ovdense.methods.ovdiff.diffusion import TextToImage

    torch.manual_seed(0)
    model = TextToImage(pipeline=dict(image_px=16, channels=(16, 16), head_dim=8))
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, 3, 16, 16), dtype=np.uint8))
    noise = torch.randn(4, 12, 4, 4, generator=torch.Generator().manual_seed(5))
    model.noise = lambda latent: (torch.arange(100, 900, 200)[model.which], noise[model.which, : latent.shape[1]])
    return model, images, ["a red ring", "", "a blue star", "a cube"]


METHODS = {"DesCo": desco, "MDETR": mdetr, "DenseCLIP": denseclip, "DenseCLIP, closed": partial(denseclip, "semantic"),
           "DenseCLIP, RetinaNet": partial(denseclip, "retina"), "ReCo+": reco_plus, "text to image": diffusion}  # fmt: skip


def trained(make, which: list[int], ranks: bool) -> dict[str, torch.Tensor]:
    """Return what STEPS steps of gradient descent on the images `which` change in the weights and statistics, and the losses."""
    model, images, targets = make()
    for module in model.modules():
        if isinstance(module, nn.Dropout | nn.Dropout2d):
            module.p = 0.0
    before = {k: v.clone() for k, v in model.state_dict().items() if v.is_floating_point()}
    runs = RankedDataParallel(model, sync_norms=True, find_unused_parameters=True) if ranks else model
    model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    losses = []
    for _ in range(STEPS):
        if isinstance(images, torch.Tensor):
            model.which = which
            found = runs(images[which], [targets[n] for n in which])
        else:
            batch = model.data_preprocessor({"images": [images[n] for n in which], "targets": [targets[n] for n in which]}, True)
            found = runs(**batch, mode="loss")
        loss = sum(v.mean() for k, v in found.items() if k.startswith("loss"))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.detach())
    after = model.state_dict()
    return {"losses": torch.stack(losses)} | {k: after[k] - v for k, v in before.items()}


def train_all(out: str) -> None:
    rank = distributed.get_rank()
    torch.save({name: trained(make, [rank, rank + 2], ranks=True) for name, make in METHODS.items()}, f"{out}{rank}")


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    call_on_ranks(train_all, str(folder / "out"), folder=folder)
    return [torch.load(folder / f"out{rank}", weights_only=True) for rank in (0, 1)]


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_two_ranks__learn_as_one_process_with_the_doubled_batch(two_ranks, method):
    whole, ranks = trained(METHODS[method], [0, 2, 1, 3], ranks=False), [r[method] for r in two_ranks]
    torch.testing.assert_close((ranks[0]["losses"] + ranks[1]["losses"]) / 2, whole.pop("losses"), rtol=1e-4, atol=1e-5)
    assert sum(bool(v.any()) for v in whole.values()) > 10, "something was learned"
    scale, weights = max(float(v.norm()) for v in whole.values()), METHODS[method]()[0].state_dict()
    for name, change in whole.items():
        assert torch.equal(ranks[0][name], ranks[1][name]), f"{name}: both ranks have the same weights"
        off = float((ranks[0][name] - change).norm())
        rounding = 2e-3 * float(change.norm()) + 1e-5 * scale + 1e-7 * float(weights[name].norm())  # sums in another order; a weight's own last digit
        assert off <= rounding, f"{name}: off by {off} of {float(change.norm())}"


def norm_and_mean(out: str) -> None:
    """Two norms on uneven batches, forward and backward; a mean of which one rank has nothing."""
    rank = distributed.get_rank()
    x = samples()[rank].requires_grad_()
    norm = nn.BatchNorm2d(3)
    norms_over_ranks(norm)
    y = norm(x)
    (y * weights(y)).sum().backward()
    total, count = (torch.tensor(6.0), torch.tensor(3)) if rank else (torch.tensor(0.0), torch.tensor(0))
    torch.save({"y": y.detach(), "grad": x.grad, "mean": norm.running_mean, "var": norm.running_var, "part": over_ranks(total, count)}, f"{out}{rank}")


def samples():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(n, 3, 4, 5, generator=generator) * 3 + 20 for n in (1, 3)]


def weights(y):
    return torch.arange(y[0].numel(), dtype=torch.float32).view_as(y[0]).sin()


def test_rank_norm__is_batch_norm_of_both_ranks_samples(tmp_path):
    call_on_ranks(norm_and_mean, str(tmp_path / "out"), folder=tmp_path)
    ranks = [torch.load(tmp_path / f"out{rank}", weights_only=True) for rank in (0, 1)]
    x, norm = torch.cat(samples()).requires_grad_(), nn.BatchNorm2d(3)
    y = norm(x)
    (y * weights(y)).sum().backward()
    for name, expected in (("y", y.detach()), ("grad", x.grad)):
        torch.testing.assert_close(torch.cat([r[name] for r in ranks]), expected, rtol=1e-4, atol=1e-5)
    for rank in ranks:
        torch.testing.assert_close(rank["mean"], norm.running_mean)
        torch.testing.assert_close(rank["var"], norm.running_var)
    assert [float(r["part"]) for r in ranks] == [0.0, 4.0], "6 over 3 of both ranks is 2, the mean of 0 and 4"


def test_norms_over_ranks__keep_names_modes_and_activations():
    from timm.layers import BatchNormAct2d

    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), BatchNormAct2d(4), nn.Sequential(nn.BatchNorm2d(4)))
    x, names = torch.randn(2, 3, 8, 8), list(model.state_dict())
    expected = [model.train()(x).detach(), model.eval()(x).detach()]
    torch.manual_seed(0)
    again = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), BatchNormAct2d(4), nn.Sequential(nn.BatchNorm2d(4)))
    assert norms_over_ranks(again) == 3 and list(again.state_dict()) == names and isinstance(again[1], RankBatchNorm)
    assert torch.equal(again.train()(x), expected[0]) and torch.equal(again.eval()(x), expected[1])

    class Other(nn.modules.batchnorm._BatchNorm):
        pass

    with pytest.raises(ValueError, match="sync_norms=False"):
        norms_over_ranks(nn.Sequential(Other(3)))
