"""Features of places: ViT keys against the projection written out, places where they belong, sizes; random weights."""
import pytest
import torch
from open_clip.transformer import VisionTransformer
from torch.nn import functional as F

from ovdense.support.prototypes import unit_rows
from ovdense.vision.extractors import IMAGENET_MEAN, IMAGENET_STD, ClipKeys, DiffusionQueries, ReadingSize, VitKeys
from tests.tiny_pipeline import tiny_sd

WITH_CLASS, WITH_REGISTER = "vit_tiny_patch16_224", "vit_wee_patch16_reg1_gap_256"
SIZES = [(48, 80), (96, 64)]


@pytest.fixture(scope="module")
def timm_keys():
    torch.manual_seed(0)
    return {name: VitKeys(name, weights=None, block=1, support_px=64) for name in (WITH_CLASS, WITH_REGISTER)}


def clip_keys(block=-2, **kwargs):
    torch.manual_seed(0)
    visual = VisionTransformer(image_size=32, patch_size=8, width=32, layers=3, heads=4, mlp_ratio=2.0, output_dim=12).eval()
    return ClipKeys(visual=visual, block=block, **kwargs)


def picture(height, width, seed=0):
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed))


def normalised(image):
    return (image - torch.tensor(IMAGENET_MEAN).view(3, 1, 1)) / torch.tensor(IMAGENET_STD).view(3, 1, 1)


