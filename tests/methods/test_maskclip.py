"""MaskCLIP: cosines of places, the image's share, backgrounds."""
import copy

import numpy as np
import pytest
import torch
from mmengine.config import Config
from torch.nn import functional as F

from ovdense.export.networks import MaskClipNetwork
from ovdense.methods.dual_encoder import DualEncoder
from ovdense.methods.maskclip import MaskClip
from ovdense.runs import is_training_free, require_training_free
from ovdense.structures import ClassEntry, Vocabulary
from tests.methods.reco.test_model import AXES, Colours, GivenText, picture, predict

BACKGROUND = ClassEntry(name="background", is_background=True)
COLOURS = Vocabulary.of(["red", "green", "blue"])


def model(**kwargs) -> MaskClip:
    vectors = {k: F.normalize(torch.tensor(v), dim=0) for k, v in {**AXES, "grey": [1.0, 1, 1], "background": [0, 1.0, 0]}.items()}
    return MaskClip(DualEncoder(GivenText(vectors), Colours(), "plain"), **kwargs)


def test_score__is_the_places_cosine_and_a_share_of_the_images():
    made = model(image_weight=0.5)
    image = torch.rand(1, 3, 16, 24)
    got = made.score(made.encode_image(image), made.encode_text(COLOURS))
    places, whole = Colours().encode_places(image)
    torch.testing.assert_close(got, places.tensor_BCHW[0] + 0.5 * whole[0, :, None, None])


@pytest.mark.parametrize("kwargs, grey_is", [(dict(background_thr=0.7), 0), (dict(contexts=("grey",)), 0), (dict(background_thr=0.1, contexts=("grey",)), 0)])
def test_background__is_what_scores_little_or_like_a_context(kwargs, grey_is):
    made = model(image_weight=0.0, **kwargs)
    made.set_vocabulary(Vocabulary((BACKGROUND, *COLOURS)))
    label = predict(made, picture()).label_map_HW
    assert int(label[24, 8]) == 1 and int(label[24, 56]) == 3 and int(label[2, 32]) == grey_is
    assert made.protocol()["background_rule"] != "not asked for"


def test_background__without_a_rule_is_asked_by_its_name():
    made = model(image_weight=0.0)
    made.set_vocabulary(Vocabulary((BACKGROUND, *Vocabulary.of(["red", "blue"]))))
    image = np.zeros((16, 16, 3), dtype=np.uint8)
    image[..., 1] = 250
    assert (predict(made, image).label_map_HW == 0).all() and made.protocol()["background_rule"] == "by its name"
    with pytest.raises(ValueError, match="background class in the vocabulary"):
        model(background_thr=0.3).set_vocabulary(COLOURS)
    with pytest.raises(ValueError, match="contexts need a background class"):
        model(contexts=("grey",)).set_vocabulary(COLOURS)


def test_predict__permutes_with_the_vocabulary():
    made = model()
    made.set_vocabulary(COLOURS)
    first = predict(made, picture()).label_map_HW
    made.set_vocabulary(Vocabulary.of(["green", "blue", "red"]))
    assert torch.equal(predict(made, picture()).label_map_HW, torch.tensor([2, 0, 1])[first])


def test_training_free__models_are_run_without_a_checkpoint():
    from ovdense.methods.desco.model import Desco

    assert is_training_free(Config(dict(model=dict(type=MaskClip)))) and is_training_free(Config(dict(model=dict(type="ovdense.methods.maskclip.MaskClip"))))
    with pytest.raises(ValueError, match="since it is trained; give weights"):
        require_training_free(Config(dict(model=dict(type=Desco))), "give weights")


def test_predictor__adds_the_background_that_the_model_has_a_rule_for():
    from ovdense.api import OpenVocabPredictor
    from ovdense.data.transforms import ResizeShortestEdge

    resize = ResizeShortestEdge((32,), 64)
    predictor = OpenVocabPredictor(model(background_thr=0.7), resize=resize)
    predictor.set_vocabulary(["red", "green"])
    assert predictor.vocabulary.names == ("background", "red", "green") and predictor.vocabulary[0].is_background
    predictor.set_vocabulary(Vocabulary((*COLOURS, BACKGROUND)))
    assert predictor.vocabulary.names == (*COLOURS.names, "background")
    by_contexts = OpenVocabPredictor(model(contexts=("grey",)), resize=resize)
    by_contexts.set_vocabulary(["red", "green"])
    assert by_contexts.vocabulary.names == ("background", "red", "green")
    without = OpenVocabPredictor(model(), resize=resize)
    without.set_vocabulary(["red", "green"])
    assert without.vocabulary.names == ("red", "green")


def test_image_cache__looks_at_no_weights_but_those_that_read_images():
    from torch import nn

    from ovdense.image_cache import ImageFeatureCache

    made = model(image_weight=0.0)
    made.encoder.text.turn_DD, made.encoder.image.scale = (nn.Parameter(torch.eye(3), requires_grad=False) for _ in range(2))
    made.set_vocabulary(COLOURS)
    made.eval().image_cache = ImageFeatureCache()
    hits = []
    for change in (None, made.encoder.text.turn_DD, made.encoder.image.scale):
        if change is not None:
            change.mul_(2)
        predict(made, picture())
        hits.append((made.image_cache.hits, made.image_cache.misses))
    assert hits == [(0, 1), (1, 1), (1, 2)]


def test_text__follows_the_weights():
    """Weights that are loaded after the classes were named: the text is that of the new ones; examples have to be given again."""
    from torch import nn

    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.turn_DD = nn.Parameter(torch.eye(3), requires_grad=False)

        def embed(self, sentences, templates=("{}",)):
            return torch.stack([torch.tensor(AXES[s]) for s in sentences]) @ self.turn_DD

        def fingerprint(self):
            return "scaled"

    made = MaskClip(DualEncoder(Scaled(), Colours(), "plain"), image_weight=0.0)
    made.set_vocabulary(COLOURS)
    first = predict(made, picture()).label_map_HW
    assert made.text() is made.text()
    made.load_state_dict({"encoder.text.turn_DD": torch.eye(3)[[2, 0, 1]]})
    assert torch.equal(MaskClipNetwork(made, fold=True).rows_MD, torch.eye(3)[[2, 0, 1]]), "an export has the new ones, too"
    assert torch.equal(predict(made, picture()).label_map_HW, torch.tensor([1, 2, 0])[first])
    made._ask_by_examples(COLOURS, made.text())
    predict(made, picture())
    predict(copy.deepcopy(made)._apply(torch.clone), picture())  # a copy, and a move: the same weights
    made.encoder.text.load_state_dict({"turn_DD": torch.eye(3)})
    with pytest.raises(ValueError, match="give them again"):
        predict(made, picture())
