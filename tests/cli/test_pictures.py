"""What `ovdense predict --heat` and `ovdense support show` draw."""
import numpy as np
import torch
from PIL import Image

from ovdense.cli.predict import main
from ovdense.cli.support_show import class_row


def test_predict__heat_writes_a_sheet_beside_the_picture(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    assert main([str(tmp_path / "a.png"), "--texts", "cat. sofa", "--heat", "--out", str(tmp_path / "out"), "--device", "cpu"]) == 0
    with Image.open(tmp_path / "out" / "a_heat.jpg") as sheet:
        assert sheet.width > 3 * 320


class _Image:
    def __init__(self, value):
        self.value, self.details = value, {"similarity": value / 100}

    def read(self):
        return np.full((40, 40, 3), self.value, np.uint8)


class _Found:
    support_NHW = torch.stack([torch.zeros(4, 4), torch.eye(4)])
    seed_yx_N2 = torch.tensor([[0, 0], [3, 3]])


def test_support_show__a_column_an_image_and_support_below():
    support = type("Support", (), {"images": [_Image(50), _Image(40)], "__len__": lambda self: 2})()
    builder = type("Builder", (), {"cosegment": lambda self, said, contexts: (_Found, support)})()
    row = class_row(type("Model", (), {"builder": builder})(), "cat", ["cat"], None, columns=3, px=80)
    assert row.shape[0] > 160 and row.shape[1] > 240
    lower = row[-80:, -240:].astype(int).sum(-1)
    assert lower[:, 160:].min() == 765  # no third image
    assert lower[70, 110] < lower[50, 130]  # brighter where it is supported more
    assert ((row[-80:] == (0, 255, 120)).all(-1)).any()  # the seed's frame
