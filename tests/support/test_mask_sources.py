"""Masks of segment-anything as a mask source, with a small network of random weights."""
import numpy as np
import pytest
import torch

from ovdense.structures import ClassEntry
from ovdense.support.mask_sources import SegmentAnythingMasks, SupportMasker
from ovdense.support.masks import masks_from_instances
from ovdense.support.store import SupportStore
from tests.vision.test_sam import IMAGE, small_sam

EASY = dict(points_per_side=3, pred_iou_thresh=-10.0, stability_score_thresh=-1.0, box_nms_thresh=1.1)  # random weights are sure of nothing


def test_sam_masks__are_the_packages_own_of_at_least_the_area(tmp_path):
    from segment_anything import SamAutomaticMaskGenerator

    network, heat = small_sam(), torch.zeros(90, 120)
    theirs = SamAutomaticMaskGenerator(network, **EASY).generate(IMAGE)
    areas = sorted(m["area"] for m in theirs)
    least = areas[len(areas) // 2] / (90 * 120)
    for min_area in (0.0, least):
        masks = SegmentAnythingMasks(network, min_area=min_area, generator=EASY)(IMAGE, heat, None)
        wanted = [m["segmentation"] for m in theirs if m["area"] >= min_area * 90 * 120]
        assert masks.dtype == torch.bool and masks.shape == (len(wanted), 90, 120) and np.array_equal(masks.numpy(), np.stack(wanted))
    assert len(wanted) < len(theirs)  # the area says something
    assert SegmentAnythingMasks(network, min_area=1.1, generator=EASY)(IMAGE, heat, None).shape == (0, 90, 120)


def test_sam_masks__are_ranked_by_heat_as_any_other_source_and_known_by_weights_and_settings(tmp_path):
    source = SegmentAnythingMasks(small_sam(), generator=EASY)
    writer = SupportStore(tmp_path).begin("cat", {})
    np.save(writer.folder / "0.heat.npy", np.eye(8, dtype=np.float32))
    writer.add(IMAGE, heat="0.heat.npy")
    masker = SupportMasker(source)
    [image] = writer.finish().images
    found = masker(image, ClassEntry(name="cat"))
    instances = source(IMAGE, torch.zeros(90, 120), image)
    wanted = masks_from_instances(masker.heat(image, ClassEntry(name="cat"), IMAGE), instances)
    assert len(instances) > 1 and found.foreground_HW.any() and found.foreground_HW.equal(wanted.foreground_HW)
    other = small_sam()
    other.mask_decoder.mask_tokens.weight.data += 1
    assert masker.settings() == SupportMasker(SegmentAnythingMasks(small_sam(), generator=EASY)).settings()
    assert masker.settings() != SupportMasker(SegmentAnythingMasks(other, generator=EASY)).settings()
    assert source.settings() != SegmentAnythingMasks(small_sam(), generator={**EASY, "points_per_side": 4}).settings()


def test_sam_masks__a_file_that_is_none_of_the_published_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="local file"):
        SegmentAnythingMasks(tmp_path / "sam.pth")
    torch.save({"image_encoder.pos_embed": torch.zeros(1, 4, 4, 32)}, tmp_path / "sam.pth")
    with pytest.raises(ValueError, match="published file of SAM"):
        SegmentAnythingMasks(tmp_path / "sam.pth")