@pytest.mark.parametrize("name", [WITH_CLASS, WITH_REGISTER])
@pytest.mark.parametrize("block", [1, -1])
@pytest.mark.parametrize("size_hw", SIZES)
def test_vit_keys__are_the_middle_third_of_the_blocks_projection(timm_keys, monkeypatch, name, block, size_hw):
    extractor = timm_keys[name]
    monkeypatch.setattr(extractor, "block", block)
    net, image = extractor.net, picture(*size_hw)
    with torch.no_grad():
        token = net.norm_pre(net._pos_embed(net.patch_embed(normalised(image))))
        for before in net.blocks[: block % len(net.blocks)]:
            token = before(token)
        wanted = net.blocks[block]
        query_key_value = F.linear(wanted.norm1(token), wanted.attn.qkv.weight, wanted.attn.qkv.bias)
        width, height = size_hw[1] // 16, size_hw[0] // 16
        key = query_key_value[0, net.num_prefix_tokens :, net.embed_dim : 2 * net.embed_dim].view(height, width, net.embed_dim)
        found = extractor.features(image)
    assert net.num_prefix_tokens == 1 and found.shape == (1, extractor.width, height, width) and found.dtype == torch.float32
    torch.testing.assert_close(found[0].permute(1, 2, 0), key, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("block", [-2, -1])
@pytest.mark.parametrize("size_hw", [(32, 32), (24, 56)])
def test_clip_keys__are_the_middle_third_of_the_blocks_projection(block, size_hw):
    extractor, image = clip_keys(block), picture(*size_hw)
    visual, resblocks = extractor.encoder.visual, extractor.encoder.visual.transformer.resblocks
    with torch.no_grad():
        token = extractor.encoder._trunk(normalised(image)) if block == -1 else None
        if token is None:  # tokens before the last but one block: the trunk without its last step
            kept = []
            hook = resblocks[-2].register_forward_pre_hook(lambda _m, args: kept.append(args[0]))
            extractor.encoder._trunk(normalised(image))
            hook.remove()
            [token] = kept
        wanted = resblocks[block]
        key = F.linear(wanted.ln_1(token), wanted.attn.in_proj_weight[32:64], wanted.attn.in_proj_bias[32:64])[0, 1:]
        found = extractor.features(image)
    assert found.shape == (1, 32, size_hw[0] // 8, size_hw[1] // 8) and visual.positional_embedding.shape == (17, 32)
    torch.testing.assert_close(found[0].permute(1, 2, 0).flatten(0, 1), key, atol=1e-5, rtol=1e-5)


def test_keys__of_the_first_block_change_at_the_place_whose_pixels_change(timm_keys, monkeypatch):
    extractor = timm_keys[WITH_CLASS]
    monkeypatch.setattr(extractor, "block", 0)
    for keys, patch in ((extractor, 16), (clip_keys(block=0), 8)):
        image = picture(3 * patch, 5 * patch)
        other = image.clone()
        other[..., patch : 2 * patch, 3 * patch : 4 * patch] = 0
        changed = (keys.features(image) - keys.features(other)).abs().amax((0, 1)) > 1e-6
        assert changed.nonzero().tolist() == [[1, 3]]


def test_keys__images_of_any_size_are_read_and_support_images_as_squares(timm_keys):
    extractor = timm_keys[WITH_CLASS]
    assert extractor(picture(50, 79)).shape == (1, 192, 3, 5) and extractor.support(picture(50, 79)).shape == (1, 192, 4, 4)
    assert extractor.query_size.of((500, 1000)) == (400, 800) and extractor.query_size.of((448, 400)) == (448, 400)  # 800 at most; small ones as they are
    clip = clip_keys(query_px=40, support_px=64)
    assert clip(picture(50, 79)).shape == (1, 32, 5, 5) and clip.support(picture(50, 79)).shape == (1, 32, 8, 8)
    batch = torch.cat([picture(48, 48), picture(48, 48, seed=1)])
    torch.testing.assert_close(extractor(batch)[1:], extractor(batch[1:]), atol=1e-5, rtol=1e-5)


def test_keys__are_known_by_weights_and_block(timm_keys):
    one, again, other = clip_keys(), clip_keys(), clip_keys(block=-1)
    assert one.fingerprint() == again.fingerprint() != other.fingerprint()
    torch.manual_seed(1)
    assert VitKeys(WITH_CLASS, weights=None, block=1, support_px=64).fingerprint() != timm_keys[WITH_CLASS].fingerprint()
    assert not one.training and not any(p.requires_grad for p in one.parameters()) and not one.train().encoder.visual.training


def test_extractor__features_that_are_no_numbers_are_an_error(monkeypatch):
    extractor = clip_keys(query_px=32, support_px=32)
    features = extractor.features
    monkeypatch.setattr(extractor, "features", lambda image: features(image).index_fill(3, torch.tensor([1]), torch.inf))
    for read in (extractor, extractor.support):
        with pytest.raises(ValueError, match="ClipKeys must give finite features.*float32"):
            read(picture(32, 32))


def test_keys__of_networks_without_them_are_refused():
    with pytest.raises(ValueError, match="must be a ViT of timm"):
        VitKeys("resnet18", weights=None)
    with pytest.raises(ValueError, match="keys are those of a ViT"):
        ClipKeys("RN50")


def test_queries__are_the_named_layers_projection_of_what_the_unet_gives_them():
    """Two layers of different grids: the query projection written out, brought to the finest grid, in the order that was asked for."""
    pipeline = tiny_sd()
    extractor, image = DiffusionQueries(pipeline, layers=(15, 7), timestep=50), picture(40, 64)
    unet, seen = pipeline.unet, {}
    modules = [unet.get_submodule(n) for n in extractor.reader.layers]
    hooks = [m.register_forward_pre_hook(lambda m, args, kwargs: seen.__setitem__(m, args[0] if args else kwargs["hidden_states"]), with_kwargs=True)
             for m in modules]  # fmt: skip
    found = extractor(image)
    for hook in hooks:
        hook.remove()
    assert found.shape == (1, extractor.width, 8, 8) and extractor.layers == (15, 7)
    first = 0
    for module in modules:
        query = F.linear(seen[module], module.to_q.weight, module.to_q.bias)[0]
        side = round(len(query) ** 0.5)
        wanted = F.interpolate(query.T.view(1, -1, side, side), size=(8, 8), mode="bilinear", align_corners=False)[0]
        torch.testing.assert_close(found[0, first : first + len(wanted)], wanted, atol=1e-5, rtol=1e-5)
        first += len(wanted)
    assert first == extractor.width and len({len(seen[m][0]) for m in modules}) == 2
    assert not torch.allclose(unit_rows(found), unit_rows(DiffusionQueries(pipeline, layers=(15, 7), timestep=900)(image)), atol=1e-3)


def test_reading_size__squares_shorts_and_multiples():
    assert ReadingSize().of((50, 79)) == (50, 79) and ReadingSize(square=64).of((50, 79)) == (64, 64)
    assert ReadingSize(short=100).of((50, 80)) == (100, 160) and ReadingSize(short=100, longest=120).of((50, 80)) == (75, 120)
    assert ReadingSize(short=100, multiple=32).of((50, 80)) == (96, 160) and ReadingSize(multiple=16).of((3, 5)) == (16, 16)
