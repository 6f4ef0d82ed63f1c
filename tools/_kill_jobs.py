"""What tools/kill_test.py kills: how each runs in a child, what must be there after the kill, and what must be equal after the resume."""
import hashlib
import json
import mmap
import random
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ovdense.compat.atomic import replace_file

PER_IMAGE_TIME = ("time", "data_time", "memory", "grad_norm_time")


def add(shared: mmap.mmap, slot: int, count: int = 1) -> None:
    """Add to one of the numbers that a child shares with its parent; each slot has one writer."""
    struct.pack_into("<q", shared, 8 * slot, struct.unpack_from("<q", shared, 8 * slot)[0] + count)


def digest(value: Any) -> str:
    """Return a hash of nested containers of tensors, arrays and plain values, to the bit."""
    found = hashlib.sha256()

    def walk(node: Any) -> None:
        if isinstance(node, torch.Tensor):
            found.update(str(node.dtype).encode())
            walk(node.detach().cpu().to(torch.float32 if node.dtype == torch.bfloat16 else node.dtype).numpy())
        elif isinstance(node, np.ndarray):
            found.update(f"{node.dtype}{node.shape}".encode() + np.ascontiguousarray(node).tobytes())
        elif isinstance(node, dict):
            for key in sorted(node, key=repr):
                found.update(repr(key).encode())
                walk(node[key])
        elif isinstance(node, (list, tuple)):
            found.update(f"[{len(node)}".encode())
            for child in node:
                walk(child)
        else:
            found.update(repr(node).encode())

    walk(value)
    return found.hexdigest()[:24]


def import_all(jobs) -> None:
    """Import, in the parent, what the children need."""
    torch.set_num_threads(1)  # forked children must not wait for threads that only their parent has
    for job in jobs:
        job.prepare()


