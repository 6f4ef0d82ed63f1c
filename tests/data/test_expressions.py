"""Expressions are asked whole, those that speak of nothing too, from the data set to the number."""
import json

import pytest
import torch
from PIL import Image

from ovdense.data.expressions import ExpressionDetection
from ovdense.data.grounding import GroundingDetection
from ovdense.data.transforms import LoadImage, PackDetection
from ovdense.evaluation.referring import ReferringMetric
from ovdense.methods.asking import CaptionTestLoop

BOX = [10, 10, 20, 20]


@pytest.fixture
def grefcoco(tmp_path):
    """gRefCOCO's ways of saying that nothing is meant: no annotation, or one of category -1."""
    Image.new("RGB", (80, 60)).save(tmp_path / "a.png")
    captions = {1: " the left cat", 2: "a dog", 3: "a zebra"}
    images = [{"id": n, "file_name": "a.png", "height": 60, "width": 80, "caption": text} for n, text in captions.items()]
    annotations = [{"id": 1, "image_id": 1, "category_id": 1, "bbox": BOX, "tokens_positive": [[5, 9]]},
                   {"id": 2, "image_id": 3, "category_id": -1, "bbox": [0, 0, 0, 0], "tokens_positive": []}]
    path = tmp_path / "grefs.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    return path


def test_dataset__asks_every_caption_whole(grefcoco):
    data = ExpressionDetection(ann_file=str(grefcoco), image_prefix=str(grefcoco.parent), transforms=[LoadImage(), PackDetection()])
    assert [data[n]["target"].image_id for n in range(len(data))] == [1, 2, 3] and len(data.vocabulary) == 1
    assert [data.phrases_of_image(n).texts for n in (1, 2, 3)] == [("the left cat",), ("a dog",), ("a zebra",)]
    assert [p.tolist() for p in data.phrases_of_image(1).boxes_xyxy] == [[[10, 10, 30, 30]]]
    assert [len(data[n]["target"].boxes_xyxy) for n in range(3)] == [1, 0, 0]
    assert len(GroundingDetection(ann_file=str(grefcoco), image_prefix=str(grefcoco.parent), filter_empty=False)) == 3, "for training too"


class Answers:
    """A model that answers whatever it is asked: 0.9 for the dog, which is not there, 0.1 for the zebra."""

    def ask(self, prompts, vocabulary):
        self.caption = prompts[0].caption

    def protocol(self):
        return {}

    def test_step(self, batch):
        from ovdense.compat.mm import to_det_data_sample
        from ovdense.structures import Results

        score = {"a dog": 0.9, "a zebra": 0.1}.get(self.caption, 0.8)
        (target,) = batch["targets"]
        return [to_det_data_sample(Results(boxes_xyxy=torch.tensor([[10.0, 10, 30, 30]]), scores=torch.tensor([score]), labels=torch.tensor([0]),
                                           names=("it",), size_hw=target.original_size_hw, image_id=target.image_id))]


def test_loop__what_is_not_there_counts_as_answered_where_it_was(grefcoco):
    data = ExpressionDetection(ann_file=str(grefcoco), image_prefix=str(grefcoco.parent), transforms=[LoadImage(), PackDetection()])
    metric = ReferringMetric(ann_file=str(grefcoco), class_names=data.vocabulary.names)
    loop = CaptionTestLoop.__new__(CaptionTestLoop)
    loop._runner = type("Runner", (), {"model": Answers()})()
    loop.dataloader = type("Loader", (), {"dataset": data, "batch_size": 1})()
    loop.evaluator = type("Evaluator", (), {"metrics": [metric]})()
    for n in range(len(data)):
        (found,) = loop._ask(data[n]["target"], {"targets": [data[n]["target"]]})
        metric.process(None, [found.to_dict()])
    got = metric.evaluate(len(data))
    assert (got["referring/N-acc"], got["referring/T-acc"], got["referring/P@1"], got["referring/F1"]) == pytest.approx((50, 100, 100, 200 / 3))
