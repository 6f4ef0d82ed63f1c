"""Where foreground comes from: ranked masks, the user's own, and segment-anything's, by a small network of random weights."""
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from ovdense.structures import ClassEntry
from ovdense.support.mask_sources import FolderMasks, SegmentAnythingMasks, SupportMasker
from ovdense.support.masks import masks_from_instances, rank_candidates
from ovdense.support.sources import FolderSupport, TextHeat
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


def test_ranks__a_mask_where_it_is_cold_everywhere_is_not_the_class():
    """Heat of exactly 0 outside the class, as TextHeat gives it: candidates that weigh 0 cover their pixels none the less."""
    heat, instances = torch.zeros(8, 8), torch.zeros(2, 8, 8, dtype=torch.bool)
    heat[:4, :4] = 1
    instances[0, :4, :4], instances[1, 5:, 5:] = True, True
    rank, weight = rank_candidates(heat, instances)
    assert weight.tolist() == [1, 0, 0] and (rank[5:, 5:] > 0).all() and (rank[:4, 4:] > 0).all()
    assert masks_from_instances(heat, instances).foreground_HW.equal(instances[0])


def masked(folder, name, inside, image=IMAGE):
    Image.fromarray(image).save(folder / f"{name}.png")
    mask = np.zeros(image.shape[:2], np.uint8)
    mask[inside] = 255
    Image.fromarray(mask).save(folder / f"{name}.mask.png")


def test_masker__an_edited_mask_and_pictures_of_equal_pixels_have_their_own_masks(tmp_path):
    (tmp_path / "cat").mkdir()
    left, right, masker = np.s_[:, :50], np.s_[:, 70:], SupportMasker()
    masked(tmp_path / "cat", "a", left)
    masked(tmp_path / "cat", "b", right)

    def seen():
        images = FolderSupport(tmp_path).support_set(ClassEntry(name="cat")).images
        assert images[0].sha256 == images[1].sha256
        return [masker(i, ClassEntry(name="cat")).foreground_HW for i in images]

    first, second = seen()
    assert first[left].all() and not first[right].any() and second[right].all() and not second[left].any()
    masked(tmp_path / "cat", "a", right)
    assert seen()[0][right].all()


def test_folder_masks__are_read_by_number_or_file_follow_edits_and_are_hashed_once(tmp_path, monkeypatch):
    writer = SupportStore(tmp_path / "sets").begin("cat", {})
    np.save(writer.folder / "heat.npy", np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8).T.copy())  # hot on the right
    support = writer.add(IMAGE, heat="heat.npy")
    (tmp_path / "masks" / support.path.stem).mkdir(parents=True)
    left, right = np.zeros((2, 90, 120), np.uint8)
    left[:, :30], right[:, 80:] = 1, 1
    numbered = tmp_path / "masks" / f"{support.path.stem}.png"
    Image.fromarray(left + 2 * right).save(numbered)
    masker, entry = SupportMasker(FolderMasks(tmp_path / "masks")), ClassEntry(name="cat")
    before = masker.settings()
    assert np.array_equal(masker(support, entry).foreground_HW, right > 0)
    hashed = []
    monkeypatch.setattr("ovdense.support.mask_sources.file_digest", lambda path: hashed.append(path) or path.read_bytes().hex())
    assert masker.settings() == before and not hashed
    numbered.unlink()
    for n, mask in enumerate((left, right[:, ::-1])):  # a file an instance now
        Image.fromarray(255 * mask).save(tmp_path / "masks" / support.path.stem / f"{n}.png")
    assert masker.settings() != before and len(hashed) == 2
    assert np.array_equal(masker(support, entry).foreground_HW, (left + right[:, ::-1]) == 0), "what is around the two is hottest"
    (tmp_path / "masks" / support.path.stem / "1.png").write_bytes(b"no picture")
    masker.settings()
    with pytest.raises(ValueError, match="1.png must be the mask of a support image"):
        masker(support, entry)


def test_text_heat__reads_the_photo_where_the_encoder_is():
    class Elsewhere:
        mean, std, device = (0.0,) * 3, (1.0,) * 3, torch.device("meta")

        def encode_text(self, names):
            return SimpleNamespace(rows_MD=torch.ones(1, 3))

        def encode_dense(self, images_BCHW):
            assert images_BCHW.device.type == "meta"
            return SimpleNamespace(tensor_BCHW=images_BCHW)

    assert TextHeat(Elsewhere())(IMAGE, ClassEntry(name="cat")).shape == IMAGE.shape[:2]
