"""Reading weights files, for image towers: `ovdense.compat.weights` under its former name."""
from ovdense.compat.weights import load_checked, read_state_dict

__all__ = ["load_checked", "read_state_dict"]
