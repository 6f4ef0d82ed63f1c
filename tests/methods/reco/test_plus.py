"""ReCo+: pseudo-labels matched by name, and a segmenter that learns them."""
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from ovdense.data.collate import collate_detection
from ovdense.data.label_maps import LoadLabelMap
from ovdense.data.segmentation import FolderSegmentation
from ovdense.data.transforms import LoadImage, PackDetection
from ovdense.methods.reco.plus import DilatedResNet, RecoPlus
from ovdense.structures import Vocabulary
from ovdense.vision.backbones import TimmBackbone
from tests.methods.reco.test_model import picture
from tests.methods.test_maskclip import BACKGROUND, COLOURS, model
from tools.pseudo_label import write_labels

CONFIGS = Path(__file__).resolve().parents[3] / "configs"


class Predictor:
    """OpenVocabPredictor's face on a model that takes arrays."""

    def __init__(self, model):
        self.model, self.vocabulary = model, model.vocabulary

    def predict(self, image):
        from tests.methods.reco.test_model import predict

        return predict(self.model, image)


@pytest.fixture
def labelled(tmp_path):
    """Photos in two folders with one name in both, and their pseudo-labels."""
    mirrored = picture()[:, ::-1]
    for name, image in (("a/1.png", picture()), ("b/1.png", mirrored), ("b/2.png", picture()[::-1])):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.ascontiguousarray(image)).save(tmp_path / "photos" / name)
    (tmp_path / "photos" / "b" / "broken.png").write_bytes(b"none")
    made = model(image_weight=0.0, background_thr=0.7)
    made.set_vocabulary(Vocabulary((BACKGROUND, *COLOURS)))
    files = sorted((tmp_path / "photos").rglob("*.png"))
    failed = write_labels(Predictor(made), files, tmp_path / "photos", tmp_path / "labels")
    assert len(failed) == 1 and "broken.png" in failed[0]
    return tmp_path


def test_labels__lie_under_the_images_own_names(labelled):
    first, second = (np.asarray(Image.open(labelled / "labels" / f"{n}/1.png")) for n in "ab")
    assert first[24, 4] == 1 and first[24, 60] == 3 and second[24, 4] == 3 and second[24, 60] == 1
    about = json.loads((labelled / "labels" / "classes.json").read_text())
    assert [c["name"] for c in about["categories"]] == ["background", "red", "green", "blue"] and about["protocol"]["background_rule"]
    made = model(image_weight=0.0)
    made.set_vocabulary(Vocabulary((*COLOURS, BACKGROUND)))
    with pytest.raises(ValueError, match="must not mix"):
        write_labels(Predictor(made), [labelled / "photos/a/1.png"], labelled / "photos", labelled / "labels")
    made.protocol = lambda: pytest.fail("support images are drawn for what cannot be")
    with pytest.raises(ValueError, match="same label file"):
        write_labels(Predictor(made), [labelled / "photos/a/1.png", labelled / "photos/a/1.jpg"], labelled / "photos", labelled / "other")
    with pytest.raises(ValueError, match="where the images are"):  # they would be taken for labels that are there already
        write_labels(Predictor(made), [labelled / "photos/a/1.png"], labelled / "photos", labelled / "photos")


def test_labels__what_the_model_lacks_ends_the_run_and_is_no_photos_fault(labelled):
    class Lacking(Predictor):
        def predict(self, image):
            raise FileNotFoundError("the archive is missing")

    made = model(image_weight=0.0)
    made.set_vocabulary(Vocabulary((BACKGROUND, *COLOURS)))
    with pytest.raises(FileNotFoundError, match="the archive"):
        write_labels(Lacking(made), [labelled / "photos/a/1.png", labelled / "photos/b/1.png"], labelled / "photos", labelled / "none")


@pytest.mark.parametrize("name", ["reco_cityscapes", "reco_coco_stuff", "reco_plus_cityscapes", "reco_plus_coco_stuff"])
def test_labels__of_configs_that_measure_squares_are_of_whole_photos_at_their_scale(name):
    """What the published ReCo+ configs tell to run for their labels; without a resize rule there is no predictor."""
    from ovdense.api import _test_resize, load_config

    resize = _test_resize(load_config(CONFIGS / f"{name}.py"))
    sample = {"image": np.zeros((640, 1280, 3), np.uint8), "boxes_xyxy": np.zeros((0, 4), np.float32), "labels": np.zeros(0, np.int64)}
    assert resize(sample)["image"].shape == (320, 640, 3)


