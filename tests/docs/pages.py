"""The fenced blocks of the Markdown pages, and what a shell line of them names."""
import ast
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(p for p in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")) if "site" not in p.parts)
_FENCE = re.compile(r"^```(\w+)[ \t]*\n(.*?)^```[ \t]*$", re.M | re.S)
SHARED_OPTIONS = {"--help", "--version"}


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    language: str
    text: str

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path, *languages: str) -> list[Block]:
    """Return the fenced blocks of these languages, in order."""
    content = page.read_text(encoding="utf8")
    found = (Block(page, content[: m.start()].count("\n") + 1, m[1], m[2]) for m in _FENCE.finditer(content))
    return [block for block in found if block.language in languages]


def commands(block: Block) -> Iterator[list[str]]:
    """Yield the words of each command of a shell block, continued lines joined, comments left out."""
    for line in block.text.replace("\\\n", " ").splitlines():
        for part in re.split(r"\s&&\s", line):
            words = shlex.split(part, comments=True)
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words = words[1:]
            if words:
                yield words


@cache
def options_of(script: Path) -> frozenset[str]:
    """Return the options that a script's parser takes, read from its source and that of the command that it stands for: nothing is run."""
    source = script.read_text(encoding="utf8")
    sources = [source, ROOT / "ovdense" / "runs.py", ROOT / "ovdense" / "cli" / "parser.py"]
    sources += [ROOT / "ovdense" / "cli" / f"{name}.py" for name in re.findall(r"from ovdense\.cli\.(\w+) import", source)]
    found = set(SHARED_OPTIONS)
    for text in sources:
        for node in ast.walk(ast.parse(text if isinstance(text, str) else text.read_text(encoding="utf8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and re.fullmatch(r"-{1,2}[A-Za-z][\w-]*", node.value):
                found.add(node.value)
    return frozenset(found)


def _script_of(words: list[str]) -> tuple[Path | None, str]:
    """Return the file whose options a command takes, and what to call it; None where there is no such command."""
    if words[0] != "ovdense":
        return ROOT / words[1], words[1]
    from importlib import import_module

    table, named = import_module("ovdense.cli").COMMANDS.table, ["ovdense"]
    for word in words[1:]:
        if word not in table:
            break
        module = import_module(table[word][0])
        named.append(word)
        if not hasattr(module, "COMMANDS"):
            return Path(module.__file__), " ".join(named)
        table = module.COMMANDS.table
    return (None, " ".join(words[: len(named) + 1])) if words[1:2] != ["--version"] else (ROOT / "ovdense" / "cli" / "parser.py", "ovdense")


def faults(words: list[str], made: set[str]) -> list[str]:
    """Return what a command names that is not there: scripts, commands, configs, options, extras. `made`: paths that the page says the reader makes."""
    if words[0] == "torchrun":
        words = ["python", *words[next(i for i, w in enumerate(words) if w.endswith(".py")):]]
    if words[0] == "pip" or words[:3] == ["python", "-m", "pip"]:
        return [f"no extra {e!r}" for w in words for m in [re.search(r"\[([\w,]+)\]", w)] if m for e in m[1].split(",") if e not in extras()]
    if words[0] != "ovdense" and (words[0] != "python" or len(words) < 2 or not words[1].endswith(".py")):
        return []
    script, name = _script_of(words)
    if script is None or not script.is_file():
        return [f"no {'command' if script is None else 'script'} {name}"]
    found = [f"{name} has no option {w.partition('=')[0]}" for w in words if w.startswith("--") and w.partition("=")[0] not in options_of(script)]
    return found + [f"no config {w}" for w in words if re.fullmatch(r"configs/\w+\.py", w) and w not in made and not (ROOT / w).is_file()]


@cache
def extras() -> frozenset[str]:
    section = (ROOT / "pyproject.toml").read_text(encoding="utf8").partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    return frozenset(re.findall(r"^([\w-]+) = \[", section, re.M))
