"""What is installed: the configs inside the package, found by the same names."""
import ast
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_wheel__holds_the_configs_and_the_package_finds_them(tmp_path):
    source, out = tmp_path / "source", tmp_path / "site"
    for name in ("ovdense", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = "from setuptools import build_meta; print(build_meta.build_wheel('.'))"
    wheel = subprocess.run([sys.executable, "-c", build], cwd=source, capture_output=True, text=True, check=True).stdout.split()[-1]
    with zipfile.ZipFile(source / wheel) as archive:
        archive.extractall(out)
    inside = {p.relative_to(out / "ovdense" / "configs") for p in (out / "ovdense" / "configs").rglob("*.py")}
    assert inside == {p.relative_to(ROOT / "configs") for p in (ROOT / "configs").rglob("*.py")}
    missing = {p.relative_to(ROOT) for p in (ROOT / "ovdense").rglob("*.json")} - {p.relative_to(out) for p in out.rglob("*.json")}
    assert not missing
    ask = "import sys; sys.path.insert(0, sys.argv[1]); from ovdense import zoo; print(zoo.config_folder(), zoo.find('mini').path.is_file())"
    said = subprocess.run([sys.executable, "-c", ask, str(out)], cwd=tmp_path, capture_output=True, text=True, check=True, env={"PATH": "/usr/bin:/bin"})
    assert said.stdout.split() == [str(out / "ovdense" / "configs"), "True"]


def test_dependencies__all_that_is_imported_is_declared():
    """What comes along with another package today may not tomorrow. IPython is used where it runs already."""
    declared = (ROOT / "pyproject.toml").read_text(encoding="utf8").partition("\ndependencies = [")[2].partition("[project.scripts]")[0]
    declared = {re.sub(r"[-_.]+", "-", name).lower() for name in re.findall(r'"([A-Za-z0-9_.-]+)', declared)}
    known, missing = packages_distributions(), set()
    for file in (ROOT / "ovdense").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf8"))):
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            for top in {module.partition(".")[0] for module in modules} - {*sys.stdlib_module_names, "ovdense", "IPython"}:
                if not declared & {re.sub(r"[-_.]+", "-", name).lower() for name in known.get(top, [top])}:
                    missing.add(f"{top} in {file.relative_to(ROOT)}")
    assert not missing and len(declared) > 20
