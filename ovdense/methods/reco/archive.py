"""The unlabelled images that ReCo looks through: a folder, or the images of any data set; and how they are brought to size."""
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ovdense.compat.paths import data_path
from ovdense.data.center_crop import center_square
from ovdense.registry import DATASETS
from ovdense.support.retrieval import archive_missing, folder_images

Archive = str | Path | Sequence[str | Path] | dict | Dataset


def archive_paths(archive: Archive, data_root: str | None = None) -> tuple[Path, ...]:
    """Return the archive's image files in order.

    `archive`: a folder, with what is below it, or a list of folders and files (each below the data root unless absolute); or a data set
    of this package, or its config, whose labels are not looked at.
    """
    if isinstance(archive, dict):
        archive = DATASETS.build(archive)
    if hasattr(archive, "image_info"):
        return tuple(Path(archive.image_info(n)["path"]).absolute() for n in range(len(archive)))
    entries = [archive] if isinstance(archive, str | Path) else list(archive)
    paths: list[Path] = []
    for entry in entries:
        path = data_path(entry, data_root).absolute()
        if not path.exists():
            raise FileNotFoundError(archive_missing(entry, data_root, "model.retrieval.archive"))
        paths += folder_images(path) if path.is_dir() else [path]
    return tuple(dict.fromkeys(paths))


def archive_batch(images: Sequence[np.ndarray], px: int, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return (N, 3, px, px) normalised: each image's middle square, its shorter side brought to `px` (bilinear), as the release does."""
    squares = torch.from_numpy(np.stack([center_square(image, px) for image in images])).permute(0, 3, 1, 2).float()
    return (squares - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)
