"""Where data and caches live, and what to say when data is missing.

The rule itself is `ovdense.compat.paths`, so that rooms below this one can use it; this module is its name for users.
"""
from pathlib import Path

from ovdense.compat.paths import cache_root, data_path, describe_data_root

__all__ = ["below_data_root", "cache_root", "data_path", "how_to_get", "require_file", "MINI_CONFIG", "SOURCES"]

MINI_CONFIG = "configs/desco_lvis_mini.py"
SOURCES = {
    "LVIS v1": "photos (train2017, val2017) come from cocodataset.org, annotations (lvis_v1_train.json, lvis_v1_val.json) from lvisdataset.org",
    "COCO 2017": "photos (train2017, val2017) and annotations (instances_train2017.json, instances_val2017.json) come from cocodataset.org",
    "ADE20K": "ADEChallengeData2016.zip (SceneParse150) comes from sceneparsing.csail.mit.edu",
    "COCO-Stuff": "stuffthingmaps_trainval2017.zip comes from github.com/nightrome/cocostuff, photos from cocodataset.org",
    "Pascal VOC": "VOCtrainval_11-May-2012.tar (VOCdevkit/VOC2012) comes from host.robots.ox.ac.uk",
}


def below_data_root(path: str | Path, data_root: str | None = None) -> str | Path:
    """Return `path` below the data root (None: OVDENSE_DATA, else ./data) if there is such a file, else as it is."""
    below_root = data_path(path, data_root)
    return below_root if below_root.is_file() else path


def how_to_get(dataset: str) -> str:
    """Return the sentence that says where `dataset` comes from, how to pass its folder, and what runs without it."""
    source = f"{dataset}: {SOURCES[dataset]}. " if dataset in SOURCES else ""
    return (
        f"{source}Pass the folder that holds the data as --data-root FOLDER, or set OVDENSE_DATA=FOLDER. "
        f"Without any download this runs now: python tools/train.py {MINI_CONFIG}"
    )


def require_file(relative: str | Path, data_root: str | Path | None, dataset: str) -> Path:
    """Return the file's path below the data root; FileNotFoundError says which root that is, where `dataset` comes from and what runs now."""
    path = data_path(relative, data_root)
    if path.is_file():
        return path
    nearest = next((p for p in path.parents if p.is_dir()), Path("."))
    raise FileNotFoundError(
        f"{dataset}: the file {path} is missing (the last folder on its way that exists is {nearest}). "
        f"{where_looked(relative, data_root)}{how_to_get(dataset)}"
    )


def where_looked(relative: str | Path, data_root: str | Path | None) -> str:
    """Return the sentence that says which data root `relative` was looked for in; empty for an absolute path."""
    if Path(relative).is_absolute():
        return ""
    return f"{str(relative)!r} is relative to {describe_data_root(data_root)}. "
