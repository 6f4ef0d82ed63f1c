"""Semantic datasets asked by bare names keep what they know of the classes."""
from ovdense.data import shapes
from ovdense.data.segmentation import ShapesSegmentation


def test_vocabulary__of_bare_names_keeps_background_and_descriptions(tmp_path, monkeypatch):
    monkeypatch.setattr(shapes, "NUM_TRAIN", 1)
    monkeypatch.setattr(shapes, "NUM_VAL", 1)
    whole = ShapesSegmentation(split="val", root=str(tmp_path), test_mode=True)
    part = ShapesSegmentation(split="val", root=str(tmp_path), vocabulary=["background", whole.vocabulary.names[5]], test_mode=True)
    assert part.vocabulary.entries == (whole.vocabulary[0], whole.vocabulary[5])
    assert part.vocabulary[0].is_background and part.vocabulary[1].descriptions
