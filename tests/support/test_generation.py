"""Drawing support sets with tiny random pipelines of Stable Diffusion's layouts: tokens, maps, bits, resuming."""
import json
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import numpy as np
import pytest
import torch

from ovdense.structures import ClassEntry
from ovdense.support.generation import GeneratedSupport, image_seed
from ovdense.support.heat import HeatMaps, recording, token_positions
from ovdense.support.mask_sources import GrabCutMasks, SupportMasker
from ovdense.vision.diffusion import QueryReader, cross_attention_layers, load_pipeline, pipeline_fingerprint, ready
from tests.tiny_pipeline import clip_tokenizer, tiny_sd, tiny_sdxl

SETTINGS = dict(num_images=3, num_steps=2, guidance=4.0)


@pytest.fixture(scope="module")
def sd():
    return ready(tiny_sd())


def words_at(tokenizer, prompt, positions):
    return tokenizer.decode([tokenizer(prompt).input_ids[p] for p in positions]).strip()


class WithoutOffsets:
    """A tokenizer that does not know which characters its tokens are of, as slow ones."""

    is_fast = False

    def __init__(self, tokenizer):
        self.tokenizer, self.model_max_length, self.decode = tokenizer, tokenizer.model_max_length, tokenizer.decode

    def __call__(self, text, **kwargs):
        assert "return_offsets_mapping" not in kwargs
        return self.tokenizer(text, **kwargs)


@pytest.mark.parametrize("wrap", [lambda t: t, WithoutOffsets])
@pytest.mark.parametrize("name", ["cat", "traffic light", "good picture", "a", "of", "picture of a cat", "potted plant", "walkie-talkie", "crème brûlée"])
def test_token_positions__are_the_name_even_where_it_repeats_the_prompt(name, wrap):
    tokenizer, prompt = wrap(clip_tokenizer()), "A good picture of a {}"
    start = prompt.index("{}")
    filled = prompt.format(name)
    positions = token_positions(tokenizer, filled, start, start + len(name))
    count = len(tokenizer(filled).input_ids)
    assert positions == list(range(count - 1 - len(positions), count - 1))  # the name ends the prompt, the end token follows
    assert words_at(tokenizer, filled, positions).replace(" ", "") == name.replace(" ", "")


def test_token_positions__a_prompt_that_is_cut_raises():
    tokenizer = clip_tokenizer()
    prompt = "word " * 90 + "cat"
    with pytest.raises(ValueError, match="at most 77 tokens"):
        token_positions(tokenizer, prompt, len(prompt) - 3, len(prompt))


def test_recording__changes_no_bit_that_matters_and_puts_the_processors_back(sd):
    def draw():
        return sd("a cat", num_inference_steps=2, guidance_scale=4.0, height=64, width=64, output_type="pt", generator=torch.Generator().manual_seed(0)).images

    before, plain = dict(sd.unet.attn_processors), draw()
    with recording(sd, HeatMaps([[2]], (8, 8)), guided=True) as heat:
        recorded = draw()
    assert torch.allclose(plain, recorded, atol=1e-4) and heat.maps().shape == (1, 1, 8, 8)
    assert {k: id(v) for k, v in sd.unet.attn_processors.items()} == {k: id(v) for k, v in before.items()}


def test_heat__of_all_tokens_sums_to_one(sd):
    count = sd.tokenizer.model_max_length
    with recording(sd, HeatMaps([[n] for n in range(count)], (8, 8)), guided=False) as heat:
        sd("a cat", num_inference_steps=1, guidance_scale=0.0, height=64, width=64, output_type="latent", generator=torch.Generator().manual_seed(0))
    assert torch.allclose(heat.maps().sum(1), torch.ones(1, 8, 8), atol=2e-2)  # bicubic overshoot is cut


@pytest.mark.parametrize("build", [tiny_sd, tiny_sdxl])
def test_support_set__is_the_same_bits_twice_and_after_a_kill(build, tmp_path, monkeypatch):
    pipeline, entry = ready(build()), ClassEntry(name="traffic_light")

    def drawn(folder, batch_size=2):
        return GeneratedSupport(pipeline, settings=SETTINGS, store=tmp_path / folder, batch_size=batch_size)

    def content(found):
        return [(i.sha256, (i.path.parent / i.details["heat"]).read_bytes(), i.details["seed"], i.details["prompt"]) for i in found.images]

    first, second = drawn("a").support_set(entry), drawn("b").support_set(entry)
    assert content(first) == content(second) and len(first) == 3
    assert len({i.sha256 for i in first.images}) == 3 and first.images[0].details["prompt"] == "A good picture of a traffic light"
    killed = drawn("c")
    keep, kept = killed._keep, []

    def dies(writer, *rest):
        if len(kept) == 1:
            raise KeyboardInterrupt
        kept.append(1)
        keep(writer, *rest)

    monkeypatch.setattr(killed, "_keep", dies)
    with pytest.raises(KeyboardInterrupt):
        killed.support_set(entry)
    assert content(drawn("c").support_set(entry)) == content(first)
    found = drawn("a")
    monkeypatch.setattr(found, "draw", None)  # nothing is drawn again
    assert content(found.support_set(entry)) == content(first)


