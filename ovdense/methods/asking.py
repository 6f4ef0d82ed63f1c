"""Testing where every image has its own label space (OmniLabel, D3 within a scenario): ask it for nothing else."""
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmengine.model import is_model_wrapper
from mmengine.runner import TestLoop
from mmengine.runner.amp import autocast

from ovdense.methods.base import OpenVocabModel
from ovdense.structures import Vocabulary


class AskedTestLoop(TestLoop):
    """MMEngine's test loop with the vocabulary of each batch: what `dataset.asked_of_image` gives for its images.

    An image costs the chunks of its own descriptions only, and their captions hold nothing else; their text is encoded with
    each image, so VocabularyHook, which has the text of the whole data set encoded first, is better left out. The batch size
    must be 1: images of a batch share a vocabulary. An image that is asked for nothing has no detections. Labels are turned
    back to the data set's, so that metrics see no difference. Use: test_cfg = dict(type=AskedTestLoop).
    """

    def run(self) -> dict[str, float]:
        if getattr(self.dataloader, "batch_size", 1) != 1:
            raise ValueError(f"test_dataloader.batch_size must be 1 where each image has its own label space, got {self.dataloader.batch_size}")
        if not hasattr(self.dataloader.dataset, "asked_of_image"):
            raise ValueError(f"the data set must say what an image is asked for (asked_of_image), {type(self.dataloader.dataset).__name__} does not")
        return super().run()

    @torch.no_grad()
    def run_iter(self, idx: int, data_batch: dict[str, Sequence[Any]]) -> None:
        dataset, runner = self.dataloader.dataset, self.runner
        runner.call_hook("before_test_iter", batch_idx=idx, data_batch=data_batch)
        asked = dataset.asked_of_image(data_batch["targets"][0].image_id)
        with autocast(enabled=self.fp16):
            outputs = self._ask(asked, data_batch)
        self.evaluator.process(data_samples=outputs, data_batch=data_batch)
        runner.call_hook("after_test_iter", batch_idx=idx, data_batch=data_batch, outputs=outputs)

    def _model(self) -> OpenVocabModel:
        return self.runner.model.module if is_model_wrapper(self.runner.model) else self.runner.model

    def _ask(self, asked: np.ndarray, data_batch: dict[str, Sequence[Any]]) -> list[Any]:
        """Return the samples of one image, labels as in the data set."""
        dataset, model = self.dataloader.dataset, self._model()
        shown = asked if len(asked) else np.zeros(1, dtype=np.int64)  # a vocabulary is never empty: ask for one, drop all
        model.set_vocabulary(Vocabulary(tuple(dataset.vocabulary[int(k)] for k in shown)), prompt=dataset.prompt)
        for metric in self.evaluator.metrics:
            told = {k: v for k, v in model.protocol().items() if k not in ("classes", "chunks")}  # those two change with the image
            metric.conditions = told | {"asked_together": "the image's own descriptions"}
        outputs = self.runner.model.test_step(data_batch)
        for sample in outputs:
            found = sample.pred_instances
            if not len(asked):
                found = found[torch.zeros(len(found), dtype=torch.bool)]
            found.labels = torch.from_numpy(shown).to(found.labels.device)[found.labels]
            sample.pred_instances = found
        return outputs
