"""Every Python block of README and docs runs, page by page; every shell block names what exists."""
import re

import numpy as np
import pytest
from PIL import Image

from tests.docs.pages import PAGES, ROOT, blocks, commands, extras, faults

PYTHON = [p for p in PAGES if blocks(p, "python")]
NEEDS_WEIGHTS = ("work_dirs/",)  # a block that reads what only a training makes is checked for its syntax and names


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with what the pages call photo.jpg, drawing.png, photos/."""
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)).resize((160, 120), Image.Resampling.BICUBIC)
    (tmp_path / "photos").mkdir()
    for name in ("photo.jpg", "drawing.png", "photos/a.jpg"):
        picture.save(tmp_path / name)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(ROOT / "docs" / "examples")
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("page", PYTHON, ids=lambda p: str(p.relative_to(ROOT)))
def test_python_blocks__run(page, folder):
    names: dict = {"__name__": "page"}
    for block in blocks(page, "python"):
        code = compile("\n" * block.line + block.text, str(page), "exec")
        if not any(f'"{needed}' in line.partition("#")[0] for needed in NEEDS_WEIGHTS for line in block.text.splitlines()):
            exec(code, names)


def test_pages__have_blocks_that_run():
    assert len(PYTHON) >= 12 and sum(len(blocks(p, "python")) for p in PYTHON) >= 18


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "bash", "sh", "shell", "console")], ids=lambda p: str(p.relative_to(ROOT)))
def test_shell_blocks__name_what_exists(page):
    made = set(re.findall(r"save it as `(configs/\w+\.py)`", page.read_text(encoding="utf8")))
    found = [f"{block.name}: {fault}" for block in blocks(page, "bash", "sh", "shell", "console") for words in commands(block) for fault in faults(words, made)]
    assert found == []


@pytest.mark.parametrize("line, fault", [
    ("python tools/nothing.py x", "no script tools/nothing.py"), ("python tools/train.py configs/desco_lvis_minni.py", "no config configs/desco_lvis_minni.py"),
    ("python tools/test.py A --per-clas", "tools/test.py has no option --per-clas"), ('pip install "ovdense[phrase]"', "no extra 'phrase'"),
    ("ovdense exprt mini", "no command ovdense exprt"), ("ovdense vocab folded x", "no command ovdense vocab folded"),
    ("ovdense export mini --txts cat", "ovdense export has no option --txts"),
    ("torchrun --nproc-per-node 8 tools/train.py configs/desco_lvis.py --ampp", "tools/train.py has no option --ampp"),
])
def test_faults__are_found(line, fault):
    import shlex

    assert faults(shlex.split(line), set()) == [fault]


def test_extras__are_all_told():
    start = (ROOT / "docs" / "start.md").read_text(encoding="utf8")
    assert [e for e in sorted(extras()) if f"`{e}`" not in start] == []
