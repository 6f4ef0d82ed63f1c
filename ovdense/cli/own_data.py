"""A user's own boxes in COCO's form, in place of a config's data: --annotations FILE --images DIR, for training and testing."""
import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

_KEPT = ("prompt", "test_mode", "transforms", "filter_empty", "seed", "invalid_boxes")  # settings of a data set that fit any boxes


def add_own_data_arguments(parser: argparse.ArgumentParser, *, training: bool) -> None:
    """Add the flags; with `training` those of validation and of the run's length, too."""
    group = parser.add_argument_group("your own boxes, in place of the config's data")
    group.add_argument("--annotations", metavar="FILE.json", help="boxes in COCO's form; the classes are the file's categories "
                       "(other forms: ovdense annotations FILE OUT --to coco)")  # fmt: skip
    group.add_argument("--images", metavar="DIR", help="folder that its file names are relative to (default: the folder of FILE.json)")
    if training:
        group.add_argument("--val-annotations", metavar="FILE.json", help="boxes to report the AP on, at the end (default: no AP is reported)")
        group.add_argument("--val-images", metavar="DIR", help="folder of their photos (default: --images)")
        group.add_argument("--iterations", type=int, metavar="N",
                           help="length of the training, the learning rate's schedule stretched to it (default: the config's)")  # fmt: skip
    group.add_argument("--short-side", type=int, metavar="PX", help="shorter side that photos are scaled to; smaller is faster (default: the config's)")


def use_own_data(cfg: Config, args: argparse.Namespace) -> None:
    """Apply the flags to a config; ValueError or FileNotFoundError says what does not go together or is missing."""
    training = hasattr(args, "val_annotations")
    if args.annotations is None:
        for flag in ("images", "val_annotations", "val_images"):
            if getattr(args, flag, None) is not None:
                raise ValueError(f"--{flag.replace('_', '-')} goes with --annotations FILE.json, which is missing")
    elif training:
        _use_training(cfg, args)
    else:
        cfg.test_dataloader.dataset = _own(cfg.test_dataloader.dataset, args.annotations, args.images)
        cfg.test_evaluator = _metric()
    if args.short_side is not None:
        _scale(cfg, args.short_side)
    if getattr(args, "iterations", None) is not None:
        use_iterations(cfg, args.iterations)


def _use_training(cfg: Config, args: argparse.Namespace) -> None:
    if not cfg.get("train_dataloader"):
        raise ValueError(f"{cfg.filename} trains nothing; take a config that does, such as desco_coco_photos")
    test = cfg.get("test_dataloader") or cfg.get("val_dataloader")
    cfg.train_dataloader.dataset = _own(cfg.train_dataloader.dataset, args.annotations, args.images)
    if args.val_annotations is None:
        cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None
        print("no --val-annotations: no AP will be reported at the end; ovdense test RUN --annotations FILE.json does so later")
        return
    images = args.val_images or args.images
    if images is None and Path(args.val_annotations).resolve().parent != Path(args.annotations).resolve().parent:
        print(f"the photos of --val-annotations are looked for in its own folder, {Path(args.val_annotations).parent}")
    dataset = _own(test.dataset, args.val_annotations, images)
    for split in ("val", "test"):
        cfg[f"{split}_dataloader"] = {**test, "dataset": dataset}
        cfg[f"{split}_evaluator"] = _metric()


def _metric() -> list[dict[str, Any]]:
    return [dict(type="ovdense.evaluation.detection.CocoMetric")]  # names, not classes: the run's config is written down and read again