def test_labels__settings_of_the_config_can_be_changed(labelled):
    from tools.pseudo_label import main

    out = labelled / "changed"
    assert main([str(CONFIGS / "maskclip_voc_mini.py"), "--images", str(labelled / "photos/a"), "--out", str(out), "--vocab", "voc21", "--device", "cpu",
                 "--cfg-options", "model.background_thr=0.61"]) == 0  # fmt: skip
    assert json.loads((out / "classes.json").read_text())["protocol"]["background_rule"] == "score below 0.61"


def test_labels__of_171_names_are_read_as_the_27_that_they_belong_to(labelled):
    """The release merges ReCo's answers before it trains on them; the config's labels keep the 171."""
    from ovdense.api import load_config
    from ovdense.text.vocabulary import load_vocabulary

    cfg = load_config(CONFIGS / "reco_plus_coco_stuff.py")
    fine, coarse = load_vocabulary("coco_stuff171").names, load_vocabulary(cfg.model.classes).names
    label = np.array([[fine.index(n) for n in ("person", "car", "sky-other", "wall-wood")], [255, 0, 1, 170]], np.uint8)
    Image.fromarray(np.zeros((2, 4, 3), np.uint8)).save(labelled / "photos" / "c.png")
    Image.fromarray(label).save(labelled / "labels" / "c.png")
    data = FolderSegmentation(image_prefix=str(labelled / "photos"), label_prefix=str(labelled / "labels"), classes=cfg.train_dataloader.dataset.classes,
                              image_suffix=".png", labelled_only=True)  # fmt: skip
    assert data.vocabulary.names == coarse and cfg.test_dataloader.dataset.classes == "coco_stuff27_png"
    k = {name: n for n, name in enumerate(coarse)}
    assert data.label_map(len(data) - 1).tolist() == [[k["person"], k["vehicle"], k["sky"], k["wall"]], [255, k["person"], k["vehicle"], k["solid"]]]


def dataset(folder):
    return FolderSegmentation(image_prefix=str(folder / "photos"), label_prefix=str(folder / "labels"), classes=str(folder / "labels/classes.json"),
                              image_suffix=".png", labelled_only=True, transforms=[LoadImage(), LoadLabelMap(), PackDetection()])  # fmt: skip


def plus(folder, **kwargs) -> RecoPlus:
    torch.manual_seed(0)
    backbone = TimmBackbone("resnet18", out_strides=(4, 16), norm_eval=False)
    return RecoPlus(backbone, classes=str(folder / "labels/classes.json"), channels=16, low_channels=8, dilations=(1, 2), dropout=0.0, **kwargs)


def test_plus__learns_the_labels_and_answers_in_any_order(labelled):
    data = dataset(labelled)
    assert len(data) == 3 and data.vocabulary.names == ("background", "red", "green", "blue") and data.vocabulary[0].is_background
    made = plus(labelled)
    batch = collate_detection([data[n] for n in range(3)])
    inputs = made.data_preprocessor(batch, training=True)
    optimizer = torch.optim.Adam(made.parameters(), 1e-2)
    losses = []
    for _ in range(16):
        made.train()
        loss = made.loss(inputs["images"], inputs["targets"])["loss_seg"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]
    made.eval()
    made.set_vocabulary(data.vocabulary)
    first = made.predict(inputs["images"], inputs["targets"])[0].label_map_HW
    order = ["blue", "green", "background", "red"]
    made.set_vocabulary(Vocabulary.of(order))
    swapped = made.predict(inputs["images"], inputs["targets"])[0].label_map_HW
    assert torch.equal(swapped, torch.tensor([order.index(n) for n in data.vocabulary.names])[first])
    with pytest.raises(KeyError, match="pseudo-labels only"):
        made.set_vocabulary(Vocabulary.of(["cat"]))


