"""Devices by their names, with words for those that are not there."""
import torch


def usable_device(device: str | torch.device | None) -> torch.device:
    """Return the device of a name (None: an accelerator if there is one); ValueError for what is no device, or is not on this machine.

    >>> usable_device("cpu")
    device(type='cpu')
    """
    if device is None:
        from mmengine.device import get_device

        return torch.device(get_device())
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:  # each backend has its own
        raise ValueError(f"the device must be cpu, cuda:0 or another that this machine has, got {str(device)!r} ({_first_sentence(error)})") from None
    return found


def _first_sentence(error: Exception) -> str:
    return str(error).partition("\n")[0].partition(". ")[0].strip()[:120].rstrip(".")
