"""What a command says: tables for people, or with --json one object on stdout while all other words go to stderr."""
import contextlib
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def outcome(as_json: bool) -> Iterator[dict[str, Any]]:
    """Yield a dict to fill; with `as_json` it is printed on stdout at the end, and only it: prints and logs in between go to stderr."""
    found: dict[str, Any] = {}
    if not as_json:
        yield found
        return
    stdout = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        yield found
    print(json.dumps(found, indent=1, ensure_ascii=False, default=_plain), file=stdout)


class Report:
    """A file of JSON that a run may write; `read` returns its content where it was written since, None where it is an earlier run's.

    `goes_on`: what is there already is this run's, which goes on.
    """

    def __init__(self, path: Path, *, goes_on: bool = False) -> None:
        self.path = path
        self._before = None if goes_on else self._state()

    def _state(self) -> tuple[int, int] | None:
        return (self.path.stat().st_mtime_ns, self.path.stat().st_ino) if self.path.is_file() else None

    def read(self) -> Any:
        return json.loads(self.path.read_text(encoding="utf8")) if self._state() not in (None, self._before) else None


def require_other(out: str | Path, read: Iterable[str | Path | None], flag: str) -> None:
    """Raise ValueError where the file to write is one of those that are read, a folder's checkpoints among them: it would be lost."""
    out = Path(out).expanduser()
    for given in (Path(r).expanduser() for r in read if r is not None):
        if out.exists() and any(file.exists() and out.samefile(file) for file in (given.glob("*.pth") if given.is_dir() else [given])):
            raise ValueError(f"{flag} must be another file than those that are read, got {out}; give another name")


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else str(value)


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], title: str | None = None, right: Sequence[str] = ()) -> None:
    """Print rows as a table; columns named in `right` are aligned there. A file is as wide as it needs to be."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(title=title)
    for column in columns:
        drawn.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*(cell if isinstance(cell, Text) else Text(str(cell)) for cell in row))
    console = Console()
    (console if console.is_terminal else Console(width=150)).print(drawn)


@contextlib.contextmanager
def progress(what: str, total: int) -> Iterator[Any]:
    """Yield a function to call once a piece; a bar with the time left is drawn on a terminal's stderr and goes away at the end."""
    if total < 2 or not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    with Progress(TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda: bar.advance(task)


def size(count: int) -> str:
    """Return bytes for people: 532 B, 1.4 KiB, 2.0 GiB."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError
