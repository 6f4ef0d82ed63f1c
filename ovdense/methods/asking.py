"""Testing where every image is asked something of its own: its label space (OmniLabel, D3 within a scenario) or its caption (Flickr30k Entities)."""
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmengine.model import is_model_wrapper
from mmengine.runner import TestLoop
from mmengine.runner.amp import autocast

from ovdense.methods.base import OpenVocabModel
from ovdense.structures import ImageTarget, Vocabulary
from ovdense.text.caption_prompts import caption_prompt


class OwnQuestionTestLoop(TestLoop):
    """MMEngine's test loop with a question for each image: `_ask` tells the model what it is asked for and returns its samples.

    The text is encoded with each image, so VocabularyHook, which has the text of the whole data set encoded first, is better
    left out. The batch size must be 1: images of a batch share a vocabulary. An image that is asked for nothing has no
    detections. `needs` names the data set's method that says what an image is asked for.
    """

    needs: str

    def run(self) -> dict[str, float]:
        if getattr(self.dataloader, "batch_size", 1) != 1:
            raise ValueError(f"test_dataloader.batch_size must be 1 where each image has its own question, got {self.dataloader.batch_size}")
        if not hasattr(self.dataloader.dataset, self.needs):
            raise ValueError(f"the data set must say what an image is asked for ({self.needs}), {type(self.dataloader.dataset).__name__} does not")
        return super().run()

    @torch.no_grad()
    def run_iter(self, idx: int, data_batch: dict[str, Sequence[Any]]) -> None:
        runner = self.runner
        runner.call_hook("before_test_iter", batch_idx=idx, data_batch=data_batch)
        with autocast(enabled=self.fp16):
            outputs = self._ask(data_batch["targets"][0], data_batch)
        self.evaluator.process(data_samples=outputs, data_batch=data_batch)
        runner.call_hook("after_test_iter", batch_idx=idx, data_batch=data_batch, outputs=outputs)

    @abstractmethod
    def _ask(self, target: ImageTarget, data_batch: dict[str, Sequence[Any]]) -> list[Any]:
        """Return the samples of one image, labels as its metrics know them."""

    def _model(self) -> OpenVocabModel:
        return self.runner.model.module if is_model_wrapper(self.runner.model) else self.runner.model

    def _tell(self, asked_together: str, changing: Sequence[str]) -> None:
        """Tell the metrics the model's protocol without what is `changing` with the image."""
        told = {k: v for k, v in self._model().protocol().items() if k not in changing}
        for metric in self.evaluator.metrics:
            metric.conditions = told | {"asked_together": asked_together}


def _without_detections(outputs: Sequence[Any]) -> None:
    for sample in outputs:
        sample.pred_instances = sample.pred_instances[torch.zeros(len(sample.pred_instances), dtype=torch.bool)]


class AskedTestLoop(OwnQuestionTestLoop):
    """Ask each image for its own classes of the data set and nothing else: what `dataset.asked_of_image` gives for it.

    An image costs the chunks of its own descriptions only, and their captions hold nothing else. Labels are turned back to
    the data set's, so that metrics see no difference. Use: test_cfg = dict(type=AskedTestLoop).
    """

    needs = "asked_of_image"

    def _ask(self, target: ImageTarget, data_batch: dict[str, Sequence[Any]]) -> list[Any]:
        dataset, model = self.dataloader.dataset, self._model()
        asked = dataset.asked_of_image(target.image_id)
        shown = asked if len(asked) else np.zeros(1, dtype=np.int64)  # a vocabulary is never empty: ask for one, drop all
        model.set_vocabulary(Vocabulary(tuple(dataset.vocabulary[int(k)] for k in shown)), prompt=dataset.prompt)
        self._tell("the image's own descriptions", changing=("classes", "vocabulary_sha256", "chunks"))
        outputs = self.runner.model.test_step(data_batch)
        if not len(asked):
            _without_detections(outputs)
        for sample in outputs:
            found = sample.pred_instances
            found.labels = torch.from_numpy(shown).to(found.labels.device)[found.labels]
        return outputs


class CaptionTestLoop(OwnQuestionTestLoop):
    """Ask each image its own caption: label k is phrase k of `dataset.phrases_of_image`, in one caption with all the others.

    A caption over the model's token limit is an error that names the image (the published evaluation would cut it, and those
    of Flickr30k are far below 256 tokens). Use: test_cfg = dict(type=CaptionTestLoop).
    """

    needs = "phrases_of_image"

    def _ask(self, target: ImageTarget, data_batch: dict[str, Sequence[Any]]) -> list[Any]:
        phrases = self.dataloader.dataset.phrases_of_image(target.image_id)
        whole = (((0, len(phrases.caption)),),)  # a vocabulary is never empty: ask for the caption, drop all
        try:
            vocabulary, prompt = caption_prompt(phrases.caption, phrases.spans or whole)
            self._model().ask([prompt], vocabulary)
        except ValueError as error:
            raise ValueError(f"image {target.image_id} ({target.file_name}): {error}") from None
        self._tell("the phrases of the image's caption", changing=("classes", "vocabulary_sha256", "chunks", "classes_per_chunk"))
        outputs = self.runner.model.test_step(data_batch)
        if not len(phrases):
            _without_detections(outputs)
        return outputs
