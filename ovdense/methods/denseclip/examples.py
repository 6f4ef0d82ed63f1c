"""Example pictures in place of names for the open segmenter: the local vectors of a class's pictures stand for its text (ours, not in the paper)."""
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovdense.compat.weights import weights_fingerprint
from ovdense.methods.denseclip.pixel_text import ClassText
from ovdense.structures import ClassBank, FeatureMap, Vocabulary
from ovdense.support.exemplar_bank import exemplar_bank
from ovdense.support.mask_sources import SupportMasker
from ovdense.support.sources import SupportSource, TextHeat
from ovdense.vision.extractors import DenseEncoderFeatures, ReadingSize


class LocalVectors(nn.Module):
    """A model's local vectors and text rows, which its score maps compare, as a dense encoder with a text side; unit length."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.backbone, self._model = model.backbone, [model]  # in a list: its other parts are no parameters of this
        self.mean, self.std, self.width = model.backbone.mean, model.backbone.std, model.backbone.embed_width

    @property
    def device(self) -> torch.device:
        return self._model[0].device

    @torch.no_grad()
    def encode_dense(self, images_BCHW: Tensor) -> FeatureMap:
        local = self.backbone.dense(images_BCHW.to(self._model[0].device)).local
        return FeatureMap(tensor_BCHW=F.normalize(local.tensor_BCHW.float(), dim=1), stride=local.stride)

    @torch.no_grad()
    def encode_text(self, names: list[str]) -> ClassBank:
        vocabulary = Vocabulary.of(names)
        model = self._model[0]
        rows_KC = model.pixel_text.encode(model.text_encoder, vocabulary).rows_1KC[0]
        return ClassBank(rows_MD=F.normalize(rows_KC.float(), dim=1), class_of_row_M=torch.arange(len(names)), num_classes=len(names),
                         background_K=torch.zeros(len(names), dtype=torch.bool))  # fmt: skip

    def settings(self) -> dict[str, Any]:
        return {"width": self.width}

    def fingerprint(self) -> str:
        return weights_fingerprint(self._model[0])


@torch.no_grad()
def text_of_examples(model: nn.Module, vocabulary: Vocabulary, source: SupportSource) -> ClassText:
    """Return a vocabulary's text whose rows are the mean local vectors of each class's example pictures, as long as its name's row.

    Where a picture has no mask, the class's name finds it in the picture. Background classes keep their own row.
    """
    named = model.pixel_text.encode(model.text_encoder, vocabulary)
    row_KC = named.rows_1KC[0].float()
    vectors = LocalVectors(model).eval()
    extractor, heat = DenseEncoderFeatures(vectors), TextHeat(vectors)
    extractor.support_size = ReadingSize(short=512, longest=1024, only_shrink=True, multiple=model.data_preprocessor.divisor)
    background = {k: F.normalize(row_KC[k : k + 1], dim=1) for k, entry in enumerate(vocabulary) if entry.is_background}
    masker = SupportMasker(None, heat, heat.settings())
    seen_KC = exemplar_bank(vocabulary, source, extractor, masker, kinds=("class",), num_parts=0, background_rows=background).rows_MD.to(row_KC)
    rows_KC = torch.where(named.background_K[:, None], row_KC, F.normalize(seen_KC, dim=1) * row_KC.norm(dim=1, keepdim=True))
    return ClassText(rows_1KC=rows_KC[None], tokens=None, class_of_sentence_S=torch.arange(len(vocabulary), device=row_KC.device),
                     background_K=named.background_K)  # fmt: skip