def _own(dataset: Mapping[str, Any], annotations: str, images: str | None) -> dict[str, Any]:
    """Return the settings of a data set of boxes, on these files; ValueError where the config's is none of boxes."""
    from ovdense.data.detection import DetectionDataset
    from ovdense.registry import DATASETS

    kind = DATASETS.get(dataset["type"]) if isinstance(dataset["type"], str) else dataset["type"]
    if not (isinstance(kind, type) and issubclass(kind, DetectionDataset)):
        raise ValueError(f"--annotations are boxes with classes, but this config's data are {getattr(kind, '__name__', kind)}; take one that is trained on "
                         "boxes, such as desco_coco_photos")  # fmt: skip
    file = Path(annotations).expanduser().resolve()
    if not file.is_file():
        raise FileNotFoundError(f"--annotations and --val-annotations must be existing files, got {annotations}")
    if file.suffix.lower() != ".json":
        raise ValueError(f"annotations must be one JSON file in COCO's form, got {annotations}; bring others to it with: "
                         f"ovdense annotations {annotations} OUT.json --to coco")  # fmt: skip
    folder = Path(images).expanduser().resolve() if images is not None else file.parent
    if not folder.is_dir():
        raise FileNotFoundError(f"--images and --val-images must be existing folders, got {images}")
    kept = {key: dataset[key] for key in _KEPT if key in dataset}
    return {"type": "ovdense.data.detection.CocoDetection", "ann_file": str(file), "image_prefix": str(folder), **kept}


def _steps(cfg: Config) -> Iterator[Any]:
    """Yield the transforms of all data sets of a config, each settings once."""
    seen: list[int] = []
    for split in ("train", "val", "test"):
        for step in ((cfg.get(f"{split}_dataloader") or {}).get("dataset") or {}).get("transforms") or ():
            if id(step) not in seen:
                seen.append(id(step))
                yield step


def _scale(cfg: Config, short_side: int) -> None:
    """Let every resize be to this shorter side, the longer's bound in proportion."""
    steps = [step for step in _steps(cfg) if "short_sides" in step]
    if short_side < 32 or not steps:
        raise ValueError("--short-side must be at least 32, for a config that scales photos by their shorter side; "
                         f"got {short_side} and {len(steps)} such steps")  # fmt: skip
    for step in steps:
        step["max_size"] = round(step.get("max_size", 1333) * short_side / max(step["short_sides"]))
        step["short_sides"] = (short_side,)


def use_iterations(cfg: Config, number: int) -> None:
    """Train for `number` iterations; the learning rate's schedule and the validation keep to it in proportion, checkpoints if it is shorter."""
    old = (cfg.get("train_cfg") or {}).get("max_iters")
    if number < 1 or not old:
        raise ValueError(f"--iterations must be at least 1, for a config that counts iterations (train_cfg.max_iters); got {number} and {old}")
    schedule = cfg.get("param_scheduler") or []
    for part in [schedule] if isinstance(schedule, Mapping) else schedule:
        if part.get("by_epoch", True):
            raise ValueError("--iterations needs a schedule of the learning rate in iterations (by_epoch=False)")
        for key in ("begin", "end", "T_max", "total_iters"):
            if part.get(key):
                part[key] = max(1, round(part[key] * number / old))
        if "milestones" in part:
            part["milestones"] = [max(1, round(m * number / old)) for m in part["milestones"]]
    cfg.train_cfg.max_iters = number
    if cfg.train_cfg.get("val_interval"):
        cfg.train_cfg.val_interval = max(1, round(cfg.train_cfg.val_interval * number / old))
    checkpoint = (cfg.get("default_hooks") or {}).get("checkpoint") or {}
    if not checkpoint.get("by_epoch", True) and checkpoint.get("interval", -1) > 0:
        checkpoint["interval"] = max(1, round(checkpoint["interval"] * min(1.0, number / old)))


def say_data(runner: Any) -> None:
    """Print how much there is to train and to validate on, and for which classes."""
    parts = []
    for split in ("train", "val"):
        dataset = getattr(getattr(runner, f"{split}_loop"), "dataloader", None)
        dataset = getattr(dataset, "dataset", None)
        vocabulary = getattr(dataset, "vocabulary", None)
        if vocabulary is not None:
            names = ", ".join(vocabulary.names[:8]) + (", ..." if len(vocabulary) > 8 else "")
            parts.append(f"{'training' if split == 'train' else 'validation'} on {len(dataset)} images, {len(vocabulary)} classes ({names})")
    print("; ".join(parts))
