"""Weights that are given by a name of the model hub: from what was fetched before, else from the hub where it can be reached, else an error with words."""
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

SECONDS = 5.0


@contextmanager
def hub_access(source: str | Path | None, option: str) -> Iterator[None]:
    """While the weights named `source` are loaded: without the hub, nothing waits for it. None, a file or a folder have nothing to do with it.

    FileNotFoundError where they were not fetched before and cannot be now; `option` says how a local file or folder is given instead.
    """
    if source is None or Path(source).expanduser().exists():
        yield
        return
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not _reachable()
    try:
        yield
    except (OSError, RuntimeError) as error:  # the latter is open_clip's when it cannot fetch
        if isinstance(error, RuntimeError) and not constants.HF_HUB_OFFLINE:
            raise
        offline = "the hub cannot be reached" if constants.HF_HUB_OFFLINE else f"the hub said: {str(error).strip().partition(chr(10))[0][:200]}"
        raise FileNotFoundError(
            f"the weights {str(source)!r} are no file or folder of this machine and were not fetched before ({offline}); "
            f"give local ones: --cfg-options {option}"
        ) from error
    finally:
        constants.HF_HUB_OFFLINE = before


@cache
def _reachable() -> bool:
    """Return whether the hub answers; asked once a process, through the proxies that are set."""
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=SECONDS)
    except Exception:  # noqa: BLE001  (of whichever HTTP library it is)
        return False
    return True
