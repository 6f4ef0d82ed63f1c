"""How a program ends, alone or as one of several ranks."""
import atexit
import os
import sys
from typing import NoReturn


def end(code: int) -> NoReturn:
    """End this process with an exit code.

    One of several ranks does all that is registered for its end (files are closed, workers stopped, the process group is left), but not the
    interpreter's own teardown after it: threads of gloo that are still held there abort a process now and then (one in six sharded runs on a
    CPU), and the launcher then calls a run failed whose last checkpoint is written.
    """
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        sys.exit(code)
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