class Job:
    """One kind of work. `total`: its steps; `variants`: taken in turns by the killed and resumed runs."""

    name: str
    total: int
    variants: tuple[int, ...] = (0,)

    def prepare(self) -> None:
        raise NotImplementedError

    def run(self, folder: Path, variant: int, shared: mmap.mmap) -> None:
        """Do the work into `folder`, going on from what is there; in a child. Slot 0 counts finished steps, the others what was read or computed."""
        raise NotImplementedError

    def inspect(self, folder: Path) -> tuple[int, list[str]]:
        """Return how many steps are safe in a killed run's folder, and what is wrong there."""
        raise NotImplementedError

    def differences(self, expected: dict, got: dict, kept: int, loaded: int, variant: int) -> list[str]:
        return [f"{part} differs" for part in expected if got.get(part) != expected[part]] + [f"{part} is new" for part in got.keys() - expected.keys()]

    def result(self, folder: Path) -> dict:
        return json.loads(_result_file(folder).read_text())

    def forget(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        _result_file(folder).unlink(missing_ok=True)


def _result_file(folder: Path) -> Path:
    return folder.with_name(folder.name + ".result.json")


class Training(Job):
    """A config's training, as tools/train.py does it, a checkpoint after each step; data workers are the variants."""

    def __init__(self, config: str, args, base: Path) -> None:
        self.config, self.args, self.total, self.variants = config, args, args.steps, tuple(args.workers)
        self.name = f"training {Path(config).stem}, {' and '.join(map(str, args.workers))} workers"

    def _arguments(self, folder: Path, workers: int) -> list[str]:
        options = [f"train_cfg.max_iters={self.total}", "default_hooks.checkpoint.interval=1", "default_hooks.logger.interval=1",
                   f"train_dataloader.num_workers={workers}", f"train_dataloader.persistent_workers={workers > 0}"]  # fmt: skip
        root = ["--data-root", self.args.data_root] if self.args.data_root else []
        return [self.config, "--work-dir", str(folder), "--resume", *root, "--cfg-options", *options, *self.args.cfg_options]

    def prepare(self) -> None:
        import torch.utils.tensorboard  # noqa: F401
        from mmengine.utils.dl_utils import collect_env

        from ovdense.cli import train
        from ovdense.registry import DATASETS, MODELS

        self._train = train
        collect_env()  # its imports take seconds
        cfg = train.configure(train.parse_args(self._arguments(Path("unused"), 0)))
        MODELS.build(cfg.model)
        self.batch = cfg.train_dataloader.batch_size
        DATASETS.build(cfg.train_dataloader.dataset)[0]

    def run(self, folder: Path, variant: int, shared: mmap.mmap) -> None:
        train, build = self._train, self._train.build_runner

        def without_validation(args, configure=train.configure):
            cfg = configure(args)
            cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
            return cfg

        def watched(cfg):
            runner = build(cfg)
            runner.register_hook(_watcher(shared, _result_file(folder)), priority="LOWEST")
            return runner

        train.configure, train.build_runner = without_validation, watched
        if train.main(self._arguments(folder, variant)):
            raise RuntimeError("training did not end well")

    def inspect(self, folder: Path) -> tuple[int, list[str]]:
        from ovdense.methods.checkpoints import read_checkpoint

        kept, faults = 0, []
        for path in folder.rglob("*") if folder.is_dir() else ():
            try:
                if path.suffix == ".pth":
                    kept = max(kept, read_checkpoint(path)["meta"]["iter"])
                elif path.name == "last_checkpoint":
                    read_checkpoint(path)
                elif path.suffix == ".json":
                    lines = path.read_text().split("\n")  # a log's last line may be the one that was being written
                    [json.loads(line) for line in (lines[:-1] if path.parent.name == "vis_data" else ["\n".join(lines)])]
                elif path.suffix == ".py":
                    compile(path.read_text() or "(", path.name, "exec")
            except (ValueError, OSError, SyntaxError) as error:
                faults.append(f"{path.relative_to(folder)} is not whole: {error}")
        return kept, faults

    def differences(self, expected: dict, got: dict, kept: int, loaded: int, variant: int) -> list[str]:
        if kept == self.total:  # it was killed after its last step: nothing was left to draw
            expected, got = ({k: v for k, v in r.items() if not k.startswith("state of ")} for r in (expected, got))
        batches = {str(n): expected["batches"][str(n)] for n in range(kept, self.total)}
        found = super().differences({**expected, "batches": batches}, got, kept, loaded, variant)
        needed, ahead = self.batch * (self.total - kept), 2 * variant * self.batch  # each worker fetches two batches ahead
        if not needed <= loaded <= needed + ahead:
            found.append(f"{loaded} samples were read, {needed} are in the remaining steps: data was replayed")
        return found


def _watcher(shared: mmap.mmap, result: Path):
    from mmengine.hooks import EMAHook, Hook
    from torch.utils.data import get_worker_info

    class Watcher(Hook):
        """Counts steps that are over, hashes batches, and leaves hashes of all that training is made of."""

        def before_train(self, runner) -> None:
            self.batches: dict[int, str] = {}
            kind = type(runner.train_dataloader.dataset)
            read = kind.__getitem__

            def counted(dataset, index):
                info = get_worker_info()
                add(shared, 1 if info is None else 2 + info.id)
                return read(dataset, index)

            kind.__getitem__ = counted

        def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
            targets = [_plain(t) for t in data_batch.get("targets", ())]
            self.batches[runner.iter] = digest(data_batch | {"targets": targets})

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
            add(shared, 0, runner.iter + 1 - struct.unpack_from("<q", shared, 0)[0])

        def after_train(self, runner) -> None:
            logs = {k: list(v._log_history) for k, v in runner.message_hub.log_scalars.items() if not k.endswith(PER_IMAGE_TIME)}
            parts = {"weights": runner.model.state_dict(), "optimiser": runner.optim_wrapper.state_dict(), "logged losses": logs,
                     "schedules": [s.state_dict() for s in runner.param_schedulers or ()],
                     "averages": [h.ema_model.state_dict() for h in runner.hooks if isinstance(h, EMAHook)],
                     "state of Python's random": random.getstate(), "state of NumPy's random": np.random.get_state(),
                     "state of PyTorch's random": torch.get_rng_state()}  # fmt: skip
            replace_file(result, json.dumps({k: digest(v) for k, v in parts.items()} | {"batches": self.batches}))

    return Watcher()


def _plain(target: Any) -> dict:
    return {k: v for k, v in vars(target).items()} if hasattr(target, "__dict__") else {"value": target}


class Thumbnails:
    """A stand-in for an image encoder: what is tested is the writing."""

    width = 16

    def embed_images(self, images):
        from PIL import Image

        small = np.stack([np.asarray(Image.fromarray(i).resize((8, 8))) for i in images]).reshape(len(images), -1).astype(np.float32) - 127
        rows = small @ np.random.default_rng(0).standard_normal((small.shape[1], self.width)).astype(np.float32)
        return torch.from_numpy(rows / np.linalg.norm(rows, axis=1, keepdims=True))

    def fingerprint(self) -> str:
        return "thumbnails"


class Indexing(Job):
    """The index of a folder of images, four a batch, and where it is installed FAISS's index of it."""

    name, images, batch = "indexing", 96, 4
    total = images // batch + 1

    def __init__(self, base: Path) -> None:
        self.photos = base / "photos"

    def prepare(self) -> None:
        from importlib.util import find_spec

        from ovdense.compat.images import write_picture
        from ovdense.support import retrieval  # noqa: F401

        self.faiss = find_spec("faiss") is not None
        if self.faiss:
            import faiss

            faiss.omp_set_num_threads(1)
        random_pixels = np.random.default_rng(0)
        self.paths = [write_picture(self.photos / f"{n:03d}.png", random_pixels.integers(0, 256, (32, 32, 3), dtype=np.uint8)) for n in range(self.images)]

    def run(self, folder: Path, variant: int, shared: mmap.mmap) -> None:
        from ovdense.support import pool, retrieval

        append, embed = pool.PoolWriter.append, Thumbnails.embed_images
        add(shared, 0, self._known(folder) // self.batch)

        def appended(writer, keys, rows_ND, files):
            append(writer, keys, rows_ND, files)
            add(shared, 0)

        def counted(encoder, images):
            add(shared, 1, len(images))
            return embed(encoder, images)

        pool.PoolWriter.append, Thumbnails.embed_images = appended, counted
        index = retrieval.index_images(self.paths, Thumbnails(), folder=folder, batch_size=self.batch, progress=False)
        queries = index.rows(0, 3)
        found = {engine: index.top_k(queries, 5, engine=engine) for engine in ("exact", *["faiss"] * self.faiss)}
        add(shared, 0)
        replace_file(_result_file(folder), json.dumps({
            "vectors": digest(index.rows(0, len(index))), "keys": digest([k.hex() for k in index.keys]),
            **{f"found by {e}": digest([r.position_Qk, r.score_Qk]) for e, r in found.items()},
            "sizes of files": {p.name: p.stat().st_size for p in sorted(folder.rglob("shard-*")) if p.suffix in (".rows", ".keys")}}))  # fmt: skip

    def _known(self, folder: Path) -> int:
        from ovdense.support.pool import EmbeddingPool

        opened = [EmbeddingPool(p.parent, Thumbnails.width) for p in folder.rglob("pool.json")] if folder.is_dir() else []
        return sum(pool.known_file(path) is not None for pool in opened for path in self.paths)

    def inspect(self, folder: Path) -> tuple[int, list[str]]:
        from PIL import Image

        from ovdense.support.pool import EmbeddingPool

        faults, self._kept = [], 0
        for place in folder.rglob("pool.json"):
            pool = EmbeddingPool(place.parent, Thumbnails.width)
            for path in self.paths:
                key = pool.known_file(path)
                if key is not None:
                    self._kept += 1
                    row = pool.rows(pool.places([key]))[0]
                    if not np.allclose(row, Thumbnails().embed_images([np.asarray(Image.open(path))])[0].numpy(), atol=1e-5):
                        faults.append(f"the vector of {path.name} is wrong")
        return self._kept // self.batch + (self._kept == self.images), faults

    def differences(self, expected: dict, got: dict, kept: int, loaded: int, variant: int) -> list[str]:
        found, needed = super().differences(expected, got, kept, loaded, variant), self.images - self._kept
        return found + [f"{loaded} images were embedded, {needed} were missing"] * (not needed - self.batch <= loaded <= needed)


class SupportSets(Job):
    """Support sets of three classes, four drawn images each, and their prototypes."""

    name, images = "support sets", 4
    classes = ("red ring", "blue star", "green disc")
    total = len(classes) * (images + 1)

    def __init__(self, base: Path) -> None:
        pass

    def prepare(self) -> None:
        from ovdense.methods.ovdiff import model  # noqa: F401
        from ovdense.support.small_diffusion import build_small_pipeline

        self.pipeline = build_small_pipeline(image_px=16, channels=(16, 16), head_dim=8)

    def run(self, folder: Path, variant: int, shared: mmap.mmap) -> None:
        from ovdense.methods.ovdiff.model import OVDiff
        from ovdense.structures import Vocabulary
        from ovdense.support import prototype_files, store
        from ovdense.support.generation import DrawingSettings, GeneratedSupport

        add(shared, 0, self.inspect(folder)[0])
        for kind, verb in ((store.SupportWriter, "add"), (prototype_files.PrototypeFiles, "put")):
            setattr(kind, verb, _then_count(getattr(kind, verb), shared))
        drawn = GeneratedSupport(self.pipeline, settings=DrawingSettings(num_images=self.images, num_steps=4), store=folder / "support", batch_size=2)
        draw = drawn.draw
        drawn.draw = lambda entry, numbers: (add(shared, 1, len(numbers)), draw(entry, numbers))[1]
        model = OVDiff(support=drawn, extractors=[_mean_colours()], prototypes=dict(num_parts=2), test=dict(crops=((8, 4),)),
                       prototype_folder=folder / "prototypes")  # fmt: skip
        for entry in Vocabulary.of(list(self.classes)):
            model.build_class(entry)
        files = [p for p in sorted(folder.rglob("*")) if p.is_file() and ".ovdense." not in p.name]
        replace_file(_result_file(folder), json.dumps({str(p.relative_to(folder)): digest(_content(p)) for p in files}))

    def inspect(self, folder: Path) -> tuple[int, list[str]]:
        from safetensors.torch import load_file

        from ovdense.compat.images import read_upright

        drawn, built, faults = 0, 0, []
        for path in folder.rglob("*") if folder.is_dir() else ():
            try:
                if path.name.startswith("."):
                    continue
                if path.suffix == ".png":
                    read_upright(path)
                elif path.suffix == ".npy":
                    np.load(path, allow_pickle=False)
                elif path.suffix == ".json":
                    json.loads(path.read_text())
                elif path.suffix == ".jsonl":
                    lines = path.read_text().split("\n")[:-1]
                    drawn += sum((path.parent / json.loads(line)["file"]).is_file() for line in lines)
                elif path.suffix == ".safetensors":
                    built += bool(load_file(path))
            except Exception as error:
                faults.append(f"{path.relative_to(folder)} is not whole: {error}")
        self._missing = len(self.classes) * self.images - drawn
        return drawn + built, faults

    def differences(self, expected: dict, got: dict, kept: int, loaded: int, variant: int) -> list[str]:
        found = super().differences(expected, got, kept, loaded, variant)
        return found + [f"{loaded} images were drawn, {self._missing} were missing"] * (loaded > self._missing + 1)  # two are drawn at once


def _content(path: Path) -> Any:
    """Return a file's bytes; of safetensors the tensors and the metadata, which they order at random."""
    if path.suffix != ".safetensors":
        return np.frombuffer(path.read_bytes(), np.uint8)
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return {"metadata": file.metadata(), **{k: file.get_tensor(k) for k in file.keys()}}


def _then_count(function, shared: mmap.mmap):
    def counted(*args, **kwargs):
        made = function(*args, **kwargs)
        add(shared, 0)
        return made

    return counted


def _mean_colours():
    from ovdense.vision.extractors import FeatureExtractor

    class MeanColours(FeatureExtractor):
        def features(self, image_BCHW):
            pooled = torch.nn.functional.avg_pool2d(image_BCHW, 4) - 0.5
            return torch.cat([pooled, torch.full_like(pooled[:, :1], 0.05)], 1)

        def settings(self):
            return {}

    return MeanColours()
