"""Example pictures in place of names: a ClassBank of prototypes in the space in which a segmenter compares places."""
from collections.abc import Sequence

import torch
from torch import Tensor

from ovdense.structures import ClassBank, Vocabulary
from ovdense.support.mask_sources import SupportMasker
from ovdense.support.prototype_files import build_prototypes
from ovdense.support.prototypes import unit_rows
from ovdense.support.sources import SupportSource
from ovdense.vision.extractors import FeatureExtractor


def exemplar_bank(
    vocabulary: Vocabulary, source: SupportSource, extractor: FeatureExtractor, masker: SupportMasker, *, kinds: Sequence[str] = ("class", "part"),
    num_parts: int = 4, background_rows: dict[int, Tensor] | None = None,
) -> ClassBank:
    """Return unit rows of each class's example pictures; background classes have the rows (M, D) that `background_rows` gives for their index."""
    rows, classes = [], []
    for k, entry in enumerate(vocabulary):
        if entry.is_background:
            if not background_rows or k not in background_rows:
                raise ValueError(f"the background class {entry.name!r} has no example pictures; give a vocabulary without it, or its rows")
            rows.append(background_rows[k])
        else:
            made = build_prototypes(entry, source.support_set(entry), extractor, masker, num_parts=num_parts)
            rows.append(unit_rows(made.foreground.rows(kinds)))
        classes += [k] * len(rows[-1])
    return ClassBank(rows_MD=torch.cat([r.cpu() for r in rows]), class_of_row_M=torch.tensor(classes), num_classes=len(vocabulary),
                     background_K=torch.tensor([e.is_background for e in vocabulary]))  # fmt: skip
