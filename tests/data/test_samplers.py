"""Order, resume and partition of the endless samplers."""
from itertools import islice

import numpy as np
import pytest
from mmengine.runner import Runner
from torch.utils.data import Dataset

from ovdense.data.samplers import ClassAwareSampler, ResumableInfiniteSampler, repeat_factors

CLASSES = [[0]] * 7 + [[0, 1]] * 2 + [[0, 2]] + [[]]  # class 2 in one image of 11


class Few(Dataset):
    def __len__(self):
        return len(CLASSES)

    def __getitem__(self, index):
        return index

    def get_cat_ids(self, index):
        return CLASSES[index]


def take(sampler, count):
    return list(islice(iter(sampler), count))


MAKERS = [
    lambda **kw: ResumableInfiniteSampler(Few(), **{"seed": 5, **kw}),
    lambda **kw: ResumableInfiniteSampler(Few(), **{"seed": 5, "shuffle": False, **kw}),
    lambda **kw: ClassAwareSampler(Few(), **{"repeat_thr": 0.5, "seed": 5, **kw}),
    lambda **kw: ClassAwareSampler(Few(), **{"repeat_thr": 0.5, "seed": 5, "shuffle": False, **kw}),
]


@pytest.mark.parametrize("make", MAKERS)
def test_resume__goes_on_exactly(make):
    whole = take(make(), 100)
    for drawn in (0, 1, 10, 11, 12, 57):
        sampler = make()
        sampler.skip(drawn)
        assert take(sampler, 30) == whole[drawn : drawn + 30] == take(make(start=drawn), 30)
    assert take(make(), 100) == whole


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks__share_the_stream_without_overlap(make, world_size):
    whole = take(make(), 60)
    for rank in range(world_size):
        mine = make(rank=rank, world_size=world_size)
        assert take(mine, 20) == whole[rank::world_size][:20]
        assert take(make(rank=rank, world_size=world_size, start=13), 7) == whole[rank::world_size][13:20]


def test_passes__hold_every_image_once_with_its_own_draw():
    n = len(CLASSES)
    drawn = take(ResumableInfiniteSampler(Few(), seed=0), 3 * n)
    for number in range(3):
        index, draw = np.array(drawn[number * n : (number + 1) * n]) % n, np.array(drawn[number * n : (number + 1) * n]) // n
        assert sorted(index) == list(range(n)) and set(draw) == {number}
    assert drawn[:n] != [d - n for d in drawn[n : 2 * n]]
    assert take(ResumableInfiniteSampler(Few(), shuffle=False, seed=0), n + 2) == [*range(n), n, n + 1]
    assert take(ResumableInfiniteSampler(Few(), seed=1), n) != drawn[:n]


def test_repeat_factors__by_hand():
    # f = 10/11, 2/11, 1/11; r = max(1, sqrt(t / f)) with t = 0.5
    factors = repeat_factors(CLASSES, 0.5)
    assert np.allclose(factors, [1.0] * 7 + [np.sqrt(0.5 * 11 / 2)] * 2 + [np.sqrt(0.5 * 11)] + [1.0])
    assert np.allclose(repeat_factors(CLASSES, 0.001), 1)
    assert repeat_factors([[]], 0.5).tolist() == [1.0]


def test_class_aware__rare_images_come_as_often_as_their_factor():
    sampler = ClassAwareSampler(Few(), repeat_thr=0.5, seed=0)
    passes = [sampler.pass_order(p) for p in range(400)]
    assert all(sampler.pass_length(p) == len(order) for p, order in enumerate(passes))
    drawn = np.concatenate(passes)
    assert len(set(drawn.tolist())) == len(drawn)  # each time another draw, hence another augmentation
    counts = np.bincount(drawn % len(CLASSES), minlength=len(CLASSES)) / len(passes)
    assert np.allclose(counts, sampler.factors, atol=0.08)
    assert (counts[:7] == 1).all()


def test_errors__say_what_must_be():
    class Empty(Few):
        def __len__(self):
            return 0

    with pytest.raises(ValueError, match="at least one image"):
        ResumableInfiniteSampler(Empty(), seed=0)
    with pytest.raises(ValueError, match=r"repeat_thr must be a share of images in \(0, 1\], got 0"):
        ClassAwareSampler(Few(), repeat_thr=0, seed=0)
    with pytest.raises(ValueError, match="at least 0, got -1"):
        ResumableInfiniteSampler(Few(), seed=0).skip(-1)
    with pytest.raises(ValueError, match="rank must lie in 0..1, got 2"):
        ResumableInfiniteSampler(Few(), seed=0, rank=2, world_size=2)


@pytest.mark.parametrize("sampler", [dict(type=ResumableInfiniteSampler), dict(type=ClassAwareSampler, repeat_thr=0.5), dict(type="ovdense.ClassAwareSampler")])
def test_build_dataloader__of_mmengine_takes_them(sampler):
    cfg = dict(batch_size=4, num_workers=0, dataset=Few(), sampler=sampler, collate_fn=dict(type=list))
    loader = Runner.build_dataloader(cfg, seed=9)
    assert len(next(iter(loader))) == 4
    again = Runner.build_dataloader(cfg, seed=9)
    assert [next(iter(again)) for _ in range(2)][0] == next(iter(loader))
