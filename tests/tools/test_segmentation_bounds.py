"""The bounds of a segmenter: chance, one class, itself, and itself told which classes are there."""
import pytest
import torch

from ovdense.heads.segment import label_maps
from ovdense.structures import ClassEntry, ImageTarget, Vocabulary
from tests.tiny_run import load_script

VOCABULARY = Vocabulary((ClassEntry(name="background", is_background=True), ClassEntry(name="cat"), ClassEntry(name="dog")))


def scene(number: int, truth: torch.Tensor) -> dict:
    target = ImageTarget(image_id=number, file_name="", size_hw=(4, 4), original_size_hw=(4, 4), boxes_xyxy=torch.zeros(0, 4),
                         labels=torch.zeros(0, dtype=torch.int64), label_map_HW=truth)
    return {"image": torch.zeros(3, 4, 4, dtype=torch.uint8), "target": target}


class Scenes(list):
    vocabulary = VOCABULARY


class Confuses:
    """Sees a dog before it sees a cat: right once it is told that no dog is there."""

    def text(self) -> None:
        return None

    def data_preprocessor(self, batch: dict) -> dict:
        return batch

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        return images

    def score(self, features: torch.Tensor, text: None) -> torch.Tensor:
        return torch.stack([torch.full((4, 4), 0.1 * k) for k in range(3)])

    def decode(self, scored, targets):
        return label_maps(torch.stack(list(scored)), targets, VOCABULARY.names, (4, 4))


def test_bounds__told_the_classes_it_is_right_and_ignored_pixels_count_nowhere():
    truth = torch.ones(4, 4, dtype=torch.int64)
    truth[0] = 255
    rows = load_script("tools/segmentation_bounds.py").measure(Confuses(), Scenes([scene(0, truth), scene(1, truth.clone())]))
    by_name = {r["answer"]: r for r in rows}
    assert by_name["the model"]["aAcc"] == 0 and by_name["told the image's classes"]["aAcc"] == 100
    assert by_name["told the image's classes"]["mIoU"] == 100 and by_name["background everywhere"]["aAcc"] == 0
    assert 10 < by_name["chance: every pixel at random"]["aAcc"] < 60 and rows[0]["images"] == 2


def test_bounds__needs_a_segmenter_that_is_not_trained(capsys):
    with pytest.raises(SystemExit):
        load_script("tools/segmentation_bounds.py").main(["configs/mdetr_shapes_mini.py"])
    assert "must be of a segmenter that is not trained" in capsys.readouterr().err
    for first in ("0", "-3"):
        with pytest.raises(SystemExit):
            load_script("tools/segmentation_bounds.py").main(["configs/maskclip_voc_mini.py", "--first", first])
        assert f"--first must be at least 1, got {first}" in capsys.readouterr().err
