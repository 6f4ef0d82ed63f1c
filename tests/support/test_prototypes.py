"""K-means and prototypes where the published case does not look: memory, order, empty regions."""
import pytest
import torch

from ovdense.support.kmeans import RowStore, cluster, seed_centres
from ovdense.support.masks import masks_from_heat, masks_from_instances
from ovdense.support.prototypes import PrototypeBuilder, background_bank, foreground_bank, prototype_bank, score_places


def store(rows, memory):
    out = RowStore(rows.shape[1], memory)
    for part in rows.split(7):
        out.append(part)
    return out


def clouds(number=4, each=50, width=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    centres = 20 * torch.randn(number, width, generator=generator)
    return centres, (centres[:, None] + torch.randn(number, each, width, generator=generator)).flatten(0, 1)


def test_cluster__finds_clouds_and_the_disk_changes_nothing():
    centres, rows = clouds()
    in_memory, on_disk = cluster(store(rows, 2**30), 4, seed=1), cluster(store(rows, 64), 4, seed=1)
    assert torch.equal(in_memory, on_disk)
    assert torch.cdist(centres, in_memory).min(1).values.max() < 1


def test_cluster__is_as_good_as_scikit_learn():
    from sklearn.cluster import KMeans

    rows = torch.randn(600, 8, generator=torch.Generator().manual_seed(3))
    ours = torch.cdist(rows, cluster(store(rows, 64), 12)).min(1).values.pow(2).sum()
    assert float(ours) < 1.05 * KMeans(12, random_state=0, n_init="auto").fit(rows.numpy()).inertia_


@pytest.mark.parametrize("rows, clusters, found", [(torch.zeros(0, 3), 4, 0), (torch.ones(5, 3), 4, 1), (torch.eye(3), 8, 3)])
def test_cluster__of_few_or_equal_rows(rows, clusters, found):
    assert cluster(store(rows, 64) if len(rows) else RowStore(3), clusters).shape == (found, 3)


def test_seed_centres__are_rows_and_different():
    _, rows = clouds()
    chosen = seed_centres(rows, 10, torch.Generator().manual_seed(0))
    assert len(chosen.unique(dim=0)) == 10 and (chosen[:, None] == rows[None]).all(-1).any(1).all()


def test_builder__an_image_without_foreground_brings_no_background():
    builder = PrototypeBuilder(num_parts=0)
    feat, nothing, everything = torch.rand(3, 4, 4), torch.zeros(8, 8, dtype=torch.bool), torch.ones(8, 8, dtype=torch.bool)
    assert builder.add(feat, everything, nothing) and not builder.add(feat, nothing, everything)
    found = builder.finish()
    assert found.used == (0,) and len(found.background.rows()) == 0 and len(found.foreground.rows()) == 2
    with pytest.raises(ValueError, match="none of 1 has"):
        empty = PrototypeBuilder()
        empty.add(feat, nothing, everything)
        empty.finish()


def test_masks__instances_that_cover_the_image_do_not_hide_it():
    """In the release the empty rest of the image weighs NaN and comes first, and nothing is foreground."""
    heat = torch.linspace(0, 1, 16).expand(16, 16)
    left, right = torch.zeros(2, 16, 16, dtype=torch.bool)
    left[:, :8], right[:, 8:] = True, True
    masks = masks_from_instances(heat, torch.stack([left, right]))
    assert torch.equal(masks.foreground_HW, right) and masks.background_HW.any() and not (masks.background_HW & right).any()


def test_masks__no_instance_is_heat_alone():
    heat = torch.rand(8, 8, generator=torch.Generator().manual_seed(0))
    found, alone = masks_from_instances(heat, torch.zeros(0, 8, 8, dtype=torch.bool)), masks_from_heat(heat)
    assert torch.equal(found.foreground_HW, alone.foreground_HW) and torch.equal(found.background_HW, alone.background_HW)


def bank_of(number_of_background):
    """Return a bank of three classes; in the release one with more background than foreground rows could not be stacked."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for k in range(3):
        builder = PrototypeBuilder(num_parts=0)
        for n in range(1 + (number_of_background if k == 0 else 0)):
            inside = torch.zeros(4, 4, dtype=torch.bool)
            inside[0, n % 4] = True
            builder.add(torch.randn(5, 4, 4, generator=generator), inside, ~inside)
        found.append(builder.finish())
    return prototype_bank(foreground_bank(found), background_bank(found, [False, False, True]))


def test_score__inactive_classes_take_their_background_along():
    bank = bank_of(3)
    places = torch.nn.functional.normalize(torch.randn(20, 5, generator=torch.Generator().manual_seed(1)), dim=1)
    both, one = (score_places(places, bank, torch.tensor(active)) for active in ([True, True, False], [False, True, False]))
    assert (one[:, 1] == -1).all() and (one[:, 3] == -1).all() and torch.allclose(one[:, 2], both[:, 2], atol=1e-6)
    assert (one[:, 0] <= both[:, 0] + 1e-6).all() and (one[:, 0] < both[:, 0] - 1e-3).any()
    assert (score_places(places, bank, torch.tensor([False, False, True]))[:, 0] == -1).all()  # stuff has no background rows
