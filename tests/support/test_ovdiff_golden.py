"""Parity of masks, prefilter, refinement, prototypes and scores with the published code; all numbers come from the cases' files."""
import numpy as np
import pytest
import torch

from ovdense.layers.pamr import refine
from ovdense.support.masks import erode, masks_from_instances, otsu_thresholds, rank_candidates, spread_heat, unit_range
from ovdense.support.prefilter import best_subset, likely_classes
from ovdense.support.prototypes import PrototypeBuilder, background_bank, foreground_bank, prototype_bank, score_places, unit_rows


def case(golden_root, name):
    folder = golden_root / "ovdiff" / name
    return dict(np.load(folder / "inputs.npz")), dict(np.load(folder / "outputs.npz"))


def unpack(bits, count):
    """Return (count, S, S) bool of packed square masks."""
    flat = np.unpackbits(bits).astype(bool)
    side = int(round((flat.size / count) ** 0.5)) if count else 0
    return torch.from_numpy(flat.reshape(count, side, side)) if count else None


def test_masks__equal_the_published_code(golden_root):
    given, want = case(golden_root, "masks")
    heat_B1HW = torch.from_numpy(given["heatmaps"])
    side = unpack(want["fg0"], 1).shape[-1]
    heat_BHW = spread_heat(heat_B1HW[:, 0], (side, side))
    low, high = otsu_thresholds(unit_range(heat_B1HW[:, 0]))
    assert len(heat_BHW) > 1
    for b, heat_HW in enumerate(heat_BHW):
        count = int(given[f"n_instances{b}"])
        instances = unpack(given[f"instances{b}"], count) if count else torch.zeros(0, side, side, dtype=torch.bool)
        masks = masks_from_instances(heat_HW, instances)
        expected = {key: unpack(want[f"{key}{b}"], 1)[0] for key in ("fg", "bg", "bg_thresh", "bg_pp", "otsu_fg", "otsu_bg")}
        assert torch.equal(masks.foreground_HW, expected["fg"])
        assert torch.equal(masks.background_HW, expected["bg_pp"])
        assert torch.equal(heat_HW > high, expected["otsu_fg"]) and torch.equal(heat_HW < low, expected["otsu_bg"])
        if count:
            rank_HW, _ = rank_candidates(heat_HW, instances)
            assert torch.equal(rank_HW == rank_HW.max(), expected["bg"])
            assert torch.equal(erode(expected["bg_thresh"]), expected["bg_pp"])


def test_prefilter__equals_the_published_code(golden_root):
    given, want = case(golden_root, "prefilter")
    classes, prompts = given["classes"].tolist(), given["prompts"].tolist()
    row_of = dict(zip(prompts, torch.from_numpy(given["prompt_embeddings"])))
    class_KD = torch.stack([row_of[f"a {c}"] for c in classes])
    number = sum(key.startswith("topk") for key in given)
    assert number > 0
    for n in range(number):
        image_D, top_k = torch.from_numpy(given[f"image_embedding{n}"]), int(given[f"topk{n}"])
        cosine_K = torch.nn.functional.normalize(class_KD, dim=1) @ torch.nn.functional.normalize(image_D, dim=0)
        first_K, _ = likely_classes(cosine_K, top_k)
        assert first_K.int().tolist() == want[f"first_stage{n}"].ravel().tolist()

        def embed(asked, far_D=-image_D):  # subsets whose prompt the case does not list cannot be the best
            return torch.stack([row_of.get(p, far_D) for p in asked])

        assert list(best_subset(image_D, classes, class_KD, embed, top_k)) == sorted(want[f"selected{n}"].ravel().tolist())


@pytest.mark.parametrize("mask, output, settings", [
    ("pamr_mask", "pamr", {}), ("pamr_mask_small", "pamr_small_mask", {}), ("pamr_mask", "pamr_1iter_dil12", {"iterations": 1, "dilations": (1, 2)}),
])
def test_pamr__equals_the_published_code(golden_root, mask, output, settings):
    given, want = case(golden_root, "parts")
    refined = refine(torch.from_numpy(given["pamr_image"]), torch.from_numpy(given[mask]), **settings, block=2)
    assert np.abs(refined.numpy() - want[output]).max() < 1e-5


