"""Co-segmentation against the published arithmetic, and what must not change it."""
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ovdense.methods.reco.cosegment import best_partners, class_scores, context_weights, cosegment, patch_weights, text_attention

CONTEXTS = ("tree", "sky", "building", "road", "person")


@pytest.fixture
def case(golden_root):
    folder = golden_root / "reco" / "cosegment"
    return tuple({k: torch.from_numpy(z[k]) for k in z.files} for z in (np.load(folder / "inputs.npz"), np.load(folder / "outputs.npz")))


def runs(wanted: dict) -> list[tuple[str, str, str, bool, str]]:
    """Return (stem of the outputs, window, features, weighted, reference) of each run in the file."""
    found = []
    for stem in sorted({k.removesuffix("__ref") for k in wanted if k.endswith("__ref")}):
        window, bare = ("image", stem.removeprefix("paper_")) if stem.startswith("paper_") else ("published", stem)
        features, *rest = bare.split("_")
        found.append((stem, window, features, "w" in rest[:1], rest[1] if len(rest) > 1 else "avg"))
    return found


@pytest.mark.parametrize("block", [7, 2**20])
def test_cosegment__gives_the_published_grids_seeds_and_references(case, block):
    given, wanted = case
    cases = runs(wanted)
    assert {c[1] for c in cases} == {"published", "image"} and {c[4] for c in cases} == {"avg", "weighted", "winner"}
    for stem, window, features, weighted, reference in cases:
        feat, weight = given[f"{features}_features"], given[f"{features}_weights"] if weighted else None
        grid = best_partners(feat, weight, window=window, block=block)
        torch.testing.assert_close(grid, wanted[f"{stem}__adj_max_grid"], atol=1e-6, rtol=0, msg=stem)
        got = cosegment(feat, weight, window=window, reference=reference, block=block)
        torch.testing.assert_close(got.support_NHW.flatten(), wanted[f"{stem}__avg_grid"], atol=1e-6, rtol=0, msg=stem)
        assert torch.equal(got.seed_yx_N2, wanted[f"{stem}__seed_yx"]), stem
        torch.testing.assert_close(got.reference_C, wanted[f"{stem}__ref"], atol=1e-6, rtol=0, msg=stem)


def test_cosegment__finds_the_common_object_not_the_stronger_distractor(case):
    given, _ = case
    for window in ("published", "image"):
        assert torch.equal(cosegment(given["struct_features"], window=window).seed_yx_N2, given["struct_object_yx"])


def test_weights__give_the_published_references_of_contexts_and_classes(case):
    stems = {k.partition("__")[0] for k in case[1] if k.startswith("ta")}
    assert stems == {"ta1_ce1", "ta1_ce0", "ta0_ce1"}  # the release refuses to run without both
    for stem in stems:
        check_references(*case, stem, attend=stem[2] == "1", eliminate=stem[-1] == "1")


def check_references(given, wanted, stem, attend, eliminate):

    def reference(name: str, contexts) -> torch.Tensor:
        feat = given[f"ctx_enc__{name}"]
        attention = text_attention(given[f"ctx_dense__{name}"], given[f"ctx_text__{name}"], feat.shape[2:]) if attend else None
        for key, got in (("text_attention", attention), ("context_weights", context_weights(feat, torch.stack(contexts)) if contexts else None)):
            if f"{stem}__{key}__{name}" in wanted:
                torch.testing.assert_close(got, wanted[f"{stem}__{key}__{name}"], atol=1e-6, rtol=0)
        return cosegment(feat, patch_weights(feat, attention, contexts)).reference_C

    contexts = []
    for name in CONTEXTS if eliminate else ():
        contexts.append(reference(name, contexts))
        torch.testing.assert_close(contexts[-1], wanted[f"{stem}__context_ref__{name}"], atol=1e-6, rtol=0, msg=name)
    targets = [k.rpartition("__")[2] for k in wanted if k.startswith(f"{stem}__ref__")]
    own = [t for t in targets if f"ctx_enc__{t}" in given and not (eliminate and t in CONTEXTS)]
    assert own
    for name in own:
        torch.testing.assert_close(reference(name, contexts), wanted[f"{stem}__ref__{name}"], atol=1e-6, rtol=0, msg=name)


def test_class_scores__are_the_published_ones(golden_root):
    folder = golden_root / "reco" / "predict"
    given, wanted = ({k: torch.from_numpy(z[k]) for k in z.files} for z in (np.load(folder / "inputs.npz"), np.load(folder / "outputs.npz")))
    size = tuple(given["image_hw"].tolist())
    feat, reference, dense, text = (given[k] for k in ("query_features", "ref_features", "dense_features", "text_features"))
    both, alone = class_scores(feat, reference, size, dense, text), class_scores(feat, reference, size)
    torch.testing.assert_close(both, wanted["score"], atol=1e-6, rtol=0)
    torch.testing.assert_close(alone, wanted["score_without_denseclip"], atol=1e-6, rtol=0)
    torch.testing.assert_close(text_attention(dense, text, size), wanted["text_attention"], atol=1e-6, rtol=0)
    torch.testing.assert_close(both.log_softmax(1), wanted["log_softmax"], atol=1e-6, rtol=0)
    for score, key in ((both, "argmax"), (alone, "argmax_without_denseclip")):
        two = score.topk(2, dim=1).values
        clear = two[:, 0] - two[:, 1] > 1e-5
        assert torch.equal(score.argmax(1)[clear], wanted[key][clear]) and clear.float().mean() > 0.99
    with pytest.raises(ValueError, match="text vectors"):
        class_scores(feat, reference, size, dense)


