"""What a test does to its process is undone before the next one, and unseeded draws do not depend on what ran before."""
import os
import random
import subprocess
import sys

import numpy as np
import pytest
import torch

from tests.ranks import wait_all

_states: set[tuple] = set()


@pytest.mark.parametrize("turn", range(3))
def test_process__is_the_same_at_the_start_of_each_test(turn, tmp_path):
    draws = random.random(), float(np.random.rand()), float(torch.rand(()))
    _states.add((*draws, os.getcwd(), os.environ.get("OVDENSE_DATA"), os.environ.get("OVDENSE_LEFT_BY_A_TEST"), "PATH" in os.environ, torch.get_num_threads()))
    os.environ["OVDENSE_DATA"] = str(tmp_path)
    os.environ["OVDENSE_LEFT_BY_A_TEST"] = "1"
    os.environ.pop("PATH")
    os.chdir(tmp_path)
    torch.set_num_threads(torch.get_num_threads() + 1)
    assert len(_states) == 1, "an earlier turn is noticed"


def test_wait_all__ends_the_others_as_soon_as_one_has_failed_or_none_moves():
    def start(code: str) -> subprocess.Popen:
        return subprocess.Popen([sys.executable, "-c", f"import time; {code}"])

    wait_all([start("pass"), start("pass")])
    for others, patience, said in (("raise SystemExit(3)", 900, "one failed"), ("time.sleep(900)", 0.2, "still running")):
        running = [start("time.sleep(900)"), start(others)]
        with pytest.raises(AssertionError, match=said):
            wait_all(running, patience)
        assert all(p.poll() is not None for p in running)


@pytest.mark.parametrize("turn", range(2))
def test_log__of_a_test_is_in_its_own_output(turn, request):
    from mmengine.logging import MMLogger, print_log

    if turn == 0:  # a logger is made, as by any run, while nobody reads what it says
        MMLogger.get_current_instance()
        return
    read = request.getfixturevalue("capfd").readouterr
    print_log("said now", logger="current")
    assert "said now" in read().out
