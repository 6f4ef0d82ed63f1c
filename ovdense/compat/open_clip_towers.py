"""Towers of open_clip by a model's name and its weights: a tag goes to open_clip, a file is read as data, OpenAI's TorchScript archives too."""
import difflib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from torch import Tensor, nn

from ovdense.compat.hub import hub_access
from ovdense.compat.weights import load_checked, read_state_dict


def open_clip_tower(part: Literal["visual", "text"], model_name: str, pretrained: str | Path | None) -> nn.Module:
    """Return the image or the text tower of open_clip's `model_name`.

    `pretrained`: a local file of the whole model or of this tower (OpenAI's archive, a state dict), one of open_clip's tags, or None for random weights.
    KeyError for an unknown name, ValueError for a file of another architecture. open_clip itself refuses OpenAI's archives, or would run their program.
    """
    import open_clip

    if model_name not in open_clip.list_models():
        near = difflib.get_close_matches(model_name, open_clip.list_models(), n=3)
        raise KeyError(f"unknown open_clip model {model_name!r}; near it there are {near}, see open_clip.list_models()")
    file = None if pretrained is None or not Path(pretrained).expanduser().is_file() else Path(pretrained).expanduser()
    more = dict(force_custom_text=True, pretrained_text=False) if part == "text" else {}
    with hub_access(pretrained, "KEY.pretrained=/FILE (the setting that names them)"), _quiet(file is not None):
        model = open_clip.create_model(model_name, pretrained=None if pretrained is None or file else str(pretrained), **more)
    tower = getattr(model, part)
    if file is not None:
        load_checked(tower, _tower_state(read_state_dict(file), part), str(file))
    return tower


@contextmanager
def _quiet(wanted: bool) -> Iterator[None]:
    """Keep open_clip from telling that a model has random weights, where a file's follow."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR if wanted else level)
    try:
        yield
    finally:
        logger.setLevel(level)


def _tower_state(state: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    """Return a tower's part of a whole model's tensors; OpenAI's files have the text tower's names without a prefix."""
    plain = {name.removeprefix("module."): value for name, value in state.items()}
    own = {name.removeprefix(f"{part}."): value for name, value in plain.items() if name.startswith(f"{part}.")}
    return own or {name: value for name, value in plain.items() if not name.startswith("visual.")}