def classes_of(given):
    """Return (classes in the case's order, extractors, classes that are stuff)."""
    keys = [k.split("__") for k in given if k.endswith("__feats")]
    return list(dict.fromkeys(c for _, c, _ in keys)), list(dict.fromkeys(e for e, _, _ in keys))


def built(given, extractor, name):
    features = torch.from_numpy(given[f"{extractor}__{name}__feats"])
    builder = PrototypeBuilder(num_parts=len(given[f"{extractor}__{name}__kmeans_init_fg"]), memory_bytes=2**10)
    for feat_CHW, fore, back in zip(features, given[f"{name}__fg_mask"], given[f"{name}__bg_mask"]):
        builder.add(feat_CHW, torch.from_numpy(fore > 0), torch.from_numpy(back > 0))
    return builder.finish(tuple(torch.from_numpy(given[f"{extractor}__{name}__kmeans_init_{region}"]) for region in ("fg", "bg")))


def stuff_of(want, extractor, names):
    """Return which classes are stuff: those without background rows in the case's banks."""
    return [len(want[f"{extractor}__{n}__bank_bg"]) == 0 for n in names]


@pytest.fixture(scope="module")
def prototypes_case(golden_root):
    given, want = case(golden_root, "prototypes")
    names, extractors = classes_of(given)
    return given, want, names, {e: [built(given, e, n) for n in names] for e in extractors}


def test_prototypes__equal_the_analytic_case(prototypes_case):
    _, want, names, found = prototypes_case
    for extractor, classes in found.items():
        for name, got in zip(names, classes):
            key = f"{extractor}__{name}__"
            for region, end in ((got.foreground, ""), (got.background, "_bg")):
                assert np.abs(region.class_1C[0].numpy() - want[f"{key}proto{end}"]).max() < 1e-5
                instances = want[f"{key}ind{end}"]
                instances = instances[np.isfinite(instances).all(1)]
                assert region.instance_NC.shape == instances.shape and np.abs(region.instance_NC.numpy() - instances).max() < 1e-5
                assert np.abs(region.part_KC.numpy() - want[f"{key}kmeans{end}"]).max() < 1e-5


def test_banks__equal_the_analytic_case(prototypes_case):
    _, want, names, found = prototypes_case
    for extractor, classes in found.items():
        banks = foreground_bank(classes), background_bank(classes, stuff_of(want, extractor, names))
        for bank, end in zip(banks, ("fg", "bg")):
            for name, rows in zip(names, bank):
                expected = want[f"{extractor}__{name}__bank_{end}"]
                assert rows.shape == expected.shape and (not len(rows) or np.abs(rows.numpy() - expected).max() < 1e-5)


def test_scores__equal_the_analytic_case(prototypes_case):
    given, want, names, found = prototypes_case
    total = 0
    for extractor, classes in found.items():
        bank = prototype_bank(foreground_bank(classes), background_bank(classes, stuff_of(want, extractor, names)))
        query_HWC = torch.from_numpy(given[f"{extractor}__query"])
        places = unit_rows(query_HWC.flatten(0, 1))
        for key in [k for k in want if k.startswith(f"{extractor}__score_")]:
            off = key.removeprefix(f"{extractor}__score_").removeprefix("no")
            score = score_places(places, bank, torch.tensor([n != off for n in names])).T.unflatten(1, query_HWC.shape[:2])
            assert np.abs(score.numpy() - want[key]).max() < 1e-5
            assert_labels(score, want[key.replace("score", "label")])
            total = total + score if off == "all" else total
    [key] = [k for k in want if k.startswith("ensemble_score_")]
    mean = torch.nn.functional.interpolate((total / len(found))[None], size=want[key].shape[1:], mode="bilinear")[0].clamp(-1, 1)
    assert np.abs(mean.numpy() - want[key]).max() < 1e-5
    assert_labels(mean, want[key.replace("score", "label")])


def assert_labels(score_KHW, label_HW):
    """Compare argmax over positive scores where the two best are not equal."""
    score = score_KHW.clamp(min=0)
    best = score.topk(2, 0).values
    sure = (best[0] - best[1] > 1e-5).numpy()
    assert sure.mean() > 0.5 and (score.argmax(0).numpy() == label_HW)[sure].all()
