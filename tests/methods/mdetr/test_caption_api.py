"""A caption in, boxes per phrase out: the predictor."""
import numpy as np
import pytest
import torch

from ovdense.api import OpenVocabPredictor
from ovdense.data.transforms import ResizeShortestEdge
from tests.methods.mdetr.tiny import tiny

PHOTO = np.random.default_rng(0).integers(0, 256, (80, 120, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def predictor():
    return OpenVocabPredictor(tiny(), resize=ResizeShortestEdge((64,), 128))


def test_set_caption__finds_the_phrases_and_names_the_results(predictor):
    assert predictor.set_caption("a red dog left of two cats") == ("a red dog", "two cats")
    result = predictor.predict(PHOTO)
    assert result.names == ("a red dog", "two cats") and set(result.labels.tolist()) == {0, 1}
    assert result.size_hw == (80, 120) and len(predictor.predict(PHOTO, score_thr=1.0)) == 0


def test_set_caption__phrases_as_strings_and_as_spans_are_the_same(predictor):
    predictor.set_caption("a red dog left of two cats", ["two cats"])
    one = predictor.predict(PHOTO)
    predictor.set_caption("a red dog left of two cats", [[(18, 26)]])
    other = predictor.predict(PHOTO)
    assert one.names == other.names == ("two cats",) and np.allclose(one.scores, other.scores)


def test_predict__boxes_end_at_the_border_though_the_published_protocol_does_not_cut_them():
    """Published test settings leave boxes as they come (clip=False); who predicts gets what lies in the picture."""
    model = tiny(clip=False)
    model.head.box.layers[-1].bias.data.copy_(torch.tensor([3.0, -3.0, 2.0, 2.0]))  # centres near a corner, boxes nearly as large as the picture
    asked = OpenVocabPredictor(model, resize=ResizeShortestEdge((64,), 128))
    asked.set_caption("a red dog", ["a red dog"])
    data = asked.looked_at(PHOTO)[1]
    whole = model.predict(*model.data_preprocessor({"images": [data["image"]], "targets": [data["target"]]}).values())[0].boxes_xyxy
    assert float(whole[:, 2].max()) > 120 and float(whole[:, 1].min()) < 0
    cut = asked.predict(PHOTO).boxes_xyxy
    torch.testing.assert_close(cut, whole.clamp(min=0).minimum(torch.tensor([120.0, 80, 120, 80])))


def test_set_caption__a_vocabulary_replaces_it_and_back(predictor):
    predictor.set_caption("a dog")
    predictor.set_vocabulary(["cat", "dog"])
    assert predictor.predict(PHOTO).names == ("cat", "dog")
    with pytest.raises(ValueError, match="not found"):
        predictor.set_caption("a dog", ["zebra"])
    assert predictor.predict(PHOTO).names == ("cat", "dog")
