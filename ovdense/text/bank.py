"""From a vocabulary to unit rows: the one function that turns class names into embeddings."""
from collections.abc import Sequence

import torch

from ovdense.structures import ClassBank, Vocabulary
from ovdense.text.cache import EmbeddingCache, Embeds
from ovdense.text.prompts import find_templates


def class_bank(
    vocabulary: Vocabulary,
    encoder: Embeds,
    templates: str | Sequence[str] = "plain",
    use_synonyms: bool = True,
    cache: EmbeddingCache | None = None,
) -> ClassBank:
    """Return one unit row (float32, CPU) a class name and, with `use_synonyms`, one a synonym; classes in order.

    A row is the average over the templates (normalise, mean, normalise); `templates` are strings with "{}" or the name of
    a set (`prompts.find_templates`). Names are said as nouns. With a `cache`, rows that were computed before are read.
    """
    templates = find_templates(templates) if isinstance(templates, str) else tuple(templates)
    sentences, classes = [], []
    for k, entry in enumerate(vocabulary):
        said = dict.fromkeys((entry.noun, *(entry.synonyms if use_synonyms else ())))
        sentences += said
        classes += [k] * len(said)
    rows_MD = cache.embed(encoder, sentences, templates) if cache else encoder.embed(sentences, templates).cpu()
    return ClassBank(
        rows_MD=rows_MD,
        class_of_row_M=torch.tensor(classes),
        num_classes=len(vocabulary),
        background_K=torch.tensor([entry.is_background for entry in vocabulary]),
    )
