"""What is installed: the configs inside the package, found by the same names."""
import shutil
import subprocess
import sys
import zipfile
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