def drawn_by(sd, folder, counted):
    """Return a source whose pictures are cheap; `counted` gets the numbers that are drawn."""
    found = GeneratedSupport(sd, settings=dict(num_images=4), store=folder, batch_size=2)

    def draw(entry, numbers):
        counted.extend(numbers)
        time.sleep(0.05)
        return np.stack([np.full((4, 4, 3), 10 * n, np.uint8) for n in numbers]), torch.stack([torch.full((2, 2), n / 4) for n in numbers])

    found.draw = draw
    return found


def test_support_set__two_that_ask_at_once_draw_once(sd, tmp_path):
    counted, entry = [], ClassEntry(name="cat")
    sources = [drawn_by(sd, tmp_path, counted) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda s: s.support_set(entry), sources)
    assert first == second and counted == [0, 1, 2, 3]


def test_support_set__says_that_it_waits(sd, tmp_path, monkeypatch):
    source, entry, said = drawn_by(sd, tmp_path, []), ClassEntry(name="cat"), Event()
    monkeypatch.setattr("ovdense.support.generation.print_log", lambda text, **_: "another process draws the class 'cat'" in text and said.set())
    with ThreadPoolExecutor(1) as pool:
        with source.store.alone("cat", source.made_with(entry)):
            waiting = pool.submit(source.support_set, entry)
            assert said.wait(60) and not waiting.done()
        assert len(waiting.result(60)) == 4


def test_support_build__leaves_what_another_draws_to_the_end(sd, tmp_path):
    from ovdense.cli.support_build import free_first

    source, entries = drawn_by(sd, tmp_path, []), [ClassEntry(name=n) for n in ("cat", "dog", "cow")]
    order = free_first(source, entries)
    assert next(order).name == "cat"
    with source.store.alone("dog", source.made_with(entries[1])):
        assert [e.name for e in order] == ["cow", "dog"]
    assert not source.is_drawn_elsewhere(entries[1]) and list(free_first(object(), entries)) == entries


def test_support_set__what_two_writers_left_is_not_taken_twice(sd, tmp_path):
    """As where locks are not seen: both append their rows to one file, and both are killed."""
    counted, entry = [], ClassEntry(name="cat")
    source = drawn_by(sd, tmp_path, counted)
    writers = [source.store.begin("cat", source.made_with(entry)) for _ in range(2)]
    for n, (image, heat) in enumerate(zip(*source.draw(entry, range(2)))):
        for writer in writers:
            source._keep(writer, entry, n, image, heat)
    found = source.support_set(entry)
    assert [i.read()[0, 0, 0] for i in found.images] == [0, 10, 20, 30] and [i.details["heat"][:5] for i in found.images] == [f"{n:05d}" for n in range(4)]


@pytest.mark.parametrize("gone", ["00001.png", "00002.heat.npy"])
def test_support_set__a_file_that_has_gone_is_made_again(sd, tmp_path, gone):
    counted, entry = [], ClassEntry(name="cat")
    first = drawn_by(sd, tmp_path, counted).support_set(entry)
    (first.images[0].path.parent / gone).unlink()
    counted.clear()
    assert drawn_by(sd, tmp_path, counted).support_set(entry) == first and (first.images[0].path.parent / gone).is_file()
    assert counted == ([0, 1, 2, 3] if gone == "00001.png" else [2, 3])  # whole batches


def test_support_set__depends_on_the_pipeline_and_settings(tmp_path):
    first, other = (GeneratedSupport(ready(tiny_sd(seed=s)), settings=SETTINGS, store=tmp_path) for s in (0, 1))
    entry = ClassEntry(name="cat")
    assert first.store.place("cat", first.made_with(entry)) != other.store.place("cat", other.made_with(entry))
    assert image_seed(42, "cat", 0) != image_seed(42, "dog", 0) != image_seed(42, "dog", 1)


