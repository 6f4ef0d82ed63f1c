"""Arrows point down, methods do not meet, files stay small, and importing the package stays light."""
import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "ovdense"
# A room may import rooms of a smaller number, and itself.
FLOOR = {
    "registry": 0, "structures": 0, "measure": 0, "compat": 1, "drawing": 1,
    "text": 2, "vision": 2, "layers": 2, "losses": 2,
    "heads": 3, "support": 3, "data": 3, "evaluation": 3, "interchange": 3.5,
    "methods": 4, "zoo": 0, "image_cache": 1, "results": 4, "rivals": 4, "api": 5, "export": 5, "runs": 6, "web": 6, "__init__": 7, "cli": 8,
}
HOME = {"mmdet": {"compat"}, "mmseg": {"compat"}, "mmcv": {"compat"}, "diffusers": {"vision", "support"}, "transformers": {"text"},
        "open_clip": {"compat", "text", "vision"}, "timm": {"vision"}, "segment_anything": {"vision", "support"}}
HEAVY = ("mmdet", "mmseg", "diffusers", "transformers", "open_clip", "segment_anything")
MAX_LINES = 600
METHOD_COMMONS = {"base", "dual_encoder", "dense_model", "hooks", "progress", "amp", "checkpoints", "reporting", "ranks", "sharding"}


def imports(source: str, parts: tuple[str, ...]) -> Iterator[tuple[str, int, bool]]:
    """Yield (dotted module, line, at import time) for every import of the module whose dotted path is `parts`."""
    tree = ast.parse(source)
    deferred = {id(n) for f in ast.walk(tree) if isinstance(f, ast.FunctionDef | ast.AsyncFunctionDef) for n in ast.walk(f)}
    package = parts[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno, id(node) not in deferred
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) + "." if node.level else ""
            yield (base + (node.module or "")).rstrip("."), node.lineno, id(node) not in deferred


def violations(source: str, relative: Path) -> list[str]:
    """Return what the file at `relative` (below the package) does against the rules."""
    room, found = relative.parts[0].removesuffix(".py"), []
    if room not in FLOOR:
        return [f"{relative}: room '{room}' has no floor; add it to FLOOR"]
    lines = source.count("\n")
    if lines > MAX_LINES:
        found.append(f"{relative}: {lines} lines, limit {MAX_LINES}")
    for module, line, now in imports(source, ("ovdense", *relative.with_suffix("").parts)):
        top, *rest = module.split(".")
        where = f"{relative}:{line}"
        if top == "ovdense" and rest:
            other = rest[0]
            if other != room and FLOOR.get(other, 99) >= FLOOR[room]:
                found.append(f"{where}: '{room}' must not import '{other}' (arrows point down)")
            if room == other == "methods" and len(relative.parts) > 1 and len(rest) > 1:
                mine = relative.parts[1].removesuffix(".py")
                if rest[1] not in METHOD_COMMONS | {mine}:
                    found.append(f"{where}: method '{mine}' must not import method '{rest[1]}'")
        if top in HOME and room not in HOME[top]:
            found.append(f"{where}: only {sorted(HOME[top])} may import {top}")
        elif top in HEAVY and now:
            found.append(f"{where}: import {top} inside the function that needs it")
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_architecture__arrows_point_down(path):
    assert violations(path.read_text(encoding="utf8"), path.relative_to(PACKAGE)) == []


@pytest.mark.parametrize(
    "relative, source, fault",
    [
        ("text/prompts.py", "from ovdense.heads.decode import x\n", "must not import 'heads'"),
        ("data/detection.py", "def f():\n    from ovdense.evaluation import y\n", "must not import 'evaluation'"),
        ("methods/desco/model.py", "from ovdense.methods.mdetr import model\n", "must not import method 'mdetr'"),
        ("methods/desco/model.py", "from ..mdetr import model\n", "must not import method 'mdetr'"),
        ("heads/decode.py", "import mmcv.ops\n", "may import mmcv"),
        ("text/encoders.py", "from transformers import BertModel\n", "inside the function"),
        ("kitchen/sink.py", "", "has no floor"),
        ("losses.py", "\n" * 700, "limit"),
    ],
)
def test_architecture__a_breach_is_found(relative, source, fault):
    found = violations(source, Path(relative))
    assert len(found) == 1 and fault in found[0]


def test_import__is_light():
    heavy = (*HEAVY, "mmcv", "timm", "cv2", "pandas")
    code = f"import ovdense, sys; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent, env=os.environ)
    assert out.stdout.strip() == "[]"


def test_registries__locations_reach_every_registered_class():
    """Each module that registers a class is listed, so that looking a name up imports it; nothing else is imported for it."""
    from ovdense import registry

    listed = {m for r in vars(registry).values() if hasattr(r, "_locations") and r.scope == registry.SCOPE for m in r._locations}
    for path in PACKAGE.rglob("*.py"):
        module = ".".join(("ovdense", *path.relative_to(PACKAGE).with_suffix("").parts))
        if ".register_module(" in path.read_text(encoding="utf8"):
            assert module in listed, f"{module} registers a class, but no registry lists it"
        else:
            assert module not in listed, f"{module} is listed by a registry, but registers no class"
