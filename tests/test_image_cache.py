import numpy as np
import pytest
import torch
from PIL import Image

import ovdense
from ovdense.data.transforms import ResizeShortestEdge
from ovdense.image_cache import ImageFeatureCache, _image_tensors

CONFIGS = {"maskclip_voc": {"model.encoder.short_sides": (64,)}, "desco_lvis_mini": None, "denseclip_voc_photos": {"model.text_encoder.short_sides": (64,)},
           "mdetr_shapes_masks_mini": None}  # fmt: skip


def picture(seed: int, size_hw: tuple[int, int] = (90, 120)) -> np.ndarray:
    image = np.random.default_rng(seed).integers(0, 255, (*size_hw, 3), dtype=np.uint8)
    image[20:60, 30:80] = (220, 40, 40)
    return image


def same(a, b) -> bool:
    pairs = [(getattr(a, n), getattr(b, n)) for n in ("boxes_xyxy", "scores", "labels", "masks_NHW", "label_map_HW")]
    return a.names == b.names and all(x is y is None or torch.equal(x, y) for x, y in pairs)


@pytest.fixture(scope="module", params=CONFIGS)
def predictor(request):
    torch.manual_seed(0)
    loaded = ovdense.load(request.param, None if request.param == "maskclip_voc" else "random", device="cpu", options=CONFIGS[request.param])
    loaded.resize = ResizeShortestEdge(short_sides=(96,), max_size=128)
    return loaded


def test_results__are_the_same_with_and_without_and_the_backbone_runs_once(predictor, monkeypatch):
    images, asked = [picture(0), picture(1)], (["cat", "a red box"], ["dog"], ["cat", "a red box"])
    predictor.model.image_cache = None
    plain = [predictor(image, texts, score_thr=0.0) for texts in asked for image in images]
    calls, encode = [], predictor.model.encode_image
    monkeypatch.setattr(predictor.model, "encode_image", lambda *args: (calls.append(1), encode(*args))[1])
    predictor.remember_images()
    cached = [predictor(image, texts, score_thr=0.0) for texts in asked for image in images]
    cache = predictor.model.image_cache
    assert len(calls) == cache.misses == 2 and cache.hits == 4
    assert all(map(same, plain, cached))
    assert not same(plain[0], plain[1]) or plain[0].label_map_HW is not None  # the images differ


@pytest.mark.parametrize("predictor", ["mdetr_shapes_masks_mini"], indirect=True)
def test_masks_of_a_caption__are_the_same_with_and_without(predictor):
    predictor.remember_images()
    predictor(picture(0), ["a cat"])
    predictor.set_caption("a red box next to a cat", ["a red box", "a cat"])
    cached = predictor(picture(0), score_thr=0.0)
    assert predictor.model.image_cache.hits == 1 and cached.masks_NHW is not None
    predictor.model.image_cache = None
    assert same(cached, predictor(picture(0), score_thr=0.0))


def test_features__are_computed_anew_for_other_weights_pixels_and_modes(predictor):
    predictor.remember_images()
    cache, image = predictor.model.image_cache, picture(0)
    predictor(image, ["cat"])
    weights = next(p for n, p in predictor.model.named_parameters() if not n.startswith(predictor.model.apart_from_images))
    for change in (lambda: weights.data.add_(1e-3), lambda: weights.data.sub_(1e-3)):  # .data is not counted as a write
        change()
        predictor(image, ["cat"])
    changed = image.copy()
    changed[0, 0, 0] ^= 255
    predictor(changed, ["cat"])
    with torch.autocast("cpu", torch.bfloat16):
        predictor.predict(image)
    assert cache.misses >= 4 and cache.hits <= 1  # the second change brings the first weights back, to rounding
    predictor.model.train()
    before = cache.misses, cache.hits
    with torch.no_grad():
        predictor.model.features(torch.zeros(1, 3, 64, 64), *([[(64, 64)]] if "Mdetr" in type(predictor.model).__name__ else []))
    assert before == (cache.misses, cache.hits)
    predictor.model.eval()


class Counting(torch.nn.Module):
    def encode_image(self, images):
        return {"maps": [images * 2]}


def test_weights_of_parts_that_images_do_not_reach__do_not_count_however_deep():
    model = torch.nn.ModuleDict({"a": torch.nn.Linear(1, 1), "b": torch.nn.ModuleDict({"c": torch.nn.BatchNorm1d(1), "text": torch.nn.Linear(1, 1)})})
    names = {id(tensor): name for name, tensor in [*model.named_parameters(), *model.named_buffers()]}
    read = {names[id(tensor)] for tensor in _image_tensors(model, ("a", "b.text"))}
    assert read == {name for name in names.values() if name.startswith("b.c.")} and len(read) == 5
    assert len(list(_image_tensors(model, ()))) == len(names)


def test_cache__keeps_to_its_limits_and_drops_the_oldest():
    model, image = Counting(), torch.ones(1, 3, 64, 64)
    cache = ImageFeatureCache(max_mib=0.1, max_images=5)  # an image has 48 KiB
    for k in (0, 1, 0, 2, 0, 1):
        assert torch.equal(cache.features(model, image * k, ())["maps"][0], image * 2 * k)
        assert len(cache) <= 2 and cache.num_bytes <= 0.1 * 2**20
    assert (cache.misses, cache.hits) == (4, 2)  # 0 was used last when 2 came, so 1 went
    large = torch.ones(1, 3, 256, 256)
    cache.features(model, large, ())
    assert len(cache) == 2  # too large for the room: nothing is dropped for it
    cache.forget()
    assert len(cache) == cache.num_bytes == 0
    counted = ImageFeatureCache(max_images=2)
    for k in range(5):
        counted.features(model, image * k, ())
    assert len(counted) == 2
    for wrong in ({"max_mib": 0}, {"max_images": 0}):
        with pytest.raises(ValueError, match="room for an image"):
            ImageFeatureCache(**wrong)


def test_prepared__is_remembered_only_where_it_cannot_change(tmp_path):
    cache, made = ImageFeatureCache(), []

    def look(source):
        return cache.prepared(source, lambda: (made.append(1), np.array(len(made)))[1])

    array = picture(0)
    assert look(array) != look(array)
    array.flags.writeable = False
    assert look(array) is look(array)
    view = array[:10]
    assert look(view) is not look(view)
    file = tmp_path / "a.png"
    Image.fromarray(array).save(file)
    first = look(file)
    assert look(str(file)) is first
    Image.fromarray(picture(1, (50, 50))).save(file)
    assert look(file) is not first
    assert look(Image.fromarray(array)) is not look(Image.fromarray(array))


def test_prepared__another_resize_is_another_image(tmp_path):
    """Settings that are replaced or changed; an old rule's number in memory may be a new one's."""
    loaded = ovdense.load("desco_lvis_mini", "random", device="cpu")
    loaded.remember_images()
    Image.fromarray(picture(0)).save(tmp_path / "a.png")
    for side in (64, 96, 128, 160):
        loaded.resize = ResizeShortestEdge(short_sides=(side,), max_size=400)
        assert min(loaded.looked_at(tmp_path / "a.png")[1]["image"].shape[1:]) == side
    loaded.resize.short_sides = (32,)
    assert min(loaded.looked_at(tmp_path / "a.png")[1]["image"].shape[1:]) == 32