def test_plus__pixels_without_a_label_count_for_nothing(labelled):
    data, made = dataset(labelled), plus(labelled).eval()
    sample = data[0]
    inputs = made.data_preprocessor({"images": [sample["image"]], "targets": [sample["target"]]})
    before = made.loss(inputs["images"], inputs["targets"])["loss_seg"]
    label = sample["target"].label_map_HW
    label[:, 30:] = 255
    after = made.loss(inputs["images"], inputs["targets"])["loss_seg"]
    label[:] = 255
    assert before.item() != after.item() and made.loss(inputs["images"], inputs["targets"])["loss_seg"].item() == 0


def test_plus__background_pixels_count_as_much_as_they_weigh(labelled):
    sample = dataset(labelled)[0]
    label = sample["target"].label_map_HW
    label[:, 30:] = 255
    losses = {}
    for weight in (1.0, 0.1):
        made = plus(labelled, background_weight=weight).eval()
        inputs = made.data_preprocessor({"images": [sample["image"]], "targets": [sample["target"]]})
        losses[weight] = made.loss(inputs["images"], inputs["targets"])["loss_seg"]
        logit = F.interpolate(made.head(made.encode_image(inputs["images"])), size=label.shape, mode="bilinear", align_corners=False)
        wanted = F.cross_entropy(logit, label[None], weight=torch.tensor([weight, 1.0, 1.0, 1.0]), ignore_index=255)
        torch.testing.assert_close(losses[weight], wanted, rtol=1e-4, atol=1e-5)
    assert float(losses[1.0]) != float(losses[0.1])
    with pytest.raises(ValueError, match="background_weight"):
        plus(labelled, background_weight=0.0)


@pytest.mark.slow
def test_dilated_resnet__keeps_stride_8_and_reads_torchvisions_names(tmp_path):
    from torchvision.models import resnet50

    published = resnet50(weights=None).eval()
    torch.save(published.state_dict(), tmp_path / "resnet50.pth")
    backbone = DilatedResNet(50, weights=tmp_path / "resnet50.pth").eval()
    image = torch.rand(1, 3, 64, 96)
    maps = backbone(image)
    assert [tuple(m.tensor_BCHW.shape[1:]) for m in maps] == [(256, 16, 24), (512, 8, 12), (1024, 8, 12), (2048, 8, 12)]
    stem = published.maxpool(published.relu(published.bn1(published.conv1(image))))
    torch.testing.assert_close(maps[1].tensor_BCHW, published.layer2(published.layer1(stem)), atol=1e-4, rtol=1e-4)


def test_plus__classes_of_one_noun_stay_apart():
    backbone = TimmBackbone("resnet18", out_strides=(4, 16), norm_eval=False)
    made = RecoPlus(backbone, classes=["bow_(weapon)", "bow_(decorative_ribbons)", "sky", "traffic_light"], channels=16, low_channels=8, dilations=(1, 2))
    asked = Vocabulary.of(["bow_(weapon)", "bow_(decorative_ribbons)", "sky_(weather)", "traffic light"])
    assert made.encode_text(asked).tolist() == [0, 1, 2, 3]
    with pytest.raises(KeyError, match="several"):
        made.set_vocabulary(Vocabulary.of(["bow"]))
    with pytest.raises(ValueError, match="asked by names"):
        made.set_vocabulary(asked, prompt="descriptions")
    for verb in (made.predict, made.score_maps):
        with pytest.raises(ValueError, match="set_vocabulary"):
            verb(torch.zeros(1, 3, 64, 64), [])


def test_plus__remembers_images(labelled):
    from ovdense.image_cache import ImageFeatureCache

    data, made = dataset(labelled), plus(labelled).eval()
    inputs = made.data_preprocessor(collate_detection([data[0]]))
    made.set_vocabulary(data.vocabulary)
    plain = made.predict(inputs["images"], inputs["targets"])[0].label_map_HW
    made.image_cache = ImageFeatureCache()
    found = [made.predict(inputs["images"], inputs["targets"])[0].label_map_HW for _ in range(2)]
    assert made.image_cache.misses == made.image_cache.hits == 1 and all(torch.equal(plain, f) for f in found)
    with torch.no_grad():
        made.score_maps(inputs["images"], inputs["targets"])
    assert made.image_cache.hits == 2
