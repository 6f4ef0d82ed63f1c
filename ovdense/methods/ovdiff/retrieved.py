"""Support sets of retrieved photos: what OVDiff uses where there is no text-to-image model."""
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ovdense.compat.paths import data_path
from ovdense.methods.dual_encoder import ImageEmbedder
from ovdense.registry import MODELS
from ovdense.structures import ClassEntry
from ovdense.support.retrieval import ImageIndex, archive_missing, folder_images, index_images
from ovdense.support.retrieve import retrieve_support
from ovdense.support.store import SupportSet, SupportStore


class RetrievedSupport:
    """The photos of an archive that an image-text encoder finds nearest to the class's name.

    `encoder`: a dual encoder, or its config; `archive`: a folder of photos, or a list of folders and files, below the data root unless absolute. Their
    vectors are computed once and kept; `num_images` are taken, the best first. Ranks search together, so that all ask for the same class at once.
    """

    together = True

    def __init__(self, encoder: Any, *, archive: str | Path | Sequence[str | Path], num_images: int = 16, data_root: str | None = None,
                 store: SupportStore | str | Path | None = None, progress: bool = False) -> None:  # fmt: skip
        if num_images < 1:
            raise ValueError(f"num_images must be at least 1, got {num_images}")
        self.encoder = MODELS.build(encoder) if isinstance(encoder, Mapping) else encoder
        places = {a: data_path(a, data_root) for a in ([archive] if isinstance(archive, str | Path) else archive)}
        self._missing = [archive_missing(a, data_root, "model.support.archive") for a, p in places.items() if not p.exists()]
        self.paths = [f for p in places.values() for f in (folder_images(p) if p.is_dir() else [p])]
        self.num_images, self.progress = num_images, progress
        self.store = store if isinstance(store, SupportStore) else SupportStore(store)
        self._index: ImageIndex | None = None
        self._print = ""  # of the encoder that the index is of

    def support_set(self, entry: ClassEntry) -> SupportSet:
        if self._missing:  # said when it is needed: a model may be given other support
            raise FileNotFoundError(self._missing[0])
        if self._index is None:
            self._index = index_images(self.paths, ImageEmbedder(self.encoder, square=False), progress=self.progress)
            self._print = self.encoder.fingerprint()
        row_D = self.encoder.encode_text([entry.noun]).rows_MD[0]
        return retrieve_support(entry.name, row_D, self._index, self.num_images, self.store, said={"encoder": self._print})
