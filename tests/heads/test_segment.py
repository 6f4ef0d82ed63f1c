"""Windows, resizing and the best class of every pixel."""
import pytest
import torch
from torch.nn import functional as F

from ovdense.heads import segment
from ovdense.heads.segment import best_class, label_maps, slide, windows
from ovdense.structures import ImageTarget


def target(size_hw, original_hw, image_id=3):
    return ImageTarget(image_id=image_id, file_name="a.jpg", size_hw=size_hw, original_size_hw=original_hw, boxes_xyxy=torch.zeros(0, 4),
                       labels=torch.zeros(0, dtype=torch.int64))


def mmseg_windows(size_hw, crop_hw, stride_hw):
    """The grid of mmseg's slide_inference, from its formula."""
    rows = max(size_hw[0] - crop_hw[0] + stride_hw[0] - 1, 0) // stride_hw[0] + 1
    columns = max(size_hw[1] - crop_hw[1] + stride_hw[1] - 1, 0) // stride_hw[1] + 1
    for r in range(rows):
        for c in range(columns):
            y2, x2 = min(r * stride_hw[0] + crop_hw[0], size_hw[0]), min(c * stride_hw[1] + crop_hw[1], size_hw[1])
            yield max(y2 - crop_hw[0], 0), y2, max(x2 - crop_hw[1], 0), x2


@pytest.mark.parametrize(
    "size_hw, crop_hw, stride_hw",
    [((512, 683), (512, 512), (341, 341)), ((100, 40), (64, 64), (32, 48)), ((64, 64), (64, 64), (1, 1)), ((65, 200), (64, 64), (64, 64))],
    ids=["ADE20K", "narrower than a window", "exactly one", "one pixel over"],
)
def test_windows__are_those_of_mmseg_and_cover_the_image(size_hw, crop_hw, stride_hw):
    found = [(r.start, r.stop, c.start, c.stop) for r, c in windows(size_hw, crop_hw, stride_hw)]
    assert found == list(mmseg_windows(size_hw, crop_hw, stride_hw))
    covered = torch.zeros(size_hw)
    for y1, y2, x1, x2 in found:
        covered[y1:y2, x1:x2] += 1
    assert covered.min() >= 1


def test_windows__stride_beyond_the_crop_would_leave_holes():
    with pytest.raises(ValueError, match="stride"):
        list(windows((64, 64), (32, 32), (33, 32)))


def test_slide__of_a_pointwise_function_is_the_function():
    images = torch.randn(2, 3, 70, 90)
    weight = torch.randn(5, 3, 1, 1)
    assert torch.allclose(slide(lambda crop: F.conv2d(crop, weight), images, (32, 48), (20, 31)), F.conv2d(images, weight), atol=1e-5)


def test_best_class__blocks_of_classes_give_the_same_bits(monkeypatch):
    score, goal = torch.randn(11, 9, 13), target((60, 50), (131, 117))
    whole = best_class(score, (64, 64), goal)
    for most in (131 * 117, 4 * 131 * 117, 1):
        monkeypatch.setattr(segment, "MOST_NUMBERS", most)
        assert torch.equal(best_class(score, (64, 64), goal), whole)
    by_hand = F.interpolate(F.interpolate(score[None], (64, 64), mode="bilinear")[..., :60, :50], (131, 117), mode="bilinear")[0].argmax(0)
    assert torch.equal(whole, by_hand)


def test_best_class__first_of_equals(monkeypatch):
    monkeypatch.setattr(segment, "MOST_NUMBERS", 16)
    assert torch.equal(best_class(torch.ones(4, 2, 2), (4, 4), target((4, 4), (4, 4))), torch.zeros(4, 4, dtype=torch.int64))


def test_label_maps__padding_is_cut_off():
    score = torch.zeros(1, 2, 4, 8)
    score[:, 1, :, 4:] = 1  # the right half, which is padding
    (found,) = label_maps(score, [target((32, 32), (16, 16))], ("a", "b"), (32, 64))
    assert found.image_id == 3 and found.size_hw == (16, 16) and len(found) == 0
    assert found.label_map_HW[:, :14].max() == 0