def dense_grid(feat, weight):
    """Return the grid of window "image" by the full matrix."""
    n, c, h, w = feat.shape
    unit = F.normalize(feat.permute(0, 2, 3, 1).reshape(-1, c), dim=1)
    return ((unit @ unit.T) * weight.flatten()).view(n * h * w, n, h * w).amax(2)


@pytest.mark.parametrize("shape", [(1, 3, 2, 2), (2, 5, 1, 1), (3, 4, 5, 2), (7, 6, 3, 3)])
@pytest.mark.parametrize("block", [1, 10, 60, 10**6])
def test_best_partners__blocks_change_nothing(shape, block):
    generator = torch.Generator().manual_seed(0)
    feat, weight = torch.randn(shape, generator=generator), torch.rand(shape[0], *shape[2:], generator=generator)
    weight[0, 0, 0] = 0  # a weight of nothing: the patch still finds partners, and is none itself
    torch.testing.assert_close(best_partners(feat, weight, window="image", block=block), dense_grid(feat, weight), atol=1e-6, rtol=1e-5)


def test_cosegment__order_of_images_only_permutes_the_seeds_in_the_papers_window():
    generator = torch.Generator().manual_seed(1)
    feat = torch.randn(5, 8, 4, 4, generator=generator)
    order = torch.tensor([3, 0, 4, 1, 2])
    one, other = cosegment(feat, window="image"), cosegment(feat[order], window="image")
    assert torch.equal(one.seed_yx_N2[order], other.seed_yx_N2)
    torch.testing.assert_close(one.reference_C, other.reference_C)


def test_cosegment__one_image_and_equal_patches_take_the_first():
    got = cosegment(torch.ones(1, 3, 2, 2))
    assert got.seed_yx_N2.tolist() == [[0, 0]]
    torch.testing.assert_close(got.reference_C, torch.full((3,), 3**-0.5))


@pytest.mark.parametrize(
    "feat, weight, kwargs, message",
    [
        (torch.ones(2, 3, 2), None, {}, r"shape \(N, C, H, W\)"),
        (torch.ones(0, 3, 2, 2), None, {}, "hold something"),
        (torch.ones(2, 3, 2, 2), torch.ones(2, 3, 2), {}, "one a patch"),
        (torch.ones(2, 3, 2, 2), torch.full((2, 2, 2), 1.5), {}, "0..1"),
        (torch.ones(2, 3, 2, 2), None, {"window": "paper"}, "published, image"),
        (torch.ones(2, 3, 2, 2), None, {"reference": "mean"}, "avg, weighted"),
        (torch.zeros(2, 3, 2, 2), None, {}, "blank"),
    ],
)
def test_cosegment__bad_input(feat, weight, kwargs, message):
    with pytest.raises(ValueError, match=message):
        cosegment(feat, weight, **kwargs)


def test_text_attention__a_centre_is_where_it_is_one_half():
    place = torch.tensor([[0.7, (1 - 0.7**2) ** 0.5], [1.0, 0.0]]).T[None, :, None]  # cosines 0.7 and 1 with the text
    text = torch.tensor([1.0, 0.0])
    torch.testing.assert_close(text_attention(place, text, (1, 2), 20.0, 0.7)[0, 0], torch.tensor([0.0, 6.0]).sigmoid())
    torch.testing.assert_close(text_attention(place, text, (1, 2)), text_attention(place, text, (1, 2), 10.0, 0.0))
    ones = torch.ones(1, 2, 1, 2)
    with_centre = class_scores(ones, torch.ones(1, 2) / 2**0.5, (1, 2), place, text[None], temperature=20.0, centre=0.7)
    torch.testing.assert_close(with_centre[0, 0, 0], torch.tensor(1.0).sigmoid() * torch.tensor([0.0, 6.0]).sigmoid())


def test_cosegment__seeds_stay_where_they_may_be():
    feat = torch.randn(3, 6, 4, 5, generator=torch.Generator().manual_seed(0))
    free = cosegment(feat)
    inside = torch.ones(3, 4, 5, dtype=torch.bool)
    assert torch.equal(cosegment(feat, inside_NHW=inside).reference_C, free.reference_C)
    for n, (y, x) in enumerate(free.seed_yx_N2.tolist()):
        inside[n, y, x] = False
    other = cosegment(feat, inside_NHW=inside)
    assert (other.seed_yx_N2 != free.seed_yx_N2).any(1).all() and torch.equal(other.support_NHW, free.support_NHW)
    best = free.support_NHW.masked_fill(~inside, -torch.inf).flatten(1).argmax(1)
    assert torch.equal(other.seed_yx_N2, torch.stack([best // 5, best % 5], 1))
    inside[1] = False
    with pytest.raises(ValueError, match="every image must have a patch"):
        cosegment(feat, inside_NHW=inside)
