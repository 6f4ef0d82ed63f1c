"""Time and memory of a piece of work, for benchmarks; a table to print them in."""
import mmap
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path


class PeakMemory:
    """The largest resident size, in MiB, while it is open, sampled every 5 ms; without /proc, that of the process so far."""

    STATM = Path("/proc/self/statm")

    @classmethod
    def note(cls) -> str:
        """Return what the figure means."""
        if cls.STATM.is_file():
            return "memory: the largest resident size during the step"
        return "memory: the largest resident size of the process so far, since this system has no /proc; rows cannot be told apart"

    def __enter__(self) -> "PeakMemory":
        self.mib, self._open = 0.0, self.STATM.is_file()
        self._sample()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _sample(self) -> None:
        if self._open:
            self.mib = max(self.mib, int(self.STATM.read_text().split()[1]) * mmap.PAGESIZE / 2**20)

    def _watch(self) -> None:
        while self._open:
            self._sample()
            time.sleep(0.005)

    def __exit__(self, *_) -> None:
        self._sample()  # a short step ends before the thread has had its turn
        self._open = False
        self._thread.join()
        if not self.STATM.is_file():
            self.mib = process_peak_mib()


def process_peak_mib() -> float:
    """Return the largest resident size, in MiB, of this process so far."""
    status = Path("/proc/self/status")
    if status.is_file() and (found := re.search(r"^VmHWM:\s*(\d+) kB$", status.read_text(), re.MULTILINE)):
        return int(found[1]) / 2**10
    import resource

    # on Linux this would count the size of the process that started this one: it is kept when another program is loaded
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)  # bytes there, KiB elsewhere


def _require_repeats(repeats: int) -> None:
    if repeats < 1:
        raise ValueError(f"what is timed must be run at least once, got {repeats} repeats; give --repeats 1 or more")


def median_seconds(run: Callable[[], object], repeats: int) -> float:
    """Return the median wall time of `run`, after one call to warm up."""
    _require_repeats(repeats)
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]


def interleaved_seconds(runs: Mapping[str, Callable[[], object]], repeats: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Return the wall times of each of `runs`, taken in turns, so that what slows the machine meets all of them alike."""
    _require_repeats(repeats)
    for run in runs.values():
        for _ in range(warm_up):
            run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats):
        for name in runs if turn % 2 == 0 else reversed(runs):
            start = time.perf_counter()
            runs[name]()
            times[name].append(time.perf_counter() - start)
    return times


def paired_ratio(slow: Sequence[float], fast: Sequence[float]) -> dict[str, float]:
    """Return median, lowest and highest of slow / fast of the same turn."""
    if len(slow) != len(fast) or not slow:
        raise ValueError(f"a paired ratio needs as many times of both, at least one, got {len(slow)} and {len(fast)}")
    ratios = sorted(a / b for a, b in zip(slow, fast))
    middle = (ratios[(len(ratios) - 1) // 2] + ratios[len(ratios) // 2]) / 2
    return {"ratio": round(middle, 2), "lowest": round(ratios[0], 2), "highest": round(ratios[-1], 2), "turns": len(ratios)}


def machine() -> str:
    """Return what the figures were taken on."""
    import platform

    model = "unknown processor"
    info = Path("/proc/cpuinfo")
    if info.is_file():
        model = next((line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")), model)
    return f"{model}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"


def print_rows(title: str, rows: Sequence[dict]) -> None:
    """Print a table, one column a key."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title)
    for column in rows[0]:
        table.add_column(column.replace("_", " "), justify="right")
    for row in rows:
        table.add_row(*(str(v) for v in row.values()))
    console = Console()
    (console if console.is_terminal else Console(width=150)).print(table)  # a file has no edge
