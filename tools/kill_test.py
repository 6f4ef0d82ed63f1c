"""Kill training, indexing and support-set building at random moments, resume, and compare every bit with an undisturbed run.

    python tools/kill_test.py --train configs/desco_lvis_mini.py --index --support --kills 50
    python tools/kill_test.py --train configs/*_mini.py --workers 0 2 --steps 6 --kills 3      # resume is exact, for these configs

Each run is a forked child of this process (which has imported everything) and ends by SIGKILL. Then every file must be whole, nothing lost but the
step in flight, and a run that resumes must end with the same weights, optimiser, averages, random states and batches.
"""
import argparse
import hashlib
import json
import mmap
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))
import _kill_jobs as kill_jobs  # noqa: E402

from ovdense.cli.parser import Parser  # noqa: E402
from ovdense.compat.atomic import remove_left, replace_file  # noqa: E402
from ovdense.runs import clean_errors  # noqa: E402

TOO_LATE = 8  # times that a child may end before it is killed
POLL_SECONDS = 0.002


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__.split("\n")[0], epilog="Exits with 1 when anything was lost, half written, or differs.")
    parser.add_argument("--train", nargs="+", default=[], metavar="CONFIG", help="configs whose training is killed and resumed; a checkpoint after each step")
    parser.add_argument("--index", action="store_true", help="kill the indexing of a folder of images")
    parser.add_argument("--support", action="store_true", help="kill the drawing of support sets and the building of their prototypes")
    parser.add_argument("--kills", type=int, default=50, metavar="N", help="kills of each (default: %(default)s)")
    parser.add_argument("--disk-full", type=int, default=0, metavar="N", help="runs of each that no room is left for, before one that goes on (default: 0)")
    parser.add_argument("--steps", type=int, default=6, metavar="N", help="training steps (default: %(default)s)")
    parser.add_argument("--workers", type=int, nargs="+", default=[0], metavar="N", help="data workers of the killed and resumed runs, in turns (default: 0)")
    parser.add_argument("--data-root", metavar="DIR", help="folder that holds the configs' data")
    parser.add_argument("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="settings of the configs to change")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: %(default)s)")
    parser.add_argument("--out", metavar="FILE.json", help="write the figures")
    parser.add_argument("--keep", metavar="DIR", help="work there and keep what failed (default: a temporary folder)")
    return parser.parse_args(argv)


@dataclass
class Tally:
    """What the kills of one job came to."""

    name: str
    kills: int = 0
    full: int = 0
    while_writing: int = 0
    resumed: int = 0
    equal: int = 0
    most_lost: int = 0
    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def row(self) -> dict:
        return {"job": self.name, "kills": self.kills, "full disks": self.full, "half written beside their target": self.while_writing, "resumed": self.resumed,
                "same bits as undisturbed": self.equal, "most finished steps lost": self.most_lost, "faults": self.faults,
                "seconds": round(self.seconds, 1)}  # fmt: skip


