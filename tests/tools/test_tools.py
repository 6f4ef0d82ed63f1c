import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from PIL import Image

from ovdense.api import load_image, load_model
from ovdense.cli import convert, predict
from ovdense.data.detection import LvisDetection
from ovdense.data.samplers import ResumableInfiniteSampler
from ovdense.methods.desco.model import Desco
from ovdense.methods.sharding import ShardedOptimWrapper
from ovdense.runs import clean_errors, clean_run_errors, use_amp, use_auto_scale_lr, use_seed
from ovdense.structures import ImageTarget
from tests.ranks import PATIENCE
from tests.tiny_run import ROOT, load_script, shapes, write_config

EVERY_ITERATION = ["--cfg-options", "default_hooks.logger.interval=1", "default_hooks.checkpoint.interval=2"]


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    monkeypatch.setenv("OVDENSE_DATA", "/nonexistent")  # restored afterwards, whatever a tool sets
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished training run: dict(folder, config, data, work, checkpoint)."""
    folder, data = tmp_path_factory.mktemp("run"), shapes(tmp_path_factory)
    config, work = write_config(folder, "base"), folder / "work"
    arguments = [str(config), "--work-dir", str(work), "--data-root", str(data), *EVERY_ITERATION, "train_cfg.max_iters=6", "train_cfg.val_interval=6"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OVDENSE_DATA", "")
        assert load_script("tools/train.py").main(arguments) == 0
    return {"folder": folder, "config": config, "data": data, "work": work, "checkpoint": work / "iter_6.pth"}


def losses(work: Path) -> dict[int, float]:
    rows = [json.loads(line) for file in sorted(work.glob("*/vis_data/*.json")) for line in file.read_text().splitlines()]
    return {row["step"]: row["loss"] for row in rows if "loss" in row}


def fails(capsys, script: str, arguments: list[str], code: int = 2) -> str:
    with pytest.raises(SystemExit) as exit_info:
        load_script(script).main(arguments)
    assert exit_info.value.code == code
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    return error


def test_train__writes_checkpoints_metrics_and_scalars(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert sorted(p.name for p in run["work"].glob("*.pth")) == ["iter_2.pth", "iter_4.pth", "iter_6.pth"]
    assert Path((run["work"] / "last_checkpoint").read_text()).name == "iter_6.pth"
    report = json.loads((run["work"] / "val_metrics.json").read_text())
    assert "lvis/bbox_AP" in report["metrics"] and report["protocol"]["images"] == 4 and report["protocol"]["chunks"] == 15
    events = EventAccumulator(str(next(run["work"].glob("*/vis_data/events*")).parent))
    events.Reload()
    assert [e.step for e in events.Scalars("loss")] == [1, 2, 3, 4, 5, 6]


def test_train__resume_takes_the_newest_readable_and_repeats_the_losses(run, tmp_path, capsys):
    shutil.copy(run["work"] / "iter_4.pth", tmp_path / "iter_4.pth")
    (tmp_path / "iter_9.pth").write_bytes((run["work"] / "iter_4.pth").read_bytes()[:100_000])
    config = write_config(run["folder"], "resumed")
    arguments = [str(config), "--work-dir", str(tmp_path), "--data-root", str(run["data"]), "--resume", *EVERY_ITERATION, "train_cfg.max_iters=6"]
    assert load_script("tools/train.py").main([*arguments, "train_cfg.val_interval=100"]) == 0
    assert "iter_4.pth" in capsys.readouterr().out
    before = losses(run["work"])
    assert losses(tmp_path) == {5: before[5], 6: before[6]}


def test_train__resume_with_another_batch_goes_on_after_the_images_that_were_drawn(run, tmp_path, capsys, monkeypatch):
    """Steps of 2, 2, 2, 2 images, then 4, 4, then 2: of 8 scenes, none comes again in a pass, and none is left out."""
    seen, step = [], Desco.train_step

    def noted(model, data, optim_wrapper):
        seen.append([t.file_name for t in data["targets"]])
        return step(model, data, optim_wrapper)

    monkeypatch.setattr(Desco, "train_step", noted)
    shutil.copy(run["work"] / "iter_4.pth", tmp_path)
    for name, batch, end in (("larger", 4, 6), ("smaller", 2, 7)):
        arguments = [str(write_config(run["folder"], name)), "--work-dir", str(tmp_path), "--data-root", str(run["data"]), "--resume", *EVERY_ITERATION]
        options = [f"train_cfg.max_iters={end}", "train_cfg.val_interval=100", f"train_dataloader.batch_size={batch}"]
        assert load_script("tools/train.py").main([*arguments, *options]) == 0
    dataset = LvisDetection(ann_file=str(run["data"] / "annotations/shapes_train.json"), image_prefix=str(run["data"] / "images"))
    order = [dataset.image_info(n % 8)["file_name"] for n in islice(ResumableInfiniteSampler(dataset, seed=0), 18)]
    assert seen == [order[8:12], order[12:16], order[16:18]]
    said = capsys.readouterr()
    assert "a step takes 4 images, before the checkpoint it took 2: their order goes on after the 8" in said.out + said.err


def test_train__amp_scaled_rate_seed_and_a_bar(run, tmp_path, capsys):
    config = write_config(run["folder"], "amp")
    arguments = [str(config), "--work-dir", str(tmp_path), "--data-root", str(run["data"]), "--amp", "--auto-scale-lr", "--seed", "3", *EVERY_ITERATION]
    assert load_script("tools/train.py").main([*arguments, "custom_hooks.2.enabled=True", "train_cfg.val_interval=100"]) == 0
    output = capsys.readouterr().out
    assert "left" in output and "2/2" in output
    content = torch.load(tmp_path / "iter_2.pth", weights_only=False)
    assert content["optimizer"]["param_groups"][0]["lr"] == pytest.approx(1e-3 * 2 / 8)
    assert content["meta"]["seed"] == 3
    assert losses(tmp_path)[1] != losses(run["work"])[1]


def test_train__resume_without_a_checkpoint_starts_from_load_from(run, tmp_path, capsys):
    config = write_config(run["folder"], "fresh")
    arguments = [str(config), "--work-dir", str(tmp_path), "--data-root", str(run["data"]), "--resume", *EVERY_ITERATION, "train_cfg.val_interval=100"]
    assert load_script("tools/train.py").main([*arguments, f"load_from={run['checkpoint']}", "optim_wrapper.optimizer.lr=0."]) == 0
    assert "no checkpoint in" in capsys.readouterr().out
    assert sorted(p.name for p in tmp_path.glob("*.pth")) == ["iter_2.pth"]
    before, after = (torch.load(p, weights_only=False)["state_dict"]["head.box.weight"] for p in (run["checkpoint"], tmp_path / "iter_2.pth"))
    assert torch.equal(before, after)


def test_train__a_seed_reaches_all_and_a_resumed_run_keeps_it(run, tmp_path, capsys):
    tail = ["--data-root", str(run["data"]), *EVERY_ITERATION, "train_cfg.val_interval=100", "train_cfg.max_iters=4"]
    by_flag, by_option = tmp_path / "flag", tmp_path / "option"
    main = load_script("tools/train.py").main
    assert main([str(write_config(run["folder"], "flag")), "--work-dir", str(by_flag), "--seed", "3", *tail]) == 0
    assert main([str(write_config(run["folder"], "option")), "--work-dir", str(by_option), *tail, "randomness.seed=3"]) == 0
    assert losses(by_flag) == losses(by_option)
    resumed = tmp_path / "resumed"
    resumed.mkdir()
    shutil.copy(by_flag / "iter_2.pth", resumed)
    config = str(write_config(run["folder"], "goes_on"))
    assert "trained with seed 3" in fails(capsys, "tools/train.py", [config, "--work-dir", str(resumed), "--resume", "--seed", "4", *tail])
    assert main([config, "--work-dir", str(resumed), "--resume", *tail]) == 0
    assert losses(resumed) == {step: loss for step, loss in losses(by_flag).items() if step > 2}


def test_use_amp__leaves_a_config_its_own_way_to_step():
    for kind in (OptimWrapper, "OptimWrapper", "mmengine.optim.AmpOptimWrapper"):
        cfg = Config({"optim_wrapper": {"type": kind}})
        use_amp(cfg)
        assert cfg.optim_wrapper.type.endswith("AmpOptimWrapper")
    for kind in (ShardedOptimWrapper, "ovdense.methods.sharding.ShardedOptimWrapper"):
        with pytest.raises(ValueError, match="take the place of the config's ShardedOptimWrapper.*param_dtype=bfloat16"):
            use_amp(Config({"optim_wrapper": {"type": kind}}))


def test_auto_scale_lr__counts_the_batches_that_are_added_up():
    for counts, base in ((1, 16), (8, 2)):
        cfg = Config({"auto_scale_lr": {"enable": False, "base_batch_size": 16}, "optim_wrapper": {"accumulative_counts": counts}})
        for _ in range(2):  # the run's own config, given again with the flag
            use_auto_scale_lr(cfg)
            assert cfg.auto_scale_lr == {"enable": True, "base_batch_size": base}, "2 images, 8 times, are a step of the published 16"


def test_use_seed__leaves_what_the_command_line_sets():
    def cfg():
        types = {"sampler": "ovdense.data.samplers.ResumableInfiniteSampler", "dataset": "LvisDetection"}
        return Config({"train_dataloader": {part: {"type": kind, "seed": 7} for part, kind in types.items()}, "randomness": {"seed": 3}})

    def seeds(used):
        return [used.train_dataloader[part]["seed"] for part in ("sampler", "dataset")]

    for seed, kept, expected in ((None, (), [3, 3]), (5, (), [5, 5]), (None, ("train_dataloader.sampler.seed",), [7, 3])):
        used = cfg()
        use_seed(used, seed, kept)
        assert seeds(used) == expected
    mixed = Config({"train_dataloader": {"dataset": {"type": "MixedDataset", "datasets": [
        {"type": "ShapesGrounding"}, {"type": "MixedDataset", "datasets": [{"type": "GroundingDetection", "seed": 7}] * 2}]}}})  # fmt: skip
    use_seed(mixed, 5, ("train_dataloader.dataset.datasets.1.datasets.1.seed",))
    first, second = mixed.train_dataloader.dataset.datasets
    assert first["seed"] == second["datasets"][0]["seed"] == 5 and second["datasets"][1]["seed"] == 7, "each part draws by the run's seed"
    assert "seed" not in mixed.train_dataloader.dataset and "seed" not in second
    used = cfg()
    used.randomness.seed = None
    use_seed(used)
    assert set(seeds(used)) == {used.randomness["seed"]}
    for wrong in (-1, 2**31, 1.5):
        with pytest.raises(ValueError, match="a seed must be"):
            use_seed(cfg(), wrong)


def test_dumped_config__trains_and_tests_with_all_flags(run, tmp_path):
    for name in ("dumped_train", "dumped_test"):
        shutil.copy(run["work"] / "base.py", tmp_path / f"{name}.py")
    arguments = ["--work-dir", str(tmp_path / "w"), "--data-root", str(run["data"])]
    tail = ["--cfg-options", "train_cfg.max_iters=2", "train_cfg.val_interval=2"]
    flags = ["--amp", "--auto-scale-lr", "--seed", "3", "--resume"]
    assert load_script("tools/train.py").main([str(tmp_path / "dumped_train.py"), *arguments, *flags, *tail]) == 0
    assert torch.load(tmp_path / "w" / "iter_2.pth", weights_only=False)["meta"]["seed"] == 3
    out = ["--out", str(tmp_path / "found.json"), "--show-dir", str(tmp_path / "overlays"), "--prompt", "names"]
    assert load_script("tools/test.py").main([str(tmp_path / "dumped_test.py"), str(tmp_path / "w"), *arguments, *out]) == 0
    assert (tmp_path / "found.metrics.json").read_bytes() == (tmp_path / "w" / "test_metrics.json").read_bytes()
    log = max((tmp_path / "w").glob("*/*.log"), key=lambda p: p.stat().st_mtime_ns).read_text()
    assert log.count("ann sha256") == 1  # one ReportHook, not two


def broken(data: Path, folder: Path, split: str) -> Path:
    """Return a copy of the data whose images of `split` are cut short."""
    shutil.copytree(data, folder)
    for image in (folder / "images" / split).glob("*.png"):
        image.write_bytes(image.read_bytes()[:300])
    return folder


@pytest.mark.parametrize("workers", [0, 1])
def test_train__a_broken_image_is_one_line(run, tmp_path, capsys, workers):
    data, config = broken(run["data"], tmp_path / "data", "train"), write_config(run["folder"], f"broken{workers}")
    arguments = [str(config), "--work-dir", str(tmp_path / "w"), "--data-root", str(data), "--cfg-options", f"train_dataloader.num_workers={workers}"]
    error = fails(capsys, "tools/train.py", arguments)
    assert ".png: must be a whole image file" in error and "Caught" not in error


def test_test__a_broken_image_is_one_line(run, tmp_path, capsys):
    data, config = broken(run["data"], tmp_path / "data", "val"), write_config(run["folder"], "broken_test")
    arguments = [str(config), str(run["checkpoint"]), "--work-dir", str(tmp_path / "w"), "--data-root", str(data)]
    assert "must be a whole image file" in fails(capsys, "tools/test.py", arguments)


def test_clean_errors__names_terse_errors_and_shows_the_trace_on_demand(capsys, monkeypatch):
    def said(error, trace=""):
        monkeypatch.setenv("OVDENSE_TRACEBACK", trace)
        with pytest.raises(SystemExit) as exit_info, clean_errors():
            raise error
        assert exit_info.value.code == 2
        return capsys.readouterr().err

    assert said(KeyError("head")) == "error: KeyError: head (OVDENSE_TRACEBACK=1 shows where)\n"
    assert said(TypeError("bad")) == "error: TypeError: bad (OVDENSE_TRACEBACK=1 shows where)\n"
    assert said(ValueError("must be 1")) == "error: must be 1\n"
    assert said(ValueError("must be 1"), "1").startswith("Traceback")


def test_clean_run_errors__bugs_keep_their_trace():
    with pytest.raises(ValueError, match="not ours"), clean_run_errors():
        raise ValueError("not ours")
    with pytest.raises(KeyError), clean_run_errors():
        raise KeyError("bug")
    with pytest.raises(ValueError, match="invalid literal"), clean_run_errors():
        load_image(_Unfit())  # fails inside the package, but not by one of its `raise`
    with pytest.raises(SystemExit), clean_run_errors():
        load_image(np.zeros(3))


class _Unfit(str):
    def __str__(self):
        return int("x")


def test_test__writes_predictions_overlays_and_protocol(run, tmp_path):
    config = write_config(run["folder"], "tested")
    arguments = [str(config), str(run["work"] / "last_checkpoint"), "--work-dir", str(tmp_path / "w"), "--data-root", str(run["data"])]
    out, overlays = tmp_path / "o" / "found.json", tmp_path / "overlays"
    assert load_script("tools/test.py").main([*arguments, "--out", str(out), "--show-dir", str(overlays), "--prompt", "descriptions"]) == 0
    truth = json.loads((run["data"] / "annotations" / "shapes_val.json").read_text())
    found = json.loads(out.read_text())
    name_of = {c["id"]: c["name"] for c in truth["categories"]}
    assert found and all(name_of[f["category_id"]] == f["category_name"] for f in found)
    assert {f["image_id"] for f in found} <= {i["id"] for i in truth["images"]}
    report = json.loads((tmp_path / "o" / "found.metrics.json").read_text())
    assert report["protocol"]["prompt"] == "descriptions"
    assert report == json.loads((tmp_path / "w" / "test_metrics.json").read_text())
    assert len(list(overlays.rglob("*.jpg"))) == 4


@pytest.mark.slow
def test_train__two_gloo_processes(run, tmp_path):
    config = write_config(run["folder"], "gloo")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(ROOT / "tools" / "train.py"), str(config)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment.pop("LOCAL_RANK")
    done = subprocess.run([*command, "--launcher", "pytorch", "--work-dir", str(tmp_path), "--data-root", str(run["data"]), *EVERY_ITERATION],
                          env=environment, capture_output=True, text=True, timeout=PATIENCE)  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads((tmp_path / "val_metrics.json").read_text())["protocol"]["images"] == 4
    assert set(losses(tmp_path)) == {1, 2}


@pytest.mark.parametrize("script", [*sorted(f"tools/{path.name}" for path in (ROOT / "tools").glob("[!_]*.py")), "demo/image_demo.py"])
def test_help__names_every_flag(script, capsys):
    module = load_script(script)
    source = Path(inspect.getfile(module.parse_args)).read_text(encoding="utf8")  # a tool that shares its body with the command line is short
    with pytest.raises(SystemExit) as exit_info:
        module.parse_args(["--help"])
    assert exit_info.value.code == 0
    told = capsys.readouterr().out
    shown = [line for line in source.splitlines() if "argparse.SUPPRESS" not in line]
    flags = re.findall(r'\bparser\.add_argument\(\s*"(--[a-z][a-z-]*)"', "\n".join(shown))
    assert flags and all(flag in told for flag in flags)


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (["--cfg-options", "model.heda.channels=8"], "did you mean head"),  # a misspelt parent
        (["--cfg-options", "randmness.seed=1"], "did you mean randomness"),  # a misspelt top-level key
        (["--cfg-options", "custom_hooks.9.enabled=True"], "has 4 entries"),  # an index that is not there
        (["--cfg-options", "model.head.blokcs=1"], "blokcs"),  # an argument that the class does not have
        (["--data-root", "/nonexistent/data"], "must be an existing folder"),
        (["--resume", "/nonexistent/iter_1.pth"], "must be an existing file"),
        (["--resume", str(Path(__file__))], "is not a whole checkpoint"),
        (["--launcher", "pytorch"], "torchrun"),
        (["--seed", "-1"], "a seed must be an integer"),
    ],
)
def test_train__bad_input_is_one_line(run, tmp_path, capsys, extra, said, monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    assert said in fails(capsys, "tools/train.py", [str(run["config"]), "--work-dir", str(tmp_path), *extra])


def test_train__missing_data_says_where_to_get_it_and_what_runs(run, tmp_path, capsys):
    error = fails(capsys, "tools/train.py", [str(run["config"]), "--work-dir", str(tmp_path), "--data-root", str(tmp_path)])
    assert "shapes_train.json" in error and "OVDENSE_DATA" in error and "desco_lvis_mini.py" in error


def test_train__unknown_config(tmp_path, capsys):
    assert "does not exist" in fails(capsys, "tools/train.py", [str(tmp_path / "nothing.py")])


def test_test__refuses_pickles_and_incomplete_weights(run, tmp_path, capsys):
    assert "must end with .json" in fails(capsys, "tools/test.py", [str(run["config"]), str(run["checkpoint"]), "--out", "found.pkl"])
    state = torch.load(run["checkpoint"], weights_only=False)["state_dict"]
    state.pop("head.level_scale")
    torch.save({"state_dict": state}, tmp_path / "part.pth")
    arguments = [str(run["config"]), str(tmp_path / "part.pth"), "--work-dir", str(tmp_path), "--data-root", str(run["data"])]
    assert "head.level_scale" in fails(capsys, "tools/test.py", arguments)


def test_train__refuses_weights_of_which_nothing_fits(run, tmp_path, capsys):
    torch.save({"model": {"module.backbone.body.patch_embed.proj.weight": torch.ones(1)}}, tmp_path / "glip.pth")
    arguments = [str(write_config(run["folder"], "glip")), "--work-dir", str(tmp_path / "w"), "--data-root", str(run["data"]), "--cfg-options"]
    assert "tools/convert_weights.py" in fails(capsys, "tools/train.py", [*arguments, f"load_from={tmp_path / 'glip.pth'}"])


@pytest.fixture(scope="module")
def published(golden_root, tmp_path_factory):
    """A file with the published names and shapes: zeros that take no room, but for the first convolution."""
    spec = json.loads((golden_root / "desco" / "fullsize_spec" / "spec.json").read_text())
    state = {f"module.{name}": torch.zeros((), dtype=torch.float16).expand(entry["shape"]) for name, entry in spec.items()}
    first = "module.backbone.body.patch_embed.proj.weight"
    state[first] = torch.arange(96 * 3 * 16).reshape(96, 3, 4, 4).half()
    path = tmp_path_factory.mktemp("published") / "glip.pth"
    torch.save({"model": state, "optimizer": {"state": {}}, "iteration": 9}, path)
    return {"path": path, "first": state[first], "count": sum(t.numel() for t in state.values())}


@pytest.mark.slow
def test_convert_weights__writes_a_checkpoint_of_the_full_size_model(published, tmp_path, capsys):
    out = tmp_path / "new" / "ours.pth"
    assert load_script("tools/convert_weights.py").main([str(published["path"]), str(out)]) == 0
    printed = capsys.readouterr().out
    assert "backbone" in printed and "text_encoder" in printed and f"{published['count']:,} numbers" in printed
    converted = torch.load(out, weights_only=True)["state_dict"]
    assert torch.equal(converted["backbone.patch_embed.proj.weight"], published["first"].flip(1))
    assert [p.name for p in out.parent.iterdir()] == ["ours.pth"]


def test_convert_weights__keeps_bgr_and_says_what_does_not_fit(run, published, tmp_path, capsys):
    state = torch.load(published["path"], weights_only=True)["model"]
    kept = convert._converted({k.removeprefix("module."): v for k, v in state.items()}, Path("x.pth"), bgr_to_rgb=False)
    assert torch.equal(kept["backbone.patch_embed.proj.weight"], published["first"])
    out = ["--config", str(run["config"])]
    error = fails(capsys, "tools/convert_weights.py", [str(published["path"]), str(tmp_path / "a.pth"), *out])
    assert "does not fit the model of" in error and "missing" in error and "unknown" in error
    assert "not those of GLIP" in fails(capsys, "tools/convert_weights.py", [str(run["checkpoint"]), str(tmp_path / "a.pth"), *out])
    torch.save({"backbone.body.norm.weight": torch.ones(1)}, tmp_path / "part.pth")
    assert "no fpn and no language and no head" in fails(capsys, "tools/convert_weights.py", [str(tmp_path / "part.pth"), str(tmp_path / "a.pth")])
    assert "another file" in fails(capsys, "tools/convert_weights.py", [str(published["path"]), str(published["path"])])
    assert not (tmp_path / "a.pth").exists()


@pytest.mark.parametrize("arguments", [["--iterations", "1"], ["--batch-size", "0"], ["--ranks", "1", "0"]])
def test_benchmark_ranks__amounts_that_give_no_time_are_said(capsys, arguments):
    assert "--iterations must be at least 2" in fails(capsys, "tools/benchmark_ranks.py", arguments)


def test_benchmark__growth_and_training_steps_on_the_tiny_model(run, tmp_path, monkeypatch):
    module = load_script("tools/benchmark.py")
    model = load_model(run["config"], device="cpu")
    image, no_boxes = torch.zeros(3, 64, 64, dtype=torch.uint8), {"boxes_xyxy": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)}
    target = ImageTarget(image_id=0, file_name="", size_hw=(64, 64), original_size_hw=(64, 64), **no_boxes)
    batch = model.data_preprocessor({"images": [image], "targets": [target]}, False)
    rows = module.growth(model, batch, [3, 9], repeats=1)
    assert [(r["classes"], r["chunks"]) for r in rows] == [(3, 1), (9, 2)] and all(r["peak_mib"] > 50 for r in rows)
    assert "during the step" in module.PeakMemory.note()
    monkeypatch.setattr(module.PeakMemory, "STATM", tmp_path / "nothing")  # as on a system without /proc
    steps = module.training_steps(model, (64, 64), batch=2, steps=3)
    assert steps[-1]["loss"] < steps[0]["loss"] and steps[0]["peak_gib"] > 0.05
    assert "so far" in module.PeakMemory.note()
    with pytest.raises(ValueError, match="--sizes"):
        module.vocabulary_of(10**6)


def test_benchmark_published__outputs_are_equal_and_both_halves_end(run, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    module, out = load_script("tools/benchmark_published.py"), tmp_path / "numbers.json"
    arguments = [str(run["config"]), "--size", "64", "96", "--chunks", "2", "--batch", "1", "--threads", "1", "--prefilter", "0.5", "--out", str(out)]
    assert module.main(arguments) == 0
    numbers = json.loads(out.read_text())
    names, descriptions = numbers["test"]
    assert (names["chunks"], descriptions["chunks"]) == (31, 151)
    assert all(float(row["scores_off"]) < 1e-4 and float(row["boxes_off_px"]) < 1e-2 and row["scores_span"] > 0.01 for row in numbers["test"])
    assert [row["arithmetic"] for row in numbers["train"]] == ["published", "ours"] and numbers["train"][0]["times_faster"] == 1


def test_print_config__shows_bases_and_options(run, capsys):
    assert load_script("tools/print_config.py").main([str(run["config"]), "--cfg-options", "train_cfg.max_iters=77"]) == 0
    output = capsys.readouterr().out
    assert "max_iters=77" in output and "AtomicCheckpointHook" in output


def test_demo__folder_with_an_unreadable_image(run, tmp_path, capsys):
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    for n, side in enumerate((70, 120)):
        Image.fromarray(np.full((side, 100, 3), 90 * n, dtype=np.uint8)).save(photos / f"{n}.png")
    (photos / "2.jpg").write_bytes(b"not an image")
    (photos / "3.jpg").symlink_to(photos / "gone.jpg")
    (photos / "4.jpg").mkdir()
    arguments = [str(photos), "--texts", "cat. a red chair left of the table", "--config", str(run["config"]), "--weights", str(run["checkpoint"])]
    assert load_script("demo/image_demo.py").main([*arguments, "--score-thr", "0", "--out", str(out), "--device", "cpu"]) == 1
    captured = capsys.readouterr()
    assert "2.jpg" in captured.err and "3.jpg" in captured.err and "4.jpg" not in captured.err and "2 of 4 images" in captured.out
    assert "note:" not in captured.out
    assert {p.name for p in out.iterdir()} == {"0.jpg", "1.jpg", "contact_sheet.jpg", "predictions.json"}
    content = json.loads((out / "predictions.json").read_text())
    assert [i["height"] for i in content["images"]] == [70, 120]
    assert {a["image_id"] for a in content["annotations"]} == {1, 2}
    assert {a["category_name"] for a in content["annotations"]} <= {"cat", "a red chair left of the table"}
    assert len({a["id"] for a in content["annotations"]}) == len(content["annotations"])


def test_demo__says_that_the_model_of_drawn_shapes_has_seen_no_photo(tmp_path, capsys, monkeypatch):
    arguments = [str(tmp_path / "photo.png"), "--texts", "cat", "--config", "configs/desco_lvis_mini.py"]
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.png")
    monkeypatch.setattr(predict, "_newest_weights", lambda *_: str(tmp_path / "gone.pth"))
    with pytest.raises(SystemExit):
        load_script("demo/image_demo.py").main(arguments)
    assert "drawn shapes" in (note := capsys.readouterr().out) and "--model desco_coco_photos" in note and note.count("\n") == 1
    monkeypatch.setenv("OVDENSE_CACHE", str(tmp_path))  # an embedded scene
    with pytest.raises(SystemExit):
        load_script("demo/image_demo.py").main(arguments)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["IMAGE", "--texts", " . "], "at least one thing"),
        (["IMAGE", "--texts", "cat. Cat"], "said once"),
        (["IMAGE", "--vocab", "lviss"], "did you mean 'lvis'"),
        (["nothing.jpg", "--texts", "cat"], "existing file or folder"),
        (["FOLDER", "--texts", "cat"], "must hold images"),
        (["IMAGE", "--texts", "cat", "--score-thr", "3"], "0..1"),
        (["IMAGE", "--texts", "cat", "--config", "configs/desco_lvis_mini.py"], "ovdense train desco_lvis_mini"),
        (["IMAGE", "--texts", "cat", "--model", "minni"], "did you mean 'mini'"),
        (["IMAGE", "--texts", "not: cat"], "something to look for"),
        (["IMAGE"], "must be given"),
        (["IMAGE", "--texts", "cat", "--config", "nothing.py"], "does not exist"),
    ],
)
def test_demo__bad_input_is_one_line(tmp_path, capsys, arguments, said, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    Image.new("RGB", (8, 8)).save("image.png")
    places = {"IMAGE": "image.png", "FOLDER": "empty"}
    assert said in fails(capsys, "demo/image_demo.py", [places.get(a, a) for a in arguments])
