import json

import numpy as np
import pytest
import torch
from PIL import Image

from ovdense.interchange import record_of_results
from ovdense.results import Results, coco_content

IMAGE = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)


def _boxes(source=IMAGE, masks=False):
    boxes = torch.tensor([[10.0, 20, 30, 50], [-5, -5, 4.5, 6], [200, 200, 210, 210]])
    mask = torch.zeros(3, 60, 80, dtype=torch.bool)
    mask[0, 20:50, 10:30] = True
    return Results(boxes_xyxy=boxes, scores=torch.tensor([0.9, 0.5, 0.2]), labels=torch.tensor([1, 0, 1]), names=("cat", "dog"), size_hw=(60, 80),
                   masks_NHW=mask if masks else None, source=source)  # fmt: skip


def _labels():
    label = torch.zeros(60, 80, dtype=torch.int64)
    label[10:20, 30:50] = 2
    return Results.of_label_map(label, ("background", "cat", "dog"))


def test_results__crop_cuts_boxes_at_the_border():
    whole, corner, outside = _boxes().crop()
    assert np.array_equal(whole, IMAGE[20:50, 10:30]) and np.array_equal(corner, IMAGE[0:6, 0:5]) and outside.size == 0
    assert np.array_equal(_boxes().crop(margin=0.5)[0], IMAGE[5:60, 0:40])
    assert len(_boxes().crop(score_thr=0.4)) == 2


def test_results__a_label_map_answers_with_the_classes_that_it_holds():
    found = Results(**{**vars(_labels()), "source": IMAGE})
    assert found.phrases == ("dog",) and np.array_equal(found.crop()[0], IMAGE[10:20, 30:50])
    row, = found.to_coco()
    assert row["bbox"] == [30, 10, 20, 10] and row["area"] == 200 and row["category_name"] == "dog" and "score" not in row
    from pycocotools import mask as coco_mask

    assert np.array_equal(coco_mask.decode(row["segmentation"]).astype(bool), (found.label_map_HW == 2).numpy())


def test_results__without_their_image():
    with pytest.raises(ValueError, match="do not know their image"):
        _labels().draw()
    with pytest.raises(ValueError, match="has it changed"):
        _boxes(source=IMAGE[:30]).crop()


def test_results__save_writes_pictures_and_json(tmp_path):
    Image.fromarray(IMAGE).save(tmp_path / "in.png")
    found = _boxes(source=tmp_path / "in.png")
    with Image.open(found.save(tmp_path / "new" / "out.png")) as picture:
        assert np.array_equal(np.asarray(picture), found.draw())
    content = json.loads(found.save(tmp_path / "out.json", score_thr=0.4).read_text())
    assert [i["file_name"] for i in content["images"]] == ["in.png"] and len(content["annotations"]) == 2
    assert content["annotations"][0]["image_id"] == content["images"][0]["id"] and [c["name"] for c in content["categories"]] == ["cat", "dog"]
    with pytest.raises(ValueError, match="saved as a picture"):
        found.save(tmp_path / "out.txt")
    assert coco_content([])["images"] == []


@pytest.mark.parametrize("found", [_boxes(), _boxes(masks=True), Results(**{**vars(_labels()), "source": IMAGE})], ids=["boxes", "masks", "label map"])
def test_results__supervision_takes_them(found):
    import supervision as sv

    detections = found.to_supervision()
    assert isinstance(detections, sv.Detections) and list(detections.data["class_name"]) == list(found.phrases)
    if found.label_map_HW is None:
        assert np.allclose(detections.xyxy, found.boxes_xyxy.numpy()) and np.allclose(detections.confidence, found.scores.numpy())
        assert (detections.mask is None) == (found.masks_NHW is None)
    else:
        assert np.array_equal(detections.mask[0], (found.label_map_HW == 2).numpy())


@pytest.mark.parametrize("found", [_boxes(), _boxes(masks=True), Results(**{**vars(_labels()), "source": IMAGE})], ids=["boxes", "masks", "label map"])
def test_results__labelme_reads_them_back(found, tmp_path):
    from ovdense.interchange import read_annotations

    Image.fromarray(IMAGE).save(tmp_path / "in.png")
    content = Results(**{**vars(found), "source": tmp_path / "in.png"}).to_labelme()
    assert content["imagePath"] == "in.png" and (content["imageHeight"], content["imageWidth"]) == (60, 80)
    (tmp_path / "in.json").write_text(json.dumps(content))
    image, = read_annotations(tmp_path / "in.json", format="labelme").images
    assert [o.name for o in image.objects] == list(found.phrases)
    if found.label_map_HW is not None:
        assert np.array_equal(image.objects[0].mask.to_array(), (found.label_map_HW == 2).numpy())
    else:
        assert np.allclose([o.box_xyxy for o in image.objects], found.boxes_xyxy.numpy())
    renamed = Results(**{**vars(_labels()), "source": IMAGE, "background": ("background", "dog")})
    assert renamed.to_labelme()["shapes"] == [] and record_of_results(renamed).objects == ()


def test_results__show_opens_the_drawn_image(monkeypatch):
    shown = []
    monkeypatch.setattr(Image.Image, "show", lambda self: shown.append(np.asarray(self)))
    _boxes().show()
    assert len(shown) == 1 and np.array_equal(shown[0], _boxes().draw())


@pytest.mark.parametrize("name", ["in.png", "link.jpg"])
def test_results__save_never_takes_the_place_of_the_image(name, tmp_path):
    Image.fromarray(IMAGE).save(tmp_path / "in.png")
    (tmp_path / "link.jpg").symlink_to("in.png")
    with pytest.raises(ValueError, match="not over it"):
        _boxes(source=str(tmp_path / "in.png")).save(tmp_path / name)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "in.png")), IMAGE)
