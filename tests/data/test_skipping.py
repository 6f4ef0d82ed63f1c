"""Images that cannot be read: which one stands in, what is said about it, and when training must stop instead."""
import copy
import json
import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from ovdense.compat.images import BrokenImage
from ovdense.data.samplers import ResumableInfiniteSampler
from ovdense.data.skipping import MOST_IN_A_ROW, CollateBroken, SkipBroken, stand_in

BROKEN = {2: BrokenImage("2.jpg: cut short"), 5: FileNotFoundError("the image 5.jpg is missing")}


class Images(Dataset):
    """Ten samples that say which image they are of, and in which draw."""

    vocabulary = "classes"

    def __init__(self, broken=BROKEN, length=10):
        self.broken_at, self.length = broken, length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        draw, i = divmod(index, self.length)
        if i in self.broken_at:
            raise self.broken_at[i]
        return {"image": torch.tensor([draw, i])}


def collate(samples):
    return {"images": torch.stack([s["image"] for s in samples])}


def test_skip_broken__another_image_of_the_same_draw_stands_in():
    data = SkipBroken(Images())
    assert len(data) == 10 and data.vocabulary == "classes"
    for index in range(40):
        sample = data[index]
        draw, i = sample["image"].tolist()
        assert draw == index // 10 and i not in BROKEN
        assert ("broken" in sample) == (index % 10 in BROKEN)
        if index % 10 not in BROKEN:
            assert i == index % 10
    assert data[12]["broken"][0] == "2.jpg: cut short" and "5.jpg is missing" in data[5]["broken"][0]
    assert len({data[n * 10 + 2]["image"][1].item() for n in range(20)}) > 4, "the stand-ins of an image differ from pass to pass"


def test_stand_in__depends_on_the_index_alone():
    twice = [[stand_in(i, n, 10) for i in range(30) for n in range(1, 4)] for _ in range(2)]
    assert twice[0] == twice[1] and all(v // 10 == i // 10 for v, i in zip(twice[0], np.repeat(np.arange(30), 3)))


def test_skip_broken__stops_where_nothing_can_be_read_and_at_other_errors():
    with pytest.raises(BrokenImage, match=f"{MOST_IN_A_ROW} images in a row .*right folder.*2.jpg"):
        SkipBroken(Images({2: BROKEN[2]} | {i: BROKEN[2] for i in range(10)}))[0]
    with pytest.raises(KeyError):  # a bug is not an image that cannot be read
        SkipBroken(Images({0: KeyError("x")}))[0]
    with pytest.raises(ValueError, match="transforms"):
        SkipBroken(Images({0: ValueError("the transforms are wrong")}))[0]


def batches(workers, start=0, count=8, **ranks):
    data = SkipBroken(Images())
    loader = DataLoader(data, batch_size=3, num_workers=workers, collate_fn=CollateBroken(collate),
                        sampler=ResumableInfiniteSampler(data, seed=1, start=start * 3, **ranks))  # fmt: skip
    found = iter(loader)
    return [(b["images"].tolist(), b.get("broken", [])) for b in (next(found) for _ in range(count))]


def test_skip_broken__same_batches_with_workers_after_a_resume_and_over_ranks():
    whole = batches(0)
    assert batches(2) == whole and sum(len(lines) for _, lines in whole) >= 4
    assert batches(0, start=3, count=5) == whole[3:]
    rows = [row for images, _ in whole for row in images]
    for rank in (0, 1):
        mine = [row for images, _ in batches(0, rank=rank, world_size=2, count=4) for row in images]
        assert mine == rows[rank::2][:12]


def test_skip_broken__is_not_copied_and_survives_a_pickle():
    data = SkipBroken(Images())
    assert copy.deepcopy(data) is data
    assert pickle.loads(pickle.dumps(data))[3]["image"].tolist() == [0, 3]


def test_object_crops__leave_out_images_that_cannot_be_read(tmp_path):
    from PIL import Image

    from ovdense.data.detection import CocoDetection
    from ovdense.data.object_crops import ObjectCrops

    names = ("a.png", "b.png", "c.png")
    for name in names:
        Image.new("RGB", (64, 64), "red").save(tmp_path / name)
    (tmp_path / "b.png").write_bytes(b"\x89PNG")
    (tmp_path / "a.json").write_text(json.dumps({
        "images": [{"id": n, "file_name": name, "height": 64, "width": 64} for n, name in enumerate(names)],
        "annotations": [{"id": n, "image_id": n, "category_id": 1, "bbox": [8, 8, 30, 30]} for n in range(3)],
        "categories": [{"id": 1, "name": "cat"}]}))  # fmt: skip

    def crops(**more):
        source = CocoDetection(ann_file=str(tmp_path / "a.json"), image_prefix=str(tmp_path))
        return ObjectCrops(dataset=source, image_px=16, **more)

    with pytest.raises(BrokenImage, match="b.png"):
        crops()
    left = crops(skip_broken=True)
    assert len(left) == 2 and len(left.broken) == 1 and "b.png" in left.broken[0]


def test_skip_broken__a_loop_is_one_pass():
    assert len(list(SkipBroken(Images()))) == 10