def test_load_pipeline__of_a_folder_draws_what_was_saved(sd, tmp_path):
    sd.save_pretrained(str(tmp_path / "sd"))
    loaded = load_pipeline(tmp_path / "sd", device="cpu")
    assert type(loaded).__name__ == "StableDiffusionPipeline" and pipeline_fingerprint(loaded) == pipeline_fingerprint(ready(tiny_sd()))
    with pytest.raises(FileNotFoundError, match="existing folder"):
        load_pipeline(tmp_path / "nothing")
    assert load_pipeline(tmp_path / "sd", device="cpu") is loaded is not load_pipeline(tmp_path / "sd", device="cpu", scheduler=None)
    before = pipeline_fingerprint(loaded)
    with torch.no_grad():
        loaded.unet.conv_in.weight[0, 0, 0, 0] += 1
    assert pipeline_fingerprint(loaded) != before
    tiny_sd(seed=1).save_pretrained(str(tmp_path / "sd"))
    assert load_pipeline(tmp_path / "sd", device="cpu") is not loaded, "another pipeline has taken its place"


def test_load_pipeline__takes_the_releases_solver_where_the_folder_has_another(sd, tmp_path):
    """Stable Diffusion 1.5's folder names PNDM; the steps as diffusers 0.14 took them: evenly from 999 to 0, the last to the noise of step 0."""
    sd.save_pretrained(str(tmp_path / "sd"))
    stated = {"_class_name": "PNDMScheduler", "beta_end": 0.012, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "clip_sample": False,
              "num_train_timesteps": 1000, "set_alpha_to_one": False, "skip_prk_steps": True, "steps_offset": 1, "trained_betas": None}  # fmt: skip
    (tmp_path / "sd" / "scheduler" / "scheduler_config.json").write_text(json.dumps(stated))
    index = json.loads((tmp_path / "sd" / "model_index.json").read_text())
    (tmp_path / "sd" / "model_index.json").write_text(json.dumps(index | {"scheduler": ["diffusers", "PNDMScheduler"]}))
    scheduler = load_pipeline(tmp_path / "sd", device="cpu").scheduler
    scheduler.set_timesteps(30)
    assert scheduler.timesteps.tolist() == np.linspace(0, 999, 31).round()[:0:-1].tolist()
    alpha_bar = float(np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)[0])
    assert float(scheduler.sigmas[-1]) == pytest.approx(((1 - alpha_bar) / alpha_bar) ** 0.5, rel=1e-3) and type(scheduler).__name__.startswith("DPMSolverM")


def test_draw__nan_is_no_picture(sd, tmp_path, monkeypatch):
    """As float16 can give: it would be stored as a black picture."""
    source = GeneratedSupport(sd, settings=SETTINGS, store=tmp_path)
    monkeypatch.setattr(sd.vae.decoder.conv_out, "bias", torch.nn.Parameter(torch.full_like(sd.vae.decoder.conv_out.bias, torch.nan), requires_grad=False))
    with pytest.raises(ValueError, match='give dtype="float32"'):
        source.draw(ClassEntry(name="cat"), range(1))


@pytest.mark.parametrize("build, layers, number", [(tiny_sd, None, 16), (tiny_sdxl, (0, 2), 8)])
def test_queries__do_not_depend_on_the_batch(build, layers, number):
    pipeline = ready(build())
    assert len(cross_attention_layers(pipeline.unet)) == number
    reader = QueryReader(pipeline, layers)
    image = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    together, alone = reader(image, (8, 8)), torch.cat([reader(i[None], (8, 8)) for i in image])
    assert together.shape == (2, reader.width, 8, 8) and torch.allclose(together, alone, atol=1e-4)
    assert not torch.allclose(together[0], together[1], atol=1e-2)


def test_queries__published_layers_need_the_published_unet():
    with pytest.raises(ValueError, match="16 cross-attention layers"):
        QueryReader(tiny_sdxl())


def test_masker__follows_a_stored_heat_map_and_edges(tmp_path):
    from ovdense.support.store import SupportStore

    image = np.full((40, 40, 3), 200, np.uint8)
    image[10:30, 12:28] = (220, 30, 30)
    writer = SupportStore(tmp_path).begin("red", {})
    yy, xx = np.mgrid[:10, :10]
    np.save(writer.folder / "h.npy", np.exp(-((yy - 4.5) ** 2 + (xx - 4.5) ** 2) / 8).astype(np.float32))
    support = writer.add(image, heat="h.npy")
    truth = torch.zeros(40, 40, dtype=torch.bool)
    truth[10:30, 12:28] = True
    masks = SupportMasker(GrabCutMasks())(support, ClassEntry(name="red"))
    assert (masks.foreground_HW & truth).sum() / (masks.foreground_HW | truth).sum() > 0.95
    assert not (masks.background_HW & truth).any() and masks.background_HW.any()
