"""Runs that are killed at random moments, or find no room on the disk, and are resumed: tools/kill_test.py in short (docs/reliability.md)."""
import json
import os
import random
import subprocess
import sys
from types import SimpleNamespace

import pytest

from tests.tiny_methods import METHODS, write_data, write_method
from tests.tiny_run import ROOT, load_script


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("kill") / "data")


def kill_test(folder, *arguments: str) -> dict[str, dict]:
    """Return the figures of each job; whatever is wrong is said by the failure."""
    out = folder / "figures.json"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "OVDENSE_CACHE": str(folder / "cache")}
    done = subprocess.run([sys.executable, str(ROOT / "tools" / "kill_test.py"), *arguments, "--out", str(out), "--keep", str(folder / "runs")],
                          capture_output=True, text=True, env=environment)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return {row["job"]: row for row in json.loads(out.read_text())["jobs"]}


@pytest.mark.slow
def test_kills__nothing_is_lost_and_the_bits_are_the_same(tmp_path, data):
    config = write_method(tmp_path, "denseclip", "killed")
    rows = kill_test(tmp_path, "--train", str(config), "--index", "--support", "--kills", "4", "--disk-full", "1", "--steps", "3", "--workers", "0", "2",
                     "--data-root", str(data))  # fmt: skip
    assert len(rows) == 3
    for row in rows.values():
        assert row["kills"] == 4 and row["full disks"] == 1 and row["resumed"] == row["same bits as undisturbed"] == 5
        assert row["most finished steps lost"] == 0 and not row["faults"]


@pytest.mark.slow
def test_resume__is_exact_for_every_method(tmp_path, data):
    configs = [str(write_method(tmp_path, m, f"resumed_{m}")) for m in METHODS]
    rows = kill_test(tmp_path, "--train", *configs, "--kills", "2", "--steps", "4", "--workers", "0", "2", "--data-root", str(data))
    assert len(rows) == len(METHODS) and all(row["same bits as undisturbed"] == 2 for row in rows.values())


@pytest.mark.slow
def test_kill_test__finds_what_is_wrong(tmp_path, data):
    """A training whose order of images is not its position's, and whose dropout is not its step's, must not pass."""
    config = write_method(tmp_path, "desco", "careless")
    config.write_text(config.read_text().replace("custom_hooks, ", "") + "\ncustom_hooks = []\n")
    done = subprocess.run([sys.executable, str(ROOT / "tools" / "kill_test.py"), "--train", str(config), "--kills", "2", "--steps", "4", "--data-root",
                           str(data)], capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)})  # fmt: skip
    assert done.returncode == 1 and "weights differs" in done.stdout, done.stdout + done.stderr


def test_killed__in_time_where_the_machine_has_become_faster(tmp_path, monkeypatch):
    """A run of 12 steps of 0.1 s, measured at 20 times that while others used the machine."""
    script, clock = load_script("tools/kill_test.py"), [0.0]
    monkeypatch.setattr(script.time, "sleep", lambda seconds: clock.append(clock.pop() + seconds))

    class Run:
        def __init__(self, *_):
            self.began, self.was_killed = clock[0], False

        @property
        def counted(self):
            return min(12, int((clock[0] - self.began) / 0.1))

        def ended(self):
            return 0 if clock[0] - self.began > 1.2 else None

        def kill(self):
            self.was_killed = True

    monkeypatch.setattr(script, "Child", Run)
    job = SimpleNamespace(total=12, forget=lambda folder: None)
    for seed in range(100):
        found = script.killed(job, tmp_path, 0, tmp_path / "log", random.Random(seed), 2.0, 2.0)
        assert found is not None and found.was_killed, seed