class Child:
    """A forked run of a job. `counted`: steps that it has finished, `loaded`: samples that it has read, shared with it."""

    def __init__(self, job, folder: Path, variant: int, log: Path, largest_file: int | None = None) -> None:
        self.shared = mmap.mmap(-1, 8 * 66)
        self.log = log
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                os.setsid()
                handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
                for stream in (1, 2):
                    os.dup2(handle, stream)
                if largest_file is not None:
                    resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
                job.run(folder, variant, self.shared)
                code = 0
            except BaseException as error:
                print(error, file=sys.stderr, flush=True)  # first: on a full disk the rest may find no room
                traceback.print_exc()
            finally:
                os._exit(code)

    @property
    def counted(self) -> int:
        return int.from_bytes(self.shared[:8], "little")

    @property
    def loaded(self) -> int:
        return sum(int.from_bytes(self.shared[n : n + 8], "little") for n in range(8, len(self.shared), 8))

    def ended(self) -> int | None:
        """Return the exit status, None while it runs; what it left running is ended too."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if not pid:
            return None
        self._end_group()
        return status

    def wait(self) -> int:
        _, status = os.waitpid(self.pid, 0)
        self._end_group()
        return status

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self.wait()

    def _end_group(self) -> None:
        try:
            os.killpg(self.pid, signal.SIGKILL)  # data workers, which would notice by themselves within seconds
        except ProcessLookupError:
            pass


def undisturbed(job, base: Path) -> tuple[dict, float, float]:
    """Return (result, seconds before the first step, seconds a step) of a run that nobody kills."""
    folder, log = base / "undisturbed", base / "undisturbed.log"
    began, first = time.monotonic(), None
    child = Child(job, folder, 0, log)
    while (status := child.ended()) is None:
        if first is None and child.counted:
            first = time.monotonic()
        time.sleep(POLL_SECONDS)
    if status:
        raise ValueError(f"{job.name}: the run must end by itself before it is killed, but failed: {log.read_text()[-1500:]}")
    end = time.monotonic()
    return job.result(folder), (first or end) - began, max(0.01, (end - (first or began)) / max(1, job.total - 1))


def killed(job, folder: Path, variant: int, log: Path, moments: random.Random, setup: float, step: float) -> Child | None:
    """Return a child that was killed at a random moment, sometimes before its first step; None when it ended every time before."""
    for attempt in range(TOO_LATE):
        moment = moments.uniform(-0.1 * job.total, job.total - 0.02)
        after, wait = (0, setup * moments.random()) if moment < 0 else (int(moment), step * (moment % 1) * 1.2)
        child = Child(job, folder, variant, log)
        while (status := child.ended()) is None and child.counted < after:
            time.sleep(POLL_SECONDS)
        time.sleep(0 if status is not None else wait * 0.5**attempt)  # the machine may be faster now than when it was measured
        if status is None and (status := child.ended()) is None:
            child.kill()
            return child
        if status:
            raise ValueError(f"{job.name}: the run failed before it was killed: {log.read_text()[-1500:]}")
        job.forget(folder)
    return None


def kill_once(job, base: Path, n: int, variant: int, tally: Tally, expected: dict, moments: random.Random, times: tuple[float, float]) -> None:
    folder, log = base / f"{n:03d}", base / f"{n:03d}.log"
    before = len(tally.faults)
    child = killed(job, folder, variant, log, moments, *times)
    if child is None:
        tally.faults.append(f"kill {n}: the run ended before it could be killed, {TOO_LATE} times")
        return
    tally.kills += 1
    tally.while_writing += any(folder.rglob(".*.ovdense.tmp"))
    _then_resume(job, folder, variant, log, f"kill {n}", child, tally, expected)
    if len(tally.faults) == before:
        job.forget(folder)


def fill_once(job, base: Path, n: int, variant: int, tally: Tally, expected: dict, moments: random.Random, times: tuple[float, float]) -> None:
    """Kill a run, go on where no file may be larger than a part of the largest one that it writes, as on a full disk; then resume with room."""
    folder, log, before = base / f"full_{n:03d}", base / f"full_{n:03d}.log", len(tally.faults)
    sizes = [p.stat().st_size for p in (base / "undisturbed").rglob("*") if p.is_file()]
    killed(job, folder, variant, log, moments, *times)
    kept, _ = job.inspect(folder)
    child = Child(job, folder, variant, log, int(max(sizes) * moments.uniform(0.5, 0.99)))
    failed, said = child.wait(), log.read_text(errors="replace") if log.is_file() else ""
    tally.full += 1
    if failed and " could not be written: the file would be larger" not in said:
        tally.faults.append(f"full disk {n}: the error is not clear: {said[-600:]}")
    if job.inspect(folder)[0] < kept:
        tally.faults.append(f"full disk {n}: {kept} steps were there before, {job.inspect(folder)[0]} after")
    _then_resume(job, folder, variant, log, f"full disk {n}", child, tally, expected)
    if len(tally.faults) == before:
        job.forget(folder)


def _then_resume(job, folder: Path, variant: int, log: Path, what: str, child: Child, tally: Tally, expected: dict) -> None:
    """Look at what a run left that was stopped, let another go on to the end, and compare."""
    kept, half = job.inspect(folder)
    lost = max(0, child.counted - kept)
    tally.most_lost = max(tally.most_lost, lost)
    tally.faults += [f"{what} at step {child.counted}: {fault}" for fault in half]
    if lost:
        tally.faults.append(f"{what}: {child.counted} steps were finished, {kept} are there")
    again = Child(job, folder, variant, log)
    if again.wait():
        tally.faults.append(f"{what}: the run that resumes failed: {log.read_text()[-600:]}")
        return
    tally.resumed += 1
    different = job.differences(expected, job.result(folder), kept, again.loaded, variant)
    for place in [folder, *(p for p in folder.rglob("*") if p.is_dir())]:
        remove_left(place)  # as the next write there would, a minute later; what a living process held would stay
    left = [str(p.relative_to(folder)) for p in folder.rglob(".*.ovdense.*")]
    tally.equal += not different
    tally.faults += [f"{what}, resumed at {kept}: {d}" for d in different] + [f"{what}: left behind: {name}" for name in left]


def test_job(job, base: Path, args: argparse.Namespace) -> Tally:
    began, tally, moments = time.monotonic(), Tally(job.name), random.Random(f"{args.seed} {job.name}")
    base.mkdir(parents=True)
    expected, *times = undisturbed(job, base)
    for n in range(args.kills):
        kill_once(job, base, n, job.variants[n % len(job.variants)], tally, expected, moments, tuple(times))
    for n in range(args.disk_full):
        fill_once(job, base, n, job.variants[n % len(job.variants)], tally, expected, moments, tuple(times))
    tally.seconds = time.monotonic() - began
    return tally


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    with clean_errors(), tempfile.TemporaryDirectory(prefix="kill_test_") as temporary:
        base = Path(args.keep or temporary).resolve()
        jobs = [kill_jobs.Training(config, args, base) for config in args.train]
        jobs += [kill_jobs.Indexing(base)] * args.index + [kill_jobs.SupportSets(base)] * args.support
        if not jobs:
            raise ValueError("nothing to kill: give --train CONFIG, --index or --support")
        kill_jobs.import_all(jobs)
        tallies = []
        for number, job in enumerate(jobs):
            tallies.append(tally := test_job(job, base / f"{number}_{hashlib.sha256(job.name.encode()).hexdigest()[:8]}", args))
            full = f", {tally.full} full disks" * bool(tally.full)
            print(f"{job.name}: {tally.kills} kills ({tally.while_writing} with a file half written beside its target){full}, {tally.resumed} resumed, "
                  f"{tally.equal} with the bits of the undisturbed run, {tally.most_lost} finished steps lost, {tally.seconds:.0f} s", flush=True)  # fmt: skip
            for fault in tally.faults:
                print(f"  fault: {fault}", flush=True)
        if args.out:
            replace_file(args.out, json.dumps({"kills": args.kills, "seed": args.seed, "jobs": [t.row() for t in tallies]}, indent=1))
    return 1 if any(t.faults or t.kills < args.kills for t in tallies) else 0


if __name__ == "__main__":
    sys.exit(main())
