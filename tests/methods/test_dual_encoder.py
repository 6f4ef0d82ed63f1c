"""The dual encoder that works right after install, and the one of CLIP."""
import numpy as np
import pytest
import torch
from PIL import Image

from ovdense.methods.dual_encoder import ClipDualEncoder, ConseDualEncoder
from ovdense.structures import Vocabulary


def test_clip__text_and_image_share_a_space():
    torch.manual_seed(0)
    encoder = ClipDualEncoder("RN50", templates="plain")
    bank = encoder.encode_text(Vocabulary.of(["cat", "a red sofa"]))
    places, whole = encoder.encode_places(torch.zeros(1, 3, 64, 64))
    assert bank.rows_MD.shape[1] == places.tensor_BCHW.shape[1] == whole.shape[1] == encoder.width
    assert encoder.fingerprint().endswith("plain") and not any(p.requires_grad for p in encoder.parameters())


@pytest.mark.slow
def test_conse__names_what_is_in_real_photos(data_root):
    """Whole images: the right one of eight animals and vehicles is first more often than not. Places: a zebra's box is more "zebra" than the rest."""
    import json

    encoder = ConseDualEncoder()
    ann = json.loads((data_root / "coco_mini/annotations/instances_val2017.json").read_text())
    names = {c["id"]: c["name"] for c in ann["categories"]}
    largest = {}
    for a in ann["annotations"]:
        if names[a["category_id"]] not in ("person",) and a["area"] > largest.get(a["image_id"], {"area": 150 * 150})["area"]:
            largest[a["image_id"]] = a
    files = {i["id"]: i["file_name"] for i in ann["images"]}
    vocabulary = sorted({names[a["category_id"]] for a in largest.values()})
    rows = encoder.encode_text(vocabulary).rows_MD
    first, inside = 0, 0
    for image_id, a in largest.items():
        image = np.asarray(Image.open(data_root / "coco_mini/val2017" / files[image_id]).convert("RGB"))
        x = (torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() - torch.tensor(encoder.mean).view(3, 1, 1)) / torch.tensor(encoder.std).view(3, 1, 1)
        places, whole = encoder.encode_places(x)
        row = rows[vocabulary.index(names[a["category_id"]])]
        first += int((whole[0] @ rows.T).argmax()) == vocabulary.index(names[a["category_id"]])
        score = torch.nn.functional.interpolate(torch.einsum("bdhw,d->bhw", places.tensor_BCHW, row)[None], size=image.shape[:2], mode="bilinear")[0, 0]
        left, top, width, height = (int(v) for v in a["bbox"])
        box = torch.zeros(image.shape[:2], dtype=torch.bool)
        box[top : top + height, left : left + width] = True
        inside += bool(box.all()) or float(score[box].mean()) > float(score[~box].mean())
    print(f"{first} of {len(largest)} images first of {len(vocabulary)} names, {inside} boxes above their surroundings")
    assert first > 3 * len(largest) / len(vocabulary) and inside > 0.8 * len(largest)


def test_embedder__a_strip_does_not_grow_without_bound():
    from types import SimpleNamespace

    from ovdense.methods.dual_encoder import ImageEmbedder

    embedder = ImageEmbedder(SimpleNamespace(width=3), px=384, square=False)
    assert embedder._whole(np.zeros((2, 600, 3), np.uint8)).shape == (32, 6 * 384, 3)
    assert embedder._whole(np.zeros((100, 600, 3), np.uint8)).shape == (384, 6 * 384, 3)


def test_embedder__is_the_same_under_autocast():
    """Its vectors go into an index on disk that does not know of it."""
    from ovdense.methods.dual_encoder import ImageEmbedder

    class Mixing:
        mean, std, width, device = (0.0,) * 3, (255.0,) * 3, 5, torch.device("cpu")

        def encode_image(self, images_BCHW):
            return torch.nn.functional.normalize(images_BCHW.mean((2, 3)) @ torch.linspace(-1, 1, 15).view(3, 5), dim=1)

    images = [np.random.default_rng(n).integers(0, 256, (40, 50, 3), dtype=np.uint8) for n in range(2)]
    rows = ImageEmbedder(Mixing(), px=32).embed_images(images)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ImageEmbedder(Mixing(), px=32).embed_images(images), rows)


def test_conse__anchors_follow_the_text_weights():
    from ovdense.text.encoders import BertTextEncoder

    def tiny(seed):
        torch.manual_seed(seed)
        return BertTextEncoder(weights=None, frozen=True, config=dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16))

    made, other = ConseDualEncoder(text=tiny(0), short_sides=(64,)), ConseDualEncoder(text=tiny(1), short_sides=(64,))
    assert not torch.allclose(made.text.anchors_MD, other.text.anchors_MD)
    made.load_state_dict(other.state_dict())
    for a, b in ((made.text.mean_D, other.text.mean_D), (made.text.anchors_MD, other.text.anchors_MD), (made.image.anchors_MD, other.image.anchors_MD)):
        torch.testing.assert_close(a, b)
    made.text.encoder.load_state_dict(tiny(2).state_dict())
    made.encode_text(["cat"])
    assert not torch.allclose(made.text.anchors_MD, other.text.anchors_MD) and torch.equal(made.image.anchors_MD, made.text.anchors_MD)
